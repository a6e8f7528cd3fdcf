"""What `fadepth gc` does: find what no study asks for any more, and delete it.

A run's folder is free when no study asks for its id under any preset of `config/` and the one that
is given. A preset whose studies cannot be resolved (its data are not there) gives no ids: then all
runs of its scale and data set stay.
"""

import fcntl
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from fadepth.config import Config, load_yaml, merge, parse_config
from fadepth.errors import FadepthError
from fadepth.execution.plan.disk import bytes_of
from fadepth.execution.plan.progress import is_alive
from fadepth.files import json_object
from fadepth.run import Run
from fadepth.study import resolve_and_leave_out, unique_runs
from fadepth.study_file import load_study_file

_RUN_ID = re.compile(r"[a-z0-9_]+-s\d+-[0-9a-f]{10}")
_DATA = re.compile(r".+-[0-9a-f]{10}")
_CACHE = re.compile(r"images-(\d+)x(\d+)\.npy")
#: Start of the name of what is being deleted: a kill leaves nothing that looks whole.
TRASH = ".trash-"

Kind = Literal["run", "checkpoint", "data", "cache", "trash"]


@dataclass(frozen=True)
class Asked:
    """What all presets together ask for.

    Attributes:
        runs: by id.
        unknown: (scale, data set) of presets or studies that cannot be resolved -> why.
        unnamed: the same of rows of saved predictions, whose file names the run and is not there.
    """

    runs: Mapping[str, Run]
    unknown: Mapping[tuple[str, str], str]
    unnamed: Mapping[tuple[str, str], str]

    @property
    def data(self) -> dict[str, set[tuple[int, int]]]:
        """Folders of `data/`, and the sizes at which runs see their images, (height, width)."""
        found: dict[str, set[tuple[int, int]]] = {}
        for run in self.runs.values():
            size = run.config.data.height, run.config.data.width
            found.setdefault(run.data_folder, set()).add(size)
        return found


@dataclass(frozen=True)
class Item:
    """Something that may be deleted.

    Attributes:
        kind: what it is.
        paths: folders or files.
        size: bytes on the disk.
        written: when anything in it was written last, seconds since 1970.
        what: for people.
    """

    kind: Kind
    paths: tuple[Path, ...]
    size: int
    written: float
    what: str


