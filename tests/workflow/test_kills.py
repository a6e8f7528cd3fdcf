"""The whole chain, killed twenty times in five ways, ends with the numbers of an undisturbed one.

Two folders, one chain: data, teacher, its predictions, two students, evaluations, table, effects,
figures, MLflow. One folder is left in peace. In the other, Snakemake or its jobs are killed again
and again, a random while after another job or two have ended, so that the moments lie all over the
chain. Then both have to hold the same files.
"""

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from pprint import pformat
from typing import Any

import psutil
import pytest
import torch
from project import Project
from small_study import PRESET, make_small_project

from tests.data.mounts import tmpfs

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("FADEPTH_KILLS", "20"))
#: The chain without the figures that need no run.
TARGETS = (
    *("reports/table_kitti.csv", "reports/effects_kitti.csv", "reports/mlflow.json"),
    *("reports/figures/qualitative.png", "reports/figures/effects.png"),
)
# Ten steps with a checkpoint every other one: a kill finds most trainings in the middle.
TRAINING = {"epochs": 2, "steps_per_epoch": 5, "log_every": 2, "checkpoint_every": 2}

#: Only ends a test that would hang; no assertion.
PATIENCE = 1200


@dataclass
class Chain:
    """One call of Snakemake, with its output as it comes."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, project: Project) -> "Chain":
        """Start the chain in a process group of its own, as a shell would."""
        command = [sys.executable, "-m", "snakemake", "--snakefile"]
        command += [str(project.repository / "Snakefile"), "--cores", "2", *TARGETS]
        command += ["--configfile", PRESET]
        process = subprocess.Popen(
            command, cwd=project.folder, env=project.environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        chain = cls(process)
        threading.Thread(target=chain._listen, daemon=True).start()
        return chain

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def finished(self) -> int:
        """Jobs that have ended well."""
        return sum(line.startswith("Finished jobid") for line in self.lines)

    @property
    def jobs(self) -> list[psutil.Process]:
        """Its jobs' own processes, without the shells that started them."""
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
            return [job for job in below if "fadepth" in job.cmdline()]
        except psutil.Error:
            return []

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds or the call has ended."""
        deadline = time.monotonic() + PATIENCE
        while not condition() and self.process.poll() is None:
            assert time.monotonic() < deadline, "".join(self.lines[-50:])
            time.sleep(0.02)

    def end(self) -> None:
        """Wait until it has ended by itself."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            pytest.fail("Snakemake did not end:\n" + "".join(self.lines[-50:]))


# Five ways to die


def power_cut(chain: Chain, _project: Project) -> None:
    """SIGKILL to everything at once."""
    os.killpg(chain.process.pid, signal.SIGKILL)


def snakemake_killed(chain: Chain, _project: Project) -> None:
    """SIGKILL to Snakemake alone: its jobs live on while the next call begins."""
    chain.process.kill()


def out_of_memory(chain: Chain, _project: Project) -> None:
    """SIGKILL to one job, as the kernel does when memory is short; the rest goes on a little."""
    chain.wait_for(lambda: bool(chain.jobs))
    with contextlib.suppress(IndexError, psutil.NoSuchProcess):
        chain.jobs[0].kill()
    finished = chain.finished
    chain.wait_for(lambda: chain.finished > finished)
    if chain.process.poll() is None:
        chain.process.terminate()


def terminated(chain: Chain, _project: Project) -> None:
    """SIGTERM to Snakemake, as of a queue or a container: trainings save a checkpoint."""
    chain.process.terminate()


def control_c(chain: Chain, _project: Project) -> None:
    """SIGINT to the group, as Ctrl-C in a terminal."""
    os.killpg(chain.process.pid, signal.SIGINT)


def disk_full(chain: Chain, project: Project) -> None:
    """No byte is left, until every job that was running has failed or ended."""
    ballast = project.folder / "ballast"
    # Without a buffer, whose rest would be refused again when the file is closed.
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    running = chain.jobs
    chain.wait_for(lambda: not any(job.is_running() for job in running))
    if chain.process.poll() is None:
        chain.process.terminate()
    chain.end()
    ballast.unlink(missing_ok=True)


