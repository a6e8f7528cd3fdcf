"""What a prediction is asked for, and `predictions.json`: what made the files of a folder.

A file is known by its input and by the settings of all that lie with it, so that an interrupted
call can go on and nothing of other settings gets among the rest.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fadepth import __version__
from fadepth.data.kitti import Intrinsics
from fadepth.data.video import VIDEO_SUFFIXES
from fadepth.errors import FadepthError
from fadepth.execution.trained import Trained
from fadepth.files import json_object, write_atomic
from fadepth.provenance import environment, git_state

Save = Literal["disparity", "depth", "npy", "video"]
SAVES: tuple[Save, ...] = get_args(Save)
RECORD = "predictions.json"

#: Ends of the colours, far and near, 1/metres up to scale.
Colours = tuple[float, float]

#: What the files hold; stands in the record.
NUMBERS = {
    "NAME_disparity.png": "colours of inverse depth, for looking at: bright is near",
    "NAME_depth.png": "uint16: metres * 256 as in KITTI's depth maps, 0 where there is no value",
    "NAME.npy": "float32 (H, W): depth in metres",
    "NAME.ply": "points with colours, metres: x right, y down, z forward of the camera",
    "NAME_disparity.mp4": "the video above (or beside) its inverse depth in colours",
    "metres": "up to one factor that a network trained on video alone cannot know; `factor` is "
    "what its depth was multiplied by",
}


@dataclass(frozen=True)
class Wish:
    """What is to be predicted, and written.

    Attributes:
        source: an image, a folder of images, or a video.
        output: folder to write to.
        save: what to write of each image; `video` is for videos alone.
        size: (H, W) to feed the network with; None: that of its training.
        factor: depth is multiplied by it.
        intrinsics: (fx, fy, cx, cy) in pixels of the images, for points; None: no points.
        overwrite: make again what is there.
        threads: CPU threads to read and write with, beside the network's.
    """

    source: Path
    output: Path
    save: frozenset[Save]
    size: tuple[int, int] | None = None
    factor: float = 1.0
    intrinsics: Intrinsics | None = None
    overwrite: bool = False
    threads: int = 1

    @property
    def is_video(self) -> bool:
        """Whether the source is called like a video."""
        return self.source.suffix.lower() in VIDEO_SUFFIXES and not self.source.is_dir()

    def files(self, name: str) -> list[Path]:
        """What is written of one image."""
        endings = {"disparity": "_disparity.png", "depth": "_depth.png", "npy": ".npy"}
        wanted = [ending for save, ending in endings.items() if save in self.save]
        wanted += [".ply"] if self.intrinsics else []
        return [self.output / f"{name}{ending}" for ending in wanted]

    @property
    def video(self) -> Path | None:
        """The video that is written."""
        name = f"{self.source.stem}_disparity.mp4"
        return self.output / name if self.is_video and "video" in self.save else None


class Record:
    """`predictions.json` of a folder: what made the files in it, and from which inputs."""

    def __init__(self, wish: Wish, trained: Trained, size: tuple[int, int]) -> None:
        self.wish = wish
        self.path = wish.output / RECORD
        commit, dirty = git_state(Path(__file__).parent)
        self.content: dict[str, Any] = {
            "network": trained.facts,
            "label": trained.label,
            "size": list(size),
            "factor": wish.factor,
            "intrinsics": list(wish.intrinsics) if wish.intrinsics else None,
            "numbers": NUMBERS,
            "fadepth": __version__,
            "commit": commit,
            "dirty": dirty,
            "environment": environment(wish.threads),
            "inputs": {},
            "images": {},
        }
        old = json_object(self.path)
        if old and not (differing := self._differing(old)):
            for key in ("inputs", "images"):
                self.content[key] = old.get(key) or {}
            self.content["intrinsics"] = self.content["intrinsics"] or old.get("intrinsics")
        elif old and not wish.overwrite:
            raise FadepthError(
                f"{wish.output} holds predictions of {differing}: choose another folder by "
                "--output, or replace them by --overwrite"
            )

    def _differing(self, old: Mapping[str, Any]) -> str:
        """The first setting that an older record has otherwise, for people; empty where none."""

        def digest(content: Mapping[str, Any]) -> Any:
            return (content.get("network") or {}).get("model_sha256")

        if digest(old) != digest(self.content):
            known = (old.get("network") or {}).get("run") or "unknown"
            return f"another network ({known})"
        for key, what in (("size", "another size"), ("factor", "another --scale")):
            if old.get(key) != self.content[key]:
                return f"{what} ({old.get(key)}, now {self.content[key]})"
        camera, now = old.get("intrinsics"), self.content["intrinsics"]
        if camera and now and camera != now:
            return f"other --intrinsics ({camera})"
        return ""

    def claim(self, photos: Mapping[str, Path]) -> None:
        """Note which input is behind each name: `photos`, or the video.

        Raises:
            FadepthError: files of that name are there, from another input or an unknown one.
        """
        wish = self.wish
        files = {name: wish.files(name) for name in photos}
        if wish.is_video:
            photos = {wish.source.name: wish.source}
            first = wish.files(f"{wish.source.stem}_{0:06d}")
            files = {wish.source.name: [*first, *([wish.video] if wish.video else [])]}
        images = self.content["images"]
        for name, path in photos.items():
            source = str(path.resolve())
            there = next((file for file in files[name] if file.exists()), None)
            if there and not wish.overwrite and images.get(name) != source:
                raise FadepthError(
                    f"{there} is there already, from {images.get(name, 'elsewhere')}: choose "
                    "another folder by --output, or replace it by --overwrite"
                )
            images[name] = source

    def _entry(self) -> dict[str, Any]:
        """What is noted of this input."""
        entry: dict[str, Any] = self.content["inputs"].setdefault(
            str(self.wish.source.resolve()), {}
        )
        return entry

    def colours(self) -> Colours | None:
        """Ends of the colours of an earlier call with the same input."""
        ends = self._entry().get("colours")
        if self.wish.overwrite or not isinstance(ends, list) or not all(map(_is_number, ends)):
            return None
        return (float(ends[0]), float(ends[1])) if len(ends) == 2 else None

    def begin(self, colours: Colours | None) -> None:
        """Write it before the first file, so that an interrupted call can go on."""
        entry = self._entry()
        entry |= {"colours": list(colours) if colours else None, "complete": False}
        self._write()

    def end(self, unreadable: Sequence[str]) -> None:
        """Note that all is done, and what was not readable."""
        entry = self._entry()
        entry |= {"complete": True, "unreadable": list(unreadable)}
        self._write()

    def unreadable(self) -> list[str]:
        """What an earlier call with the same input could not read."""
        told = self._entry().get("unreadable")
        return [str(sentence) for sentence in told] if isinstance(told, list) else []

    def _write(self) -> None:
        write_atomic(self.path, json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
