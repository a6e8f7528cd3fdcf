"""A finished project without its trainings: Snakemake's records and empty files in their places.

`snakemake --touch` writes the records of all jobs, parameters included, and runs none of them. So a
test asks what Snakemake would do after some change, about hundreds of runs, within seconds.
"""

import base64
import os
import re
import shutil
from pathlib import Path

from project import Project


def copy_checkout(repository: Path, folder: Path) -> Path:
    """A copy of the code, whose files a test may change."""
    for name in ("fadepth", "workflow", "config", "ablations", "profiles"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / name, folder / name, ignore=skip)
    shutil.copy(repository / "Snakefile", folder / "Snakefile")
    return folder


def outputs_on_record(folder: Path) -> list[Path]:
    """Files that Snakemake has a record of."""
    records = folder / ".snakemake" / "metadata"
    names = [str(path.relative_to(records)) for path in records.rglob("*") if path.is_file()]
    # Long names are split over folders called @...
    return [
        Path(base64.urlsafe_b64decode(name.replace("@", "").replace("/", "")).decode())
        for name in names
    ]


def pretend_finished(project: Project, *arguments: str) -> None:
    """Make everything that `snakemake ARGUMENTS` makes, empty."""
    # In one go: eight at a time, the scheduler looks at all two thousand for each eight.
    plenty = ("--scheduler", "greedy", "--cores", "9999", "--resources", "train_slot=9999")
    result = project.snakemake(*arguments, "--touch", *plenty)
    assert result.returncode == 0, result.stdout[-2000:]
    for path in outputs_on_record(project.folder):
        target = project.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.touch()
    # All of one age, so that none is newer than what was made of it.
    for path in outputs_on_record(project.folder):
        os.utime(project.folder / path, (1_700_000_000, 1_700_000_000))


def planned(project: Project, *arguments: str) -> dict[str, int]:
    """Number of jobs of each rule in a dry run; the runs are in `planned_runs`."""
    return job_counts(_dry_run(project, *arguments))


def planned_runs(project: Project, *arguments: str) -> set[str]:
    """Ids of the runs that a dry run would train."""
    text = _dry_run(project, *arguments)
    return set(re.findall(r"^    output: runs/([^/\s]+)/model\.pt$", text, re.MULTILINE))


def _dry_run(project: Project, *arguments: str) -> str:
    result = project.snakemake("--dry-run", *arguments)
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


def job_counts(text: str) -> dict[str, int]:
    """The table of jobs that a dry run prints; empty where nothing is to be done."""
    table = re.search(r"^job +count\n-+ +-+\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    if table is None:
        assert "Nothing to be done" in text, text[-2000:]
        return {}
    rows = [line.split() for line in table[1].splitlines()]
    return {rule: int(count) for rule, count in rows if rule != "total"}