WAYS = (power_cut, snakemake_killed, out_of_memory, terminated, control_c, disk_full)


# The test


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of its own, which can be filled."""
    with tmpfs(tmp_path_factory.mktemp("kills") / "disk", "size=200m") as folder:
        yield folder


def test_twenty_kills_change_no_number(
    disk: Path, tmp_path: Path, repository: Path, record_property: Callable[[str, object], None]
) -> None:
    peace = make_small_project(tmp_path / "peace", repository, training=training(repository))
    chain = Chain.start(peace)
    chain.end()
    assert chain.process.returncode == 0, "".join(chain.lines[-60:])
    jobs = chain.finished

    war = make_small_project(disk / "war", repository, training=training(repository))
    chance = random.Random(20260524)
    kills, done = 0, 0
    for number in range(KILLS):
        # Spread over the chain: the tenth comes when about half of the jobs have ended.
        wanted = max(0, round(number * (jobs - 3) / KILLS) - done)
        alive, ended = kill(war, WAYS[number % len(WAYS)], wanted, chance)
        kills, done = kills + alive, done + ended
    last = Chain.start(war)
    last.end()
    assert last.process.returncode == 0, "".join(last.lines[-60:])

    different, compared = compare(peace.folder, war.folder)
    record_property("figure", f"kills survived: {kills} of {KILLS} over a chain of {jobs} jobs")
    record_property("figure", f"files compared: {compared}; differences: {len(different)}")
    for name in different:
        print(name, *difference(content_of(peace.folder, name), content_of(war.folder, name)))
    assert different == []
    assert kills >= 0.8 * KILLS, "most of the calls had ended before they were killed"
    assert left_over(war.folder) == []
    again = war.snakemake(*TARGETS, "--configfile", PRESET)
    assert "Nothing to be done" in again.stdout, again.stdout[-2000:]


def training(repository: Path) -> dict[str, Any]:
    """The smoke preset's training, a little longer."""
    import yaml

    smoke = yaml.safe_load((repository / "config" / "smoke.yaml").read_text())
    return {**smoke["training"], **TRAINING}


def kill(
    project: Project, way: Callable[[Chain, Project], None], wanted: int, chance: random.Random
) -> tuple[bool, int]:
    """Start the chain and kill it, a random while after `wanted` jobs have ended.

    Returns:
        whether it was still alive by then, and how many jobs have ended.
    """
    chain = Chain.start(project)
    chain.wait_for(lambda: chain.finished >= wanted and bool(chain.jobs))
    with contextlib.suppress(subprocess.TimeoutExpired):
        chain.process.wait(chance.uniform(0, 2.0))
    alive = chain.process.poll() is None
    if alive:
        way(chain, project)
        chain.end()
    else:
        assert chain.process.returncode == 0, "".join(chain.lines[-60:])
    text = "".join(chain.lines)
    assert "LockException" not in text, text[-3000:]
    assert "IncompleteFilesException" not in text, text[-3000:]
    return alive, chain.finished


# What both have to hold


def compare(one: Path, other: Path) -> tuple[list[str], int]:
    """Files that are not the same in both, and how many were compared."""
    names = sorted(results_of(one) | results_of(other))
    different = [name for name in names if content_of(one, name) != content_of(other, name)]
    return different, len(names)


def difference(one: object, other: object) -> list[str]:
    """Where two contents part, for people."""
    texts = [
        content.decode(errors="replace") if isinstance(content, bytes) else pformat(content)
        for content in (one, other)
    ]
    before, after = (text.splitlines() for text in texts)
    return ["\n".join(unified_diff(before, after, n=0, lineterm=""))]


def results_of(folder: Path) -> set[str]:
    """All results and checkpoints; logs tell of times and of attempts."""
    return {
        str(path.relative_to(folder))
        for top in ("runs", "reports", "data")
        for path in (folder / top).rglob("*")
        if path.is_file() and path.name not in ("train.log", ".lock")
    } | {"mlflow.db"}


#: Keys that say when, where and by whom, not what.
_CIRCUMSTANCES = {
    "manifest.json": ("started", "ended", "pid", "host", "command"),
    "manifest.jsonl": ("root",),
    "metrics.jsonl": ("time",),
    "progress.json": ("seconds_per_step", "eta_seconds"),
    "targets.json": ("state",),
}


