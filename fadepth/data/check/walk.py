"""Looks at the needed files of a data set, in threads; what it keeps are counts and what is bad."""

import random
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from fadepth.data.check.report import MOST_NAMED, Broken, Group, Label, Part, runs
from fadepth.data.check.soundness import decode, look
from fadepth.data.parallel import in_order

Kind = Literal[
    "calibration", "scene files", "poses", "images", "lidar scans", "improved ground truth",
    "depth grids", "disparity maps", "camera files",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)

#: What tells one needed file from another.
Key = tuple[str, Kind, Label]

#: Images drawn to measure time and size with.
SAMPLE = 16


@dataclass(frozen=True, slots=True)
class Need:
    """One file that is needed.

    Attributes:
        group: the drive or scene it belongs to.
        kind: of file.
        label: its name within group and kind.
        paths: where it may lie; the first that is there counts.
        size: (height, width) that it must have; None if unknown.
        problem: tells what is wrong with the content, beyond what the form of a file tells.
    """

    group: str
    kind: Kind
    label: Label
    paths: tuple[Path, ...]
    size: tuple[int, int] | None = None
    problem: Callable[[Path], str | None] | None = None

    @property
    def key(self) -> Key:
        """What tells it from others."""
        return self.group, self.kind, self.label


class Found(NamedTuple):
    """What became of a need; `path` is None if it is absent."""

    need: Need
    path: Path | None
    size: int = 0
    reason: str | None = None


@dataclass
class _Tally:
    needed: int = 0
    missing: list[Label] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    def part(self, kind: str) -> Part:
        names = runs(self.missing)
        if (more := len(names) - MOST_NAMED) > 0:
            names[MOST_NAMED:] = [f"and {more} more"]
        return Part(kind, self.needed, self.needed - len(self.missing), names, self.broken)


class Walked:
    """What a walk found; of a file that is there and sound only counts are kept.

    Attributes:
        root: folder that the paths of broken files are told below.
        bad: keys of all files that are missing or broken.
        used: bytes of the files that are there.
        sample: up to `SAMPLE` of the sound images, each as likely as the others.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bad: set[Key] = set()
        self.used = 0
        self.sample: list[Path] = []
        self._images = 0
        self._draw = random.Random(0)
        self._tallies: dict[str, dict[Kind, _Tally]] = {}

    def add(self, found: Found) -> None:
        """Count a file."""
        need = found.need
        tally = self._tallies.setdefault(need.group, {}).setdefault(need.kind, _Tally())
        tally.needed += 1
        self.used += found.size
        if found.path is None:
            tally.missing.append(need.label)
            self.bad.add(need.key)
        elif found.reason is not None:
            tally.broken.append(Broken(_below(self.root, found.path), found.reason))
            self.bad.add(need.key)
        elif need.kind == "images":
            self._offer(found.path)

    def _offer(self, image: Path) -> None:
        self._images += 1
        if len(self.sample) < SAMPLE:
            self.sample.append(image)
        elif (place := self._draw.randrange(self._images)) < SAMPLE:
            self.sample[place] = image

    @property
    def groups(self) -> list[Group]:
        """All groups, in the order in which their first files came."""
        return [
            Group(name, [tally.part(kind) for kind, tally in parts.items()])
            for name, parts in self._tallies.items()
        ]

    def bad_groups(self, *kinds: Kind) -> list[str]:
        """Names of the groups that lack sound files of these kinds, sorted."""
        return sorted({group for group, kind, _ in self.bad if kind in kinds})


def inspect(need: Need, *, decoded: bool = False) -> Found:
    """Find a needed file and look at it; with `decoded` read all of it."""
    try:
        path = next((path for path in need.paths if path.is_file()), None)
    except OSError as error:  # a folder on the way that may not be entered
        return Found(need, need.paths[0], reason=f"cannot be read ({error.strerror or error})")
    if path is None:
        return Found(need, None)
    reason = look(path)
    if reason is None and need.problem is not None:
        reason = need.problem(path)
    if reason is None and decoded:
        reason = decode(path, need.kind, need.size)
    try:
        size = path.stat().st_size
    except OSError:  # removed while we looked
        size = 0
    return Found(need, path, size, reason)


def walk(
    needs: Iterable[Need],
    root: Path,
    *,
    decoded: bool = False,
    workers: int = 1,
    tell: Callable[[], None] = lambda: None,
) -> Walked:
    """Inspect all needed files in threads; `tell` is called after each."""
    walked = Walked(root)
    with closing(in_order(needs, partial(inspect, decoded=decoded), workers)) as results:
        for found in results:
            walked.add(found)
            tell()
    return walked


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
