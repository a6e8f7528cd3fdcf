"""Paths that stand in files: lists, manifests and studies may not lead out of their folder.

Only the text of a path is judged, never what it resolves to: data sets are often put together from
symbolic links, and where a link of the user's own leads is the user's business. Who writes a list
cannot make links; `..` and a leading slash are all that they have.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fadepth.config import merge
from fadepth.errors import FadepthError

#: Last parts of the settings that name a file or folder (`loss.ego_mask`, `benchmarks.*.root`).
PATH_SETTINGS = frozenset(
    {"root", "raw_root", "splits", "frames", "preset", "protocol", "ego_mask", "encoder_weights"}
)


def leads_out(path: str) -> bool:
    """Whether a path, seen from a folder, is not plainly below it: absolute, or with `..`."""
    # Manifests hold a million paths: the second test is dear, and mostly spared.
    dots = ".." in path and ".." in path.split("/")
    return dots or path.startswith("/") or "\0" in path


def require_below(path: str, file: Path, what: str) -> str:
    """Return `path`, an entry of `file`, if it stays below the folder that it is seen from.

    Args:
        path: as it stands in the file, with `/`.
        file: that names it.
        what: where in the file it stands, such as `line 3`.

    Raises:
        FadepthError: it leads out.
    """
    if leads_out(path):
        raise FadepthError(
            f"{file} names {path[:80]!r} ({what}), which is not below the data's folder: correct "
            "the entry to a relative path without '..'"
        )
    return path


def study_path_checked(path: str) -> str:
    """Return a path of a study if what its author wrote of it stays below the working folder.

    A study is something that one downloads. `${NAME}` is the user's own word and may lead
    anywhere; the default in `${NAME:-default}` is the author's.

    Raises:
        ValueError: it leads out; for validators, which name the key and the file.
    """
    written = re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda m: m[1] if m[2] is None else m[2], path)
    if leads_out(written):
        raise ValueError(
            f"the path {path[:80]!r} leads out of the working folder: expected one below it, or "
            "${NAME}/... with an environment variable that you set"
        )
    return path


def study_settings_checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Return overrides of a study, nested or dotted, if all paths among them may stand there.

    Raises:
        ValueError: as `study_path_checked`, with the setting's name.
    """
    for key, value in _leaves(merge({}, settings)):
        if key.rpartition(".")[2] in PATH_SETTINGS and isinstance(value, str):
            try:
                study_path_checked(value)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
    return settings


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