@dataclass
class Found:
    """What was found: free things, and what is kept although no study asks for it, with reasons."""

    free: list[Item] = field(default_factory=list)
    kept: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes that deleting would free."""
        return sum(item.size for item in self.free)


# What is asked for


def asked_for(
    studies: Path, presets: Iterable[tuple[dict[str, Any], str, dict[str, Any]]]
) -> Asked:
    """Every run that a study asks for under a preset.

    Args:
        studies: folder of the study files.
        presets: settings, their name in errors, and the overrides in them.

    Raises:
        FadepthError: a preset or study file cannot be read at all.
    """
    runs: dict[str, Run] = {}
    unknown: dict[tuple[str, str], str] = {}
    unnamed: dict[tuple[str, str], str] = {}
    for settings, origin, overrides in presets:
        plain = parse_config(settings, origin)
        try:
            found, left_out = resolve_and_leave_out(studies, settings, origin, overrides)
        except FadepthError as error:
            unknown |= dict.fromkeys(_all_data(plain, settings, origin), str(error))
            continue
        runs |= unique_runs(found.values())
        for table, reason in left_out.items():
            unknown |= dict.fromkeys(_data_of(studies, table, plain, settings, origin), reason)
        for study in found.values():
            if any(row.predictions for row in study.file.rows) and study.left_out:
                key = (study.config.scale, study.config.data.name)
                unnamed[key] = f"{study.file.table}: {study.left_out[0]}"
    return Asked(runs, unknown, unnamed)


def _all_data(plain: Config, settings: Mapping[str, Any], origin: str) -> Iterator[tuple[str, str]]:
    """Scale and data set of a preset, and of all that its `datasets` stand for."""
    yield plain.scale, plain.data.name
    for name in plain.datasets:
        yield from _data_set(name, plain, settings, origin)


def _data_of(
    studies: Path, table: str, plain: Config, settings: Mapping[str, Any], origin: str
) -> Iterator[tuple[str, str]]:
    """Scale and data set of the study that feeds a table."""
    for path in sorted(studies.glob("*.yaml")):
        file = load_study_file(path)
        if file.table != table:
            continue
        if file.data is None:
            yield plain.scale, plain.data.name
        elif file.data in plain.datasets:
            yield from _data_set(file.data, plain, settings, origin)


def _data_set(
    name: str, plain: Config, settings: Mapping[str, Any], origin: str
) -> Iterator[tuple[str, str]]:
    entry = plain.datasets[name]
    below = load_yaml(Path(entry.preset)) if entry.preset else dict(settings)
    config = parse_config(merge(below, entry.overrides), entry.preset or origin)
    # A scale on the command line goes on top of another preset, too.
    yield config.scale, config.data.name
    yield plain.scale, config.data.name


# What may go


def find_free(asked: Asked, runs: Path, data: Path, checkpoints: bool = False) -> Found:
    """What nobody asks for below two folders, and what has to stay all the same.

    Args:
        asked: what presets and studies ask for.
        runs: `runs/`.
        data: `data/`.
        checkpoints: also those of finished trainings, which would not be resumed.
    """
    found = Found()
    # Data sets whose folders have to stay: of presets that are not known, and of runs that stay.
    names = {name for _, name in asked.unknown}
    teachers: dict[str, str] = {}
    for folder in _folders(runs):
        if folder.name.startswith(TRASH):
            found.free.append(_item("trash", [folder], "left by a gc that was interrupted"))
            continue
        manifest = json_object(folder / "manifest.json")
        if not _RUN_ID.fullmatch(folder.name) or manifest.get("run_id") != folder.name:
            found.kept.append((folder, "not a run's folder"))
        elif folder.name in asked.runs:
            if checkpoints:
                found.free += _checkpoint(folder, manifest)
        elif reason := _why_kept(folder, manifest, asked):
            found.kept.append((folder, reason))
            names.add(str(manifest.get("dataset")))
            teachers[str(manifest.get("teacher"))] = folder.name
        else:
            found.free.append(_item("run", [folder], describe(manifest)))
    for item in [item for item in found.free if item.paths[0].name in teachers]:
        found.free.remove(item)
        found.kept.append((item.paths[0], f"the teacher of {teachers[item.paths[0].name]}"))
    _find_data(found, asked, data, names)
    return found


def _folders(parent: Path) -> list[Path]:
    """Folders directly below; links are somebody else's."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.is_symlink())


def _why_kept(folder: Path, manifest: Mapping[str, Any], asked: Asked) -> str | None:
    if reason := in_use(folder, manifest):
        return reason
    scale, name = str(manifest.get("scale")), str(manifest.get("dataset"))
    reason = asked.unknown.get((scale, name))
    if manifest.get("kind") == "official":
        reason = reason or asked.unnamed.get((scale, name))
    return f"runs of {name} at {scale} scale cannot be told: {reason}" if reason else None