def content_of(folder: Path, name: str) -> object:
    """What has to be equal: bytes, but for circumstances in files that are told to hold them."""
    path = folder / name
    if not path.exists():
        return None
    if path.name == "mlflow.db":
        return shown_in_mlflow(path)
    if path.name.endswith(".provenance.json"):
        times = re.compile(r'^\s*"(started|ended)": .*\n', re.MULTILINE)
        return times.sub("", path.read_text())
    if path.name == "mlflow.json":
        return sorted(json.loads(path.read_text()))  # addresses hold ids that MLflow draws
    if path.name == "last.pt":
        state = torch.load(path, weights_only=True)
        tensors = {key: value.tolist() for key, value in state["networks"].items()}
        return state["identity"], state["resumed"]["step"], tensors
    if path.name == "manifest.files.json":
        return [[name, note[2]] for name, note in json.loads(path.read_text())["files"].items()]
    if path.name in _CIRCUMSTANCES:
        lines = (
            path.read_text().splitlines() if path.name == "metrics.jsonl" else [path.read_text()]
        )
        drop = _CIRCUMSTANCES[path.name]
        return [{k: v for k, v in json.loads(line).items() if k not in drop} for line in lines]
    return path.read_bytes()


def shown_in_mlflow(path: Path) -> list[tuple[object, ...]]:
    """Every number that MLflow shows, by run, without times."""
    with contextlib.closing(sqlite3.connect(path)) as store:
        return sorted(
            store.execute(
                "select t.value, m.key, m.step, m.value from metrics m join tags t"
                " on t.run_uuid = m.run_uuid join runs r on r.run_uuid = m.run_uuid"
                " where t.key = 'fadepth.run_id' and r.lifecycle_stage = 'active'"
            )
        )


def left_over(folder: Path) -> list[str]:
    """Half files, locks that nobody holds, processes that nobody waits for."""
    found = [
        str(path.relative_to(folder))
        for top in ("runs", "reports", "data")
        for path in (folder / top).rglob(".*")
        if path.is_file() and path.suffix != ".lock" and path.name != ".lock"
    ]
    found += [str(path) for path in (folder / ".snakemake" / "locks").glob("*")]
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if process.info["cwd"] == str(folder):
            found.append(f"{process.pid}: {' '.join(process.info['cmdline'] or [])}")
    return found


# A variant that fails


def test_one_failing_variant_stops_no_other(tmp_path: Path, repository: Path) -> None:
    """All else is finished, and the partial table says what is missing."""
    project = make_small_project(tmp_path / "work", repository)
    study = project.folder / "ablations" / "small.yaml"
    rows: list[dict[str, Any]] = [
        {"label": "SmallDepth"},
        {"label": "far too fast", "settings": {"training.learning_rate": 1e30}},
    ]
    content = {"name": "small", "title": "One fails", "table": "table_kitti", "baselines": []}
    study.write_text(json.dumps(content | {"design": "explicit", "rows": rows}))
    call = ("reports/table_kitti.csv", "--configfile", PRESET)
    result = project.snakemake(*call)
    assert result.returncode != 0
    assert "learning_rate_1e_30" in result.stdout
    assert "lower training.learning_rate" in result.stdout
    evaluated = sorted(path.parent.name for path in project.folder.glob("runs/*/metrics.json"))
    assert [name.rpartition("-s1-")[0] for name in evaluated] == ["plain"]
    table = project.fadepth("table", "table_kitti", "--partial", "--preset", PRESET)
    assert table.returncode == 0, table.stdout
    lines = (project.folder / "reports/partial/table_kitti.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [str(row["label"]) for row in rows]
    assert lines[2].count(",,") > 3
    # Mended, the same call does the rest, and nothing again.
    rows[1]["settings"] = {"training.learning_rate": 1e-3}
    study.write_text(json.dumps(content | {"design": "explicit", "rows": rows}))
    again = project.snakemake(*call)
    assert again.returncode == 0, again.stdout[-2000:]
    assert again.stdout.count("rule train_student:") == 1
