"""A study of two thousand runs is planned in seconds, with memory that hardly grows.

Times and memory are told, not judged, at 20, 200 and 2,000 runs. What is judged are counts, which
no busy machine changes: of jobs, and of the function calls that it takes to resolve a study.
"""

import cProfile
import json
import pstats
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretend import job_counts, pretend_finished
from project import Project, make_project

from fadepth.config import load_yaml
from fadepth.fingerprint import code_fingerprint
from fadepth.run import TRAINING_CODE
from fadepth.study import resolve_study, unique_runs

RUNS = (20, 200, 2000)
TARGET = ("reports/table_many.csv", "--configfile", "config/smoke.yaml")


def many(runs: int) -> dict[str, Any]:
    """A study of `runs` runs: rows that differ in one weight, two seeds each."""
    rows = [
        {"label": f"weight {n}", "settings": {"loss.smoothness_weight": 0.002 + n / 1e6}}
        for n in range(runs // 2)
    ]
    return {
        "name": "many", "title": "Many runs", "table": "table_many", "design": "explicit",
        "seeds": [1, 2], "columns": ["metrics"], "baselines": [], "rows": rows,
    }  # fmt: skip


def write_study(folder: Path, runs: int) -> Path:
    path = folder / "many.yaml"
    path.write_text(yaml.safe_dump(many(runs)))
    return path


# Resolving, which every command does


def calls_to_resolve(path: Path, repository: Path) -> int:
    """Function calls until every run has an id and all that Snakemake compares."""
    preset = load_yaml(repository / "config" / "smoke.yaml")
    profile = cProfile.Profile()
    profile.enable()
    study = resolve_study(path, preset, "config/smoke.yaml")
    runs = unique_runs([study]).values()
    identities = [(run.identity, run.evaluation_identity, run.data_folder) for run in runs]
    profile.disable()
    assert len(identities) == len(many(0)["rows"]) + len(list(study.runs))
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def test_ten_times_the_runs_take_ten_times_the_calls(tmp_path: Path, repository: Path) -> None:
    code_fingerprint(TRAINING_CODE)  # parses the modules, once for any number of runs
    few, more = (calls_to_resolve(write_study(tmp_path, n), repository) for n in (100, 1000))
    assert more < 12 * few


# Snakemake


def project_of(folder: Path, repository: Path, runs: int) -> Project:
    project = make_project(folder, repository)
    (folder / "ablations").unlink()
    (folder / "ablations").mkdir()
    write_study(folder / "ablations", runs)
    return project


#: Measures from a small process: what a child of a large one has used counts that one, too.
LAUNCH = """
import json, resource, subprocess, sys, time
began = time.monotonic()
result = subprocess.run([sys.executable, "-m", *sys.argv[1:]], stdout=subprocess.PIPE, text=True,
                        stderr=subprocess.STDOUT)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
print(json.dumps([result.returncode, time.monotonic() - began, peak, result.stdout]))
"""


def measured(project: Project, *command: str) -> tuple[float, float, str]:
    """Wall seconds, peak memory in MB, and what a command said."""
    launched = subprocess.run(
        [sys.executable, "-c", LAUNCH, *command], cwd=project.folder, env=project.environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    code, seconds, memory, text = json.loads(launched.stdout)
    assert code == 0, text[-3000:]
    return seconds, memory, text


@pytest.mark.slow
@pytest.mark.parametrize("runs", RUNS)
def test_many_runs_are_planned_and_found_done(
    runs: int, tmp_path: Path, repository: Path, record_property: Callable[[str, object], None]
) -> None:
    project = project_of(tmp_path, repository, runs)
    snakemake = ("snakemake", "--snakefile", str(repository / "Snakefile"), "--cores", "8")
    figures = {"snakemake -n, nothing there": measured(project, *snakemake, "-n", *TARGET)}
    plan = job_counts(figures["snakemake -n, nothing there"][2])
    assert (plan["train_student"], plan["evaluate_run"], plan["render_table"]) == (runs, runs, 1)
    preset = ("--preset", "config/smoke.yaml")
    figures["fadepth plan"] = measured(project, "fadepth", "plan", TARGET[0], *preset)
    pretend_finished(project, *TARGET)
    figures["snakemake -n, all done"] = measured(project, *snakemake, "-n", *TARGET)
    assert "Nothing to be done" in figures["snakemake -n, all done"][2]
    figures["fadepth status"] = measured(project, "fadepth", "status", "table_many", *preset)
    for name, (seconds, memory, _) in figures.items():
        record_property("figure", f"{runs:5d} runs: {name}: {seconds:.1f} s, {memory:.0f} MB")
