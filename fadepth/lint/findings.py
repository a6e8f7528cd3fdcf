"""What a study is told: findings, by how much they matter."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from fadepth.errors import FadepthError

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing to mend or to know.

    Attributes:
        level: error: the study cannot be resolved, or its rows cannot be compared; warning: a
            reader would doubt a conclusion; note: worth knowing.
        check: what kind of thing, such as `budget`.
        file: the study file.
        study: its name.
        row: label of the row; empty where it is the whole study.
        sentence: what it is and what to do.
    """

    level: Level
    check: str
    file: str
    study: str
    row: str
    sentence: str


@dataclass(frozen=True)
class Told:
    """A finding before it is known of which study."""

    level: Level
    check: str
    row: str
    sentence: str


an_error = partial(Told, "error")
a_warning = partial(Told, "warning")
a_note = partial(Told, "note")


def not_resolved(reason: FadepthError) -> Told:
    """A study that this preset lacks something for."""
    return a_note("data", "", f"cannot be run with this preset: {reason}")
