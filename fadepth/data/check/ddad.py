"""DDAD: the scenes of its list, with images of the chosen cameras, scans and calibration."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from fadepth.data import archives
from fadepth.data.archives import Archive
from fadepth.data.check.inventory import Images, check_folder
from fadepth.data.check.report import Total
from fadepth.data.check.soundness import reason_of
from fadepth.data.check.walk import Need, Walked
from fadepth.data.ddad import TRAINING, VALIDATION, DdadScene, read_scene_list
from fadepth.errors import FadepthError
from fadepth.paths import require_below

#: Split -> (scenes, samples) of the data set (https://github.com/TRI-ML/DDAD, `README.md`).
PUBLISHED = {"train": (150, 12_650), "val": (50, 3_950)}
_SPLITS = {"train": TRAINING, "val": VALIDATION}


class DdadInventory:
    """DDAD as its scene list asks for it.

    Args:
        root: holds the scenes' folders.
        scene_list: None for `ddad.json` in the root.
        cameras: whose images are needed; case does not matter.
        size: (height, width) of the training images, for the estimate.

    Raises:
        FadepthError: the root is no folder, or the scene list is absent or damaged.
    """

    dataset = "ddad"
    #: Not known before all scenes are read.
    count = None

    def __init__(
        self,
        root: Path,
        scene_list: Path | None,
        cameras: Sequence[str],
        size: tuple[int, int],
    ) -> None:
        check_folder(root, "000000 and so on")
        self.root = root
        self.size = size
        self._cameras = cameras
        self._wanted = {camera.lower() for camera in cameras}
        self._samples = dict.fromkeys(_SPLITS, 0)
        self._blind = dict.fromkeys(_SPLITS, 0)
        self._missing_list = scene_list is None and not (root / "ddad.json").exists()
        self._scenes: dict[str, list[str]] = {split: [] for split in _SPLITS}
        if not self._missing_list:
            path = scene_list or root / "ddad.json"
            listed = read_scene_list(path)
            self._scenes = {
                split: [require_below(name, path, "scene_splits") for name in listed[key]]
                for split, key in _SPLITS.items()
            }

    def needs(self) -> Iterator[Need]:
        """Per scene its file and calibration, images and scans."""
        if self._missing_list:
            yield Need("(list)", "scene files", "ddad.json", (self.root / "ddad.json",))
        for split, scenes in self._scenes.items():
            for name in scenes:
                yield from self._scene(split, name)

    def _scene(self, split: str, name: str) -> Iterator[Need]:
        path = self.root / name
        try:
            scene = DdadScene(path)
            # Samples mostly share a calibration; it is there once for each.
            description = list(dict.fromkeys([path, *scene.description]))
            for file in description:
                require_below(file.relative_to(self.root).as_posix(), path, "a calibration_key")
            samples = [self._sample(scene, sample) for sample in scene.samples]
            sentence = self._sentence(scene)
        except FadepthError as error:
            description, samples, sentence = [path], [], str(error)
        except OSError:  # told of the file itself
            description, samples, sentence = [path], [], ""
        except (KeyError, TypeError, ValueError):
            description, samples, sentence = [path], [], f"{path} is not as DGP writes it"
        for file in description:
            problem = partial(_told, sentence=sentence)
            label = file.relative_to(path.parent).as_posix()
            yield Need(_group(name), "scene files", label, (file,), problem=problem)
        self._samples[split] += len(samples)
        for needs in samples:
            self._blind[split] += all(need.kind != "lidar scans" for need in needs)
            yield from needs

    def _sample(self, scene: DdadScene, sample: dict[str, dict[str, Any]]) -> list[Need]:
        """What a sample needs: images of the cameras, and the scan that depth is made from."""
        group = _group(scene.path.relative_to(self.root).as_posix())
        needs = []
        for sensor, datum in sample.items():
            if "image" in datum and sensor.lower() in self._wanted:
                image = datum["image"]
                size = (int(image["height"]), int(image["width"]))
                path = scene.folder / require_below(image["filename"], scene.path, "an image")
                needs.append(Need(group, "images", image["filename"], (path,), size))
        scan = next((d["point_cloud"] for d in sample.values() if "point_cloud" in d), None)
        if scan is not None:
            path = scene.folder / require_below(scan["filename"], scene.path, "a point_cloud")
            needs.append(Need(group, "lidar scans", scan["filename"], (path,)))
        return needs

    def _sentence(self, scene: DdadScene) -> str:
        """What reading the frames of all cameras fails with; empty if it does not."""
        for camera in self._cameras:
            try:
                scene.frames(camera)
            except FadepthError as error:
                return str(error)
        return ""

    def totals(self, walked: Walked) -> list[Total]:
        """Per split its scenes."""
        bad = {group for group, _, _ in walked.bad}
        return [
            Total(split, None, {"scenes": (sum(_group(s) not in bad for s in scenes), len(scenes))})
            for split, scenes in self._scenes.items()
            if scenes
        ]

    def archives(self, walked: Walked) -> set[Archive]:
        """The one archive that there is."""
        return {archives.ddad(self.root)} if walked.bad else set()

    def notes(self, walked: Walked) -> list[str]:
        """How the numbers compare with the published ones."""
        if self._missing_list:
            nested = sorted(self.root.glob("*/ddad.json"))
            if nested:
                return [f"ddad.json lies in {nested[0].parent}: name that as --root"]
            return [
                f"without {self.root / 'ddad.json'} nobody knows which scenes are needed; --splits "
                "names another scene list"
            ]
        notes = []
        for split, (scenes, samples) in PUBLISHED.items():
            listed, found = len(self._scenes[split]), self._samples[split]
            if (listed, found) != (scenes, samples):
                notes.append(
                    f"{split}: {listed:,} of the published {scenes:,} scenes are listed, "
                    f"{found:,} of {samples:,} samples can be read"
                )
            if self._blind[split]:
                notes.append(f"{split}: samples without a lidar scan: {self._blind[split]}")
        return notes

    def images(self) -> Images:
        """Nothing is copied; a cache holds the training images."""
        return Images(0, self._samples["train"] * len(self._wanted), self.size)


def _group(name: str) -> str:
    """The folder of a scene file, as the list names it."""
    return PurePosixPath(name).parent.as_posix()


def _told(path: Path, sentence: str) -> str | None:
    """What an error says about `path`; None if it is about another file."""
    return reason_of(FadepthError(sentence), path) if str(path) in sentence else None
