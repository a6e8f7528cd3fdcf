"""What a check found, as plain data: for the table of the command line and for JSON."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from fadepth.data.archives import Archive

#: A file's name for people: its own, or a folder and a number that can be drawn together.
Label = str | tuple[str, int]

#: Runs of missing files that a part names; the counts are always those of all files.
MOST_NAMED = 20


@dataclass(frozen=True)
class Broken:
    """A file that is there and of no use: its path below the root, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Part:
    """One kind of files within a group.

    Attributes:
        kind: such as `images`.
        needed, present: files; broken ones are present.
        missing: the absent ones by name, numbers in a row drawn together; the first `MOST_NAMED`
            runs, then how many more there are.
        broken: all that are present and of no use.
    """

    kind: str
    needed: int
    present: int
    missing: list[str]
    broken: list[Broken]

    @property
    def complete(self) -> bool:
        """Whether all are there and none is broken."""
        return self.present == self.needed and not self.broken


@dataclass(frozen=True)
class Group:
    """Files that belong together: a drive, the calibration of a day, a scene, a city."""

    name: str
    parts: list[Part]

    @property
    def complete(self) -> bool:
        """Whether all parts are."""
        return all(part.complete for part in self.parts)


@dataclass(frozen=True)
class Total:
    """What a list or split asks for, all groups together.

    Attributes:
        name: of the list or split.
        published: which published list it is; None for others.
        counts: what -> (there and sound, needed).
    """

    name: str
    published: str | None
    counts: dict[str, tuple[int, int]]

    @property
    def complete(self) -> bool:
        """Whether nothing lacks."""
        return all(sound >= needed for sound, needed in self.counts.values())


@dataclass(frozen=True)
class Space:
    """Disk and time, in bytes and seconds; None where it does not apply or nothing was measured.

    Attributes:
        used: by the needed files that are there.
        free: on the disk of the root.
        images: of all lists, which `fadepth data prepare` copies.
        copy: size of that copy's images, from `sample` images.
        copy_seconds: for making it with `workers` threads, from the same; None if all of them are
            JPEG, which are taken over as they are.
        cached_images: of training, which a cache holds.
        size: (height, width) of the cached images.
        cache: size of that cache.
        cache_seconds: for making it with `workers` threads.
        sample: images that were decoded to measure.
        workers: threads.
    """

    used: int
    free: int
    images: int = 0
    copy: int | None = None
    copy_seconds: float | None = None
    cached_images: int = 0
    size: tuple[int, int] | None = None
    cache: int | None = None
    cache_seconds: float | None = None
    sample: int = 0
    workers: int = 1


@dataclass(frozen=True)
class Report:
    """All that a check found; `decoded` tells whether files were read to their end."""

    dataset: str
    root: str
    decoded: bool
    totals: list[Total]
    groups: list[Group]
    archives: list[Archive]
    space: Space
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the data set can be used as it is."""
        return all(total.complete for total in self.totals) and all(
            group.complete for group in self.groups
        )

    @property
    def missing(self) -> int:
        """Absent files in all."""
        return sum(part.needed - part.present for part in self._parts())

    @property
    def broken(self) -> list[Broken]:
        """Broken files in all."""
        return [broken for part in self._parts() for broken in part.broken]

    def as_json(self) -> dict[str, Any]:
        """All of it, with the verdict."""
        verdict = {
            "complete": self.complete, "missing": self.missing, "broken": len(self.broken),
        }  # fmt: skip
        return {**verdict, **asdict(self)}

    def _parts(self) -> Iterator[Part]:
        for group in self.groups:
            yield from group.parts


def runs(labels: Iterable[Label]) -> list[str]:
    """Names in order, numbers in a row drawn together: `image_02 3-5`, `image_02 9`, `a.txt`."""
    numbered: dict[str, set[int]] = {}
    names = set()
    for label in labels:
        if isinstance(label, str):
            names.add(label)
        else:
            numbered.setdefault(label[0], set()).add(label[1])
    result = []
    for series in sorted(numbered):
        # Numbers in a row have the same distance to their position.
        for _, run in groupby(enumerate(sorted(numbered[series])), lambda pair: pair[1] - pair[0]):
            numbers = [number for _, number in run]
            end = f"-{numbers[-1]}" if len(numbers) > 1 else ""
            result.append(f"{series} {numbers[0]}{end}")
    return result + sorted(names)
