"""A split of Cityscapes: images, disparity maps and camera files, by name."""

from collections.abc import Iterator
from pathlib import Path

from fadepth.data import archives
from fadepth.data.archives import Archive
from fadepth.data.check.inventory import Images, check_folder
from fadepth.data.check.report import Total
from fadepth.data.check.soundness import reason_of
from fadepth.data.check.walk import Kind, Need, Walked
from fadepth.data.cityscapes import IMAGE_SIZE, SPLIT_FRAMES, read_camera
from fadepth.errors import FadepthError

#: Folder -> kind of file, and how its names end.
FOLDERS: dict[str, tuple[Kind, str]] = {
    "leftImg8bit": ("images", "_leftImg8bit.png"),
    "disparity": ("disparity maps", "_disparity.png"),
    "camera": ("camera files", "_camera.json"),
}


class CityscapesInventory:
    """All frames of a split of which at least one file is there.

    Args:
        root: holds leftImg8bit/, disparity/ and camera/.
        split: `train`, `val` or `test`.

    Raises:
        FadepthError: the root is no folder, or the split is none of these.
    """

    dataset = "cityscapes"

    def __init__(self, root: Path, split: str = "test") -> None:
        check_folder(root, "leftImg8bit/, disparity/ and camera/")
        if split not in ("train", "val", "test"):
            raise FadepthError(f"Cityscapes has no split '{split}': use train, val or test")
        self.root = root
        self._split = split
        self._folders = {folder: self._find(folder) for folder in FOLDERS}
        self._names = sorted(
            {
                (path.parent.name, path.name.removesuffix(end))
                for folder, (_, end) in FOLDERS.items()
                for path in self._folders[folder].glob(f"*/*{end}")
            }
        )
        self._unnamed = max(SPLIT_FRAMES[split] - len(self._names), 0)
        self.count = len(FOLDERS) * (len(self._names) + self._unnamed)

    def _find(self, folder: str) -> Path:
        """The folder of a kind's split; its archive may have been unpacked to one of its own."""
        plain = self.root / folder / self._split
        own = self.root / f"{folder}_trainvaltest" / folder / self._split
        return own if own.is_dir() and not plain.is_dir() else plain

    def needs(self) -> Iterator[Need]:
        """All three files of every frame; frames of which nothing is there have no name."""
        for city, name in self._names:
            for folder, (kind, end) in FOLDERS.items():
                path = self._folders[folder] / city / f"{name}{end}"
                size = None if kind == "camera files" else IMAGE_SIZE
                problem = camera_problem if kind == "camera files" else None
                yield Need(city, kind, name, (path,), size, problem)

        for number in range(1, self._unnamed + 1):
            for kind, _ in FOLDERS.values():
                yield Need("(any city)", kind, ("unnamed", number), ())

    def totals(self, walked: Walked) -> list[Total]:
        """Whole frames of the published number."""
        bad = {label for _, _, label in walked.bad if isinstance(label, str)}
        sound = len(self._names) - len(bad)
        return [Total(self._split, None, {"frames": (sound, SPLIT_FRAMES[self._split])})]

    def archives(self, walked: Walked) -> set[Archive]:
        """The kinds that lack something."""
        return {
            archives.cityscapes(self.root, folder)
            for folder, (kind, _) in FOLDERS.items()
            if walked.bad_groups(kind)
        }

    def notes(self, walked: Walked) -> list[str]:
        """A number that is not the published one."""
        published = SPLIT_FRAMES[self._split]
        if len(self._names) == published:
            return []
        return [
            f"files of {len(self._names):,} frames were found, split {self._split} of Cityscapes "
            f"has {published:,}; those of which nothing is there are called unnamed"
        ]

    def images(self) -> Images | None:
        """Nobody trains on it."""
        return None


def camera_problem(path: Path) -> str | None:
    """What is wrong with a camera file; None if nothing."""
    try:
        read_camera(path)
    except FadepthError as error:
        return reason_of(error, path)
    return None