def in_use(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Why a run may be at work: a process holds its lock, or its manifest says so; None: it rests.

    Of another host it is not known whether its process still lives.
    """
    if is_alive(manifest):
        return f"process {manifest.get('pid')} is at it"
    if manifest.get("status") == "running" and manifest.get("host") != platform.node():
        return f"its manifest says that it is running on {manifest.get('host')}"
    try:
        with _claimed(folder):
            return None
    except Timeout:
        return "a process holds its lock"


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """The lock that a training holds on its folder; Timeout where one does."""
    if not (folder / ".lock").exists():
        yield
        return
    with FileLock(folder / ".lock", timeout=0):
        yield


def _checkpoint(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Item]:
    if manifest.get("status") != "finished" or not (folder / "model.pt").exists():
        return
    leftover = folder / f"{TRASH}ckpt"
    paths = [path for path in (folder / "ckpt", leftover) if path.is_dir()]
    if paths and not in_use(folder, manifest):
        yield _item("checkpoint", paths, f"{folder.name}: {describe(manifest)}")


def _find_data(found: Found, asked: Asked, data: Path, names: set[str]) -> None:
    used = asked.data
    for folder in _folders(data):
        if folder.name.startswith(TRASH):
            found.free.append(_item("trash", [folder], "left by a gc that was interrupted"))
            continue
        ours = _DATA.fullmatch(folder.name) and (folder / "manifest.jsonl").is_file()
        if not ours or folder.name.rpartition("-")[0] in names:
            continue
        if folder.name not in used:
            found.free.append(_item("data", [folder], "manifest and caches of frames"))
            continue
        for path in sorted(folder.glob("images-*.npy")):
            match = _CACHE.fullmatch(path.name)
            if match and (int(match[1]), int(match[2])) not in used[folder.name]:
                label = path.with_suffix(".json")
                paths = [p for p in (path, label) if p.exists()]
                found.free.append(_item("cache", paths, "images of a size that no run has"))


def describe(manifest: Mapping[str, Any]) -> str:
    """What a run is, by its manifest."""
    row, seed, study = (manifest.get(key, "?") for key in ("row", "seed", "study"))
    scale, name = manifest.get("scale", "?"), manifest.get("dataset", "?")
    return f"{study}: {row}, seed {seed}; {name}, {scale}; {manifest.get('status', '?')}"


def _item(kind: Kind, paths: Sequence[Path], what: str) -> Item:
    size = sum(map(_size, paths))
    return Item(kind, tuple(paths), size, max(map(_last_written, paths)), what)


def _size(path: Path) -> int:
    """Of a file or folder: bytes on the disk."""
    return bytes_of(path) if path.is_dir() else path.lstat().st_blocks * 512


def _last_written(path: Path) -> float:
    times = [path.lstat().st_mtime]
    if path.is_dir():
        times += [p.lstat().st_mtime for p in path.rglob("*")]
    return max(times)


# Deleting


@contextmanager
def no_workflow(state: Path) -> Iterator[None]:
    """No Snakemake works in this folder meanwhile: one that starts waits.

    One that runs may have been given settings that are in no preset.

    Args:
        state: the folder's `.snakemake`.

    Raises:
        FadepthError: one is at work.
    """
    if not state.is_dir():
        yield
        return
    with (state / "fadepth.alive").open("ab") as alive:
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FadepthError(
                "snakemake is at work in this folder, perhaps on runs that no preset names: let it "
                "end, then call gc again"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def delete(items: Iterable[Item]) -> tuple[int, list[Path]]:
    """Delete; a run that somebody has begun to write to since stays.

    Each path gets a name that nobody takes for a run before anything in it goes.

    Returns:
        Bytes freed, and the paths that stayed.
    """
    freed, stayed = 0, []
    for item in items:
        for path in item.paths:
            size = item.size if len(item.paths) == 1 else _size(path)
            if _delete(path, item.kind):
                freed += size
            else:
                stayed.append(path)
    return freed, stayed


def _delete(path: Path, kind: Kind) -> bool:
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return True
    trash = path
    if not path.name.startswith(TRASH):
        folder = {"run": path, "checkpoint": path.parent}.get(kind)
        trash = path.with_name(f"{TRASH}{path.name}")
        if trash.exists():  # of an earlier call
            shutil.rmtree(trash)
        if folder is None:
            os.rename(path, trash)
        elif not _rename_unused(path, trash, folder):
            return False
    shutil.rmtree(trash)
    return True


def _rename_unused(path: Path, trash: Path, folder: Path) -> bool:
    if is_alive(json_object(folder / "manifest.json")):
        return False
    try:
        with _claimed(folder):
            os.rename(path, trash)
    except Timeout:
        return False
    return True


def age(item: Item) -> float:
    """Seconds since anything in it was written."""
    return max(0.0, time.time() - item.written)
