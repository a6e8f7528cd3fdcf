"""What a data set has to tell to be checked, and the check."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from fadepth.data.archives import Archive
from fadepth.data.check.report import Report, Total
from fadepth.data.check.space import measure
from fadepth.data.check.walk import Need, Walked, walk
from fadepth.errors import FadepthError


class Images(NamedTuple):
    """Images of a data set that is trained on, for the estimates of disk and time.

    Attributes:
        copied: those that `fadepth data prepare` would copy; 0 if it does not know the data set.
        cached: those of training, which a cache would hold.
        size: (height, width) at which.
    """

    copied: int
    cached: int
    size: tuple[int, int]


class Inventory(Protocol):
    """The files that a data set needs, and what their absence means."""

    dataset: str
    root: Path

    @property
    def count(self) -> int | None:
        """About how many files are needed, for a progress bar; None if nobody knows yet."""

    def needs(self) -> Iterator[Need]:
        """Every needed file, once."""

    def totals(self, walked: Walked) -> list[Total]:
        """What lists or splits ask for, and how much of it is there."""

    def archives(self, walked: Walked) -> set[Archive]:
        """What to download for what is missing or broken."""

    def notes(self, walked: Walked) -> list[str]:
        """What else has to be said, a sentence each."""

    def images(self) -> Images | None:
        """Images of training; None if nobody trains on the data set. Asked after the walk."""


def check_folder(root: Path, holds: str) -> None:
    """Do nothing if the root is a folder.

    Raises:
        FadepthError: it is not; `holds` tells by what to know the right one.
    """
    if not root.is_dir():
        raise FadepthError(f"{root} is no folder: --root has to name the one that holds {holds}")


def check_data(
    inventory: Inventory,
    *,
    decoded: bool = False,
    workers: int = 1,
    tell: Callable[[], None] = lambda: None,
) -> Report:
    """Look at every needed file and report; nothing is written.

    Args:
        inventory: the data set.
        decoded: read all files to their end, instead of looking at size, start and end.
        workers: threads.
        tell: called after each file.

    Raises:
        FadepthError: a list of the data set is damaged.
    """
    walked = walk(inventory.needs(), inventory.root, decoded=decoded, workers=workers, tell=tell)
    return Report(
        dataset=inventory.dataset,
        root=str(inventory.root),
        decoded=decoded,
        totals=inventory.totals(walked),
        groups=walked.groups,
        archives=sorted(inventory.archives(walked)),
        space=measure(inventory.root, walked, inventory.images(), workers),
        notes=inventory.notes(walked),
    )
