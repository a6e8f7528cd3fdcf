"""What Snakemake would do for a target: it is asked itself, since a second opinion may differ."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fadepth.errors import FadepthError
from fadepth.execution.workflow import ask_snakemake

#: Lines of `--dag dot`; jobs that need not run are dashed.
_NODE = re.compile(r'^\s*(\d+)\[label = "(.*?)", color = ".*?", style="(.*?)"\];$')
_EDGE = re.compile(r"^\s*(\d+) -> (\d+)$")

#: The wildcard of a training rule that holds the run's id.
TRAINING_RULES = {"train_teacher": "teacher", "train_student": "student"}


@dataclass(frozen=True)
class WorkflowJob:
    """One job of the graph.

    Attributes:
        number: in the graph.
        rule: name of its rule.
        wildcards: those that no job has that it needs.
        pending: whether it would run.
        needs: numbers of the jobs whose outputs it reads.
    """

    number: int
    rule: str
    wildcards: Mapping[str, str]
    pending: bool
    needs: tuple[int, ...]

    @property
    def training(self) -> str | None:
        """Id of the run that it trains; None: it is no training."""
        name = TRAINING_RULES.get(self.rule)
        return self.wildcards[name] if name else None


def workflow_jobs(
    targets: Sequence[str], presets: Sequence[Path], overrides: Mapping[str, Any]
) -> list[WorkflowJob]:
    """All jobs behind the targets, those included that need not run, as Snakemake sees them.

    Args:
        targets: files or rules to make.
        presets: settings files of `--configfile`; none: the workflow's own default.
        overrides: settings of `--config`.

    Raises:
        FadepthError: Snakemake refuses; what it says is passed on.
    """
    return parse_graph(ask_snakemake(targets, presets, overrides, "--dag", "dot"))


def parse_graph(text: str) -> list[WorkflowJob]:
    """Jobs of a graph that `snakemake --dag dot` prints.

    Raises:
        FadepthError: there is none in the text.
    """
    nodes: dict[int, tuple[str, bool]] = {}
    needs: dict[int, list[int]] = {}
    for line in text.splitlines():
        if match := _NODE.match(line):
            nodes[int(match[1])] = match[2], "dashed" not in match[3]
        elif match := _EDGE.match(line):
            needs.setdefault(int(match[2]), []).append(int(match[1]))
    if not nodes:
        raise FadepthError(
            "snakemake --dag printed no graph that fadepth can read: install the Snakemake of "
            "requirements.lock"
        )
    jobs = []
    for number, (label, pending) in nodes.items():
        rule, *pairs = label.split("\\n")
        wildcards = dict(pair.split(": ", 1) for pair in pairs if ": " in pair)
        jobs.append(WorkflowJob(number, rule, wildcards, pending, tuple(needs.get(number, ()))))
    return jobs


def count_pending(jobs: Iterable[WorkflowJob]) -> dict[str, int]:
    """How many jobs of each rule would run."""
    return dict(Counter(job.rule for job in jobs if job.pending))


def tables_of(jobs: Iterable[WorkflowJob]) -> set[str]:
    """Tables that the graph's jobs are for."""
    return {job.wildcards["table"] for job in jobs if "table" in job.wildcards}
