"""The benchmark of starts: what is put in turns, and what is made of it. Nothing on speed."""

import json
import re
from itertools import count
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fadepth.bench import workflow
from fadepth.bench.spread import Spread
from fadepth.bench.workflow import RuleCommand, Way, measure_workflow, rule_commands
from fadepth.cli import bench
from fadepth.errors import FadepthError

COMMANDS = [
    RuleCommand(("train_student", "train_teacher"), ("train", "a"), ("fadepth.x", "train_run")),
    RuleCommand(("prepare_data",), ("data", "manifest", "--output", "m"), ("fadepth.y", "prepare")),
]
PLANNED = "job      count\n-----  -------\na            3\ntotal        4\n"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Way]:
    """All that is started; nothing really is. The nth start of all takes n seconds."""
    ways: list[Way] = []
    seconds = count(1)

    def pretend(way: Way) -> tuple[float, str]:
        ways.append(way)
        told = PLANNED if "--dry-run" in way.arguments else ""
        if way.name.startswith("fadepth train"):
            told = '["fadepth", "numpy", "os", "torch"]\n'
        if way.name.startswith("fadepth data"):
            told = 'told before\n["fadepth"]\n'
        return float(next(seconds)), told

    monkeypatch.setattr(workflow, "_cpu_seconds", pretend)
    return ways


def test_everything_has_its_turn_in_every_round(started: list[Way], tmp_path: Path) -> None:
    report = measure_workflow(COMMANDS, tmp_path, ("--snakefile", "S"), rounds=3, jobs=5)
    names = [way.name for way in started]
    one = len(names) // 3
    assert names[:one] * 3 == names
    assert len(set(names[:one])) == one == 9
    # The nth of a round takes n, n + 9 and n + 18 seconds.
    place = {name: number for number, name in enumerate(names[:one], start=1)}
    first = place["python -c pass"]
    assert report.python == Spread(first + 9, first, first + 18)
    train, data = report.commands
    assert train.seconds.median == place["fadepth train a"] + 9
    assert (train.rules, train.command) == (("train_student", "train_teacher"), "train")
    assert train.heavy == ("torch", "numpy")
    assert (data.command, data.heavy) == ("data manifest", ())
    assert report.snakemake.jobs == 4
    # Six jobs one second after one job, so five more jobs take a second.
    assert report.snakemake.each_job == Spread(0.2, 0.2, 0.2)
    assert report.snakemake.jobs_tried == 5
    assert json.loads(json.dumps(report.as_dict()))["rounds"] == 3


def test_idle_workflow_has_as_many_jobs_as_told(tmp_path: Path) -> None:
    way = workflow._idle_workflow(tmp_path / "idle", 7)
    dry = Way(way.name, (*way.arguments, "--dry-run"), way.folder)
    _, told = workflow._cpu_seconds(dry)
    assert workflow._planned_jobs(told) == 7 + 1  # and the rule that asks for them


def test_command_that_fails_before_its_work_is_told(tmp_path: Path) -> None:
    command = RuleCommand(("train_student",), ("train", "a-s1-0123456789"), ("json", "loads"))
    with pytest.raises(FadepthError, match=r"'fadepth train a-s1-0123456789' fails in"):
        workflow.packages_until_work(command, tmp_path)


def test_studies_without_a_student_have_no_commands() -> None:
    with pytest.raises(FadepthError, match="no student"):
        rule_commands({}, ())


def test_command_prints_every_number_and_writes_json(
    started: list[Way], tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setattr(workflow, "rule_commands", lambda *_: COMMANDS)
    written = tmp_path / "start.json"
    flags = ["--preset", "config/smoke.yaml", "--rounds", "1", "--json", str(written)]
    result = CliRunner().invoke(bench.app, ["start-up", *flags], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    report = json.loads(written.read_text())
    for seconds in (report["python"], report["torch"], report["help"]):
        median, smallest, largest = seconds.values()
        assert f"{median:.2f} ({smallest:.2f} to {largest:.2f})" in result.output
    for row in ("train_student train_teacher", "prepare_data", "reports/all, 4 jobs"):
        assert row in result.output
    assert re.search(r"torch \d", result.output)
    plan = next(way for way in started if "--dry-run" in way.arguments)
    assert plan.arguments[-4:] == (
        "--snakefile", str(repository / "Snakefile"), "--configfile", "config/smoke.yaml",
    )  # fmt: skip
