"""What repeated measurements are told by."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest over the rounds of a benchmark."""

    median: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of some rounds, at least one."""
        return cls(statistics.median(values), min(values), max(values))
