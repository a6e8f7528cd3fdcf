"""Make3D's test set: pairs of a photograph and a laser grid, by name."""

from collections.abc import Iterator
from pathlib import Path

from fadepth.data import archives
from fadepth.data.archives import Archive
from fadepth.data.check.inventory import Images, check_folder
from fadepth.data.check.report import Total
from fadepth.data.check.walk import Need, Walked
from fadepth.data.make3d import (
    DEPTH_FOLDERS,
    DEPTH_PREFIX,
    IMAGE_FOLDERS,
    IMAGE_PREFIX,
    IMAGE_SIZE,
    TEST_FRAMES,
)

_GROUP = "test set"


class Make3dInventory:
    """All pairs of which at least one file is there.

    Args:
        root: holds Test134/ and Gridlaserdata/, or what else the reader accepts.

    Raises:
        FadepthError: the root is no folder.
    """

    dataset = "make3d"

    def __init__(self, root: Path) -> None:
        check_folder(root, "Test134/ and Gridlaserdata/")
        self.root = root
        self._images = _folder(root, IMAGE_FOLDERS, f"{IMAGE_PREFIX}*.jpg")
        self._depths = _folder(root, DEPTH_FOLDERS, f"{DEPTH_PREFIX}*.mat")
        images = {path.stem.removeprefix(IMAGE_PREFIX) for path in self._images.glob("img-*.jpg")}
        depths = {path.stem.removeprefix(DEPTH_PREFIX) for path in self._depths.glob("*.mat")}
        self._names = sorted(images | depths)
        self._unnamed = max(TEST_FRAMES - len(self._names), 0)
        self.count = 2 * (len(self._names) + self._unnamed)

    def needs(self) -> Iterator[Need]:
        """Both files of every pair; pairs of which nothing is there have no name."""
        for name in self._names:
            image = self._images / f"{IMAGE_PREFIX}{name}.jpg"
            yield Need(_GROUP, "images", image.name, (image,), IMAGE_SIZE)
            depth = self._depths / f"{DEPTH_PREFIX}{name}.mat"
            yield Need(_GROUP, "depth grids", depth.name, (depth,))

        for number in range(1, self._unnamed + 1):
            yield Need(_GROUP, "images", ("unnamed", number), ())
            yield Need(_GROUP, "depth grids", ("unnamed", number), ())

    def totals(self, walked: Walked) -> list[Total]:
        """Sound pairs of the published 134."""
        bad = {
            Path(label).stem.removeprefix(IMAGE_PREFIX).removeprefix(DEPTH_PREFIX)
            for _, _, label in walked.bad
            if isinstance(label, str)
        }
        return [Total("test", None, {"pairs": (len(self._names) - len(bad), TEST_FRAMES)})]

    def archives(self, walked: Walked) -> set[Archive]:
        """Either, or both."""
        found = set()
        if walked.bad_groups("images"):
            found.add(archives.make3d_images(self.root))
        if walked.bad_groups("depth grids"):
            found.add(archives.make3d_depth(self.root))
        return found

    def notes(self, walked: Walked) -> list[str]:
        """A number that is not the published one."""
        if len(self._names) == TEST_FRAMES:
            return []
        return [
            f"files of {len(self._names)} pairs were found, Make3D's test set has {TEST_FRAMES}; "
            "those of which nothing is there are called unnamed"
        ]

    def images(self) -> Images | None:
        """Nobody trains on it."""
        return None


def _folder(root: Path, choices: tuple[str, ...], pattern: str) -> Path:
    """The first folder with a file that fits, else the first choice."""
    return next(
        (root / choice for choice in choices if any((root / choice).glob(pattern))),
        root / choices[0],
    )
