"""Have the files behind a manifest changed since they were checked?

A training trusts its manifest, and Snakemake watches the manifest, but nobody opens forty thousand
images to plan a study. So what the file system tells of each file is noted beside the manifest when
it is checked. A plan compares these notes, which takes a fraction of a second, and hashes the few
files whose notes differ: a touched or copied file is the same file, another image is not.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from fadepth.data.manifest import Manifest, short_hash
from fadepth.errors import FadepthError
from fadepth.files import file_digest, readable_bytes, write_atomic

#: Bytes that a plan may hash, about a second; beyond, `fadepth data verify` does it.
MOST_HASHED = 256 * 10**6


def notes_path(manifest: Path) -> Path:
    """Where the notes of a manifest lie."""
    return manifest.with_suffix(".files.json")


def note_files(manifest: Manifest, path: Path, root: Path, began: float, generation: str) -> None:
    """Note the state of every file of a manifest that has just been made.

    Args:
        manifest: the content of `path`.
        path: the manifest's file; the notes lie beside it.
        root: folder of the data.
        began: time.time() before the first file was hashed.
        generation: of the data (`data_generation`) at that moment.
    """
    files: dict[str, Any] = {}
    for name, digest in manifest.files.items():
        size, modified = _state(root / name) or (0, 0)
        # What was written since may not be what was hashed: no time, so that it is hashed again.
        files[name] = [size, modified if modified < (began - 1) * 1e9 else 0, digest]
    _write({"generation": generation, "files": files}, path)


def data_generation(manifest: Path, root: Path) -> str:
    """A word that is another one after each change of the files; empty before the first.

    Snakemake compares it with that of the manifest's last making. It comes from the notes and not
    from the manifest, which Snakemake deletes before it is made anew.

    Raises:
        FadepthError: more would have to be hashed than a plan may take time for.
    """
    notes = _read(manifest)
    generation, changed = notes["generation"], _changed(notes, manifest, root, MOST_HASHED)
    return short_hash(json.dumps([generation, changed]).encode()) if changed else generation


def changed_files(manifest: Path, root: Path, most: int | None = MOST_HASHED) -> dict[str, str]:
    """Files below `root` that are not what was checked, with their digests; "" for absent ones.

    Nothing is known, and nothing is told, where there is no note or no such folder: tables can be
    made where the data are not.

    Args:
        manifest: path of the manifest, whose notes are read.
        root: folder of the data.
        most: bytes that may be hashed; None: as many as it takes.

    Raises:
        FadepthError: more would have to be hashed than a plan may take time for.
    """
    return _changed(_read(manifest), manifest, root, most)


def _changed(notes: dict[str, Any], manifest: Path, root: Path, most: int | None) -> dict[str, str]:
    files, other = notes["files"], notes["other"]
    if not files or not root.is_dir():
        return {}
    states = {name: _state(root / name) for name in files}
    moved = {n: s for n, s in states.items() if s is not None and [*s] != files[n][:2]}
    # What was hashed before and is another file is known, too: it is not read at each plan.
    suspects = {n: s for n, s in moved.items() if [*s] != other.get(n, [])[:2]}
    _refuse_too_many(suspects, manifest, root, most)
    for name, state in suspects.items():
        other.pop(name, None)
        digest = file_digest(root / name)
        note = files if digest == files[name][2] else other
        note[name] = [*state, digest]
    if suspects:
        # The note only saves time: a plan may be made where nothing can be written.
        with suppress(OSError):
            _write(notes, manifest)
    changed = {name: "" for name, state in states.items() if state is None}
    changed |= {name: other[name][2] for name in moved if name in other}
    return dict(sorted(changed.items()))


def has_notes(manifest: Path) -> bool:
    """Whether the files of a manifest are watched at all."""
    return bool(_read(manifest)["files"])


def _refuse_too_many(
    suspects: dict[str, tuple[int, int]], manifest: Path, root: Path, most: int | None
) -> None:
    size = sum(size for size, _ in suspects.values())
    if most is not None and size > most:
        raise FadepthError(
            f"{len(suspects)} files ({readable_bytes(size)}) in {root} have other times than when "
            f"{manifest} was made, as after copying: call 'fadepth data verify {manifest}' once, "
            "which reads them and tells whether they are the same"
        )


def _read(manifest: Path) -> dict[str, Any]:
    try:
        content = json.loads(notes_path(manifest).read_bytes())
        other = content.get("other", {})
        return {"generation": content["generation"], "files": content["files"], "other": other}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"generation": "", "files": {}, "other": {}}


def _write(notes: dict[str, Any], manifest: Path) -> None:
    write_atomic(notes_path(manifest), json.dumps(notes, separators=(",", ":")) + "\n")


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
