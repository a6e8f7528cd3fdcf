"""The plan: trainings to do, reused and resumable, hours, disk, and what fits a budget."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fadepth.execution.plan.disk import Needed, needed_bytes
from fadepth.execution.plan.jobs import WorkflowJob, count_pending, tables_of
from fadepth.execution.plan.progress import (
    TrainingImages,
    epochs_of,
    find_checkpoint,
    steps_in_epoch,
    training_images,
)
from fadepth.execution.plan.schedule import Task, fitting, wall_seconds
from fadepth.execution.plan.times import StepTime, StepTimes, seconds_of_rule, this_device
from fadepth.run import TRAINED, Run
from fadepth.study import Study, unique_runs

State = Literal["to do", "resumable", "running", "reused"]

#: As in workflow/rules/train.smk: students of APX wait for these.
_PRIORITY = {"train_teacher": 10, "predict_teacher": 10}


@dataclass(frozen=True)
class PlannedRun:
    """One training of the plan.

    Attributes:
        id, study, row, seed, kind: of the run.
        state: what would happen to it; `running`: a process of this host is at it already.
        outdated: it has a checkpoint, of other code, and would start from the beginning.
        step, steps: finished ones and all of them; None: the number of frames is not known yet.
        epoch, epochs: the same in epochs.
        time: of a step; None: no step of its kind was timed.
        seconds: that remain; None: not known.
    """

    id: str
    study: str
    row: str
    seed: int
    kind: str
    state: State
    outdated: bool = False
    step: int = 0
    steps: int | None = None
    epoch: float = 0.0
    epochs: int = 0
    time: StepTime | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Budget:
    """What fits a wall time.

    Attributes:
        seconds: the budget.
        fits: ids of trainings that do, in the order of their use.
        too_long: ids of those that do not.
        untimed: ids of those that cannot be judged, since they or their teacher were never timed.
        wall_seconds: of those that fit, together.
    """

    seconds: float
    fits: tuple[str, ...]
    too_long: tuple[str, ...]
    untimed: tuple[str, ...]
    wall_seconds: float


@dataclass(frozen=True)
class Plan:
    """What `snakemake TARGET` would do.

    Attributes:
        targets: what is to be made.
        runs: every training behind the targets.
        jobs: number of jobs that would run, by rule.
        slots: trainings at once.
        machine_seconds: sum over timed jobs.
        wall_seconds: of timed jobs on the slots.
        untimed: ids of trainings that the seconds leave out.
        not_counted: rules whose jobs the seconds leave out.
        disk: bytes that will be written.
        free_bytes: on the disk of `runs/`.
        left_out: tables that are no part of it, with the reason.
        budget: what fits, where one was given.
    """

    targets: tuple[str, ...]
    runs: tuple[PlannedRun, ...]
    jobs: Mapping[str, int]
    slots: int
    machine_seconds: float
    wall_seconds: float
    untimed: tuple[str, ...]
    not_counted: tuple[str, ...]
    disk: Needed
    free_bytes: int
    left_out: Mapping[str, str]
    budget: Budget | None = None

    def count(self, *states: State) -> int:
        """Number of trainings in one of the states."""
        return sum(run.state in states for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        states: tuple[State, ...] = ("to do", "resumable", "running", "reused")
        counts = {state.replace(" ", "_"): self.count(state) for state in states}
        content = {"trainings": counts, **asdict(self)}
        content["disk"]["total"] = self.disk.total
        return content


@dataclass(frozen=True)
class Places:
    """Folders of a project, relative to where the workflow runs."""

    runs: Path = Path("runs")
    data: Path = Path("data")
    logs: Path = Path("logs")


class Planner:
    """Knows the graph, the studies, and what was measured; `plan` puts the plan together."""

    def __init__(
        self,
        jobs: Sequence[WorkflowJob],
        studies: Mapping[str, Study],
        places: Places | None = None,
    ) -> None:
        self.jobs, self.places = jobs, places or Places()
        tables = tables_of(jobs)
        # Rows are called what the targets' own tables call them.
        chosen = [study for table, study in studies.items() if table in tables]
        self.studies = chosen or list(studies.values())
        self.known = unique_runs(studies.values()) | unique_runs(self.studies)
        self.times = StepTimes(self.places.runs, self.known.values())
        self.trainings = {job.training: job for job in jobs if job.training}
        self.images = {
            run.data_folder: self._images(run)
            for run in (self.known[run_id] for run_id in self.trainings)
        }

    @property
    def pending(self) -> list[Run]:
        """Runs that would be trained."""
        return [self.known[run_id] for run_id, job in self.trainings.items() if job.pending]

    def default_slots(self) -> int:
        """Trainings at once: as many as usable cores, or one where they share a GPU."""
        on_gpu = any(this_device(run.config.training.device) != "cpu" for run in self.pending)
        return 1 if on_gpu else len(os.sched_getaffinity(0))

    def untimed(self) -> list[Run]:
        """Runs to be trained for which no step of a training that costs the same was timed."""
        times = [(run, self.times.of(run)) for run in self.pending]
        return [run for run, time in times if time is None or time.source == "nearest"]

    def plan(
        self,
        targets: Sequence[str],
        left_out: Mapping[str, str],
        slots: int | None = None,
        budget: float | None = None,
    ) -> Plan:
        """The plan for the targets that the graph was asked for.

        Args:
            targets: of the graph.
            left_out: tables without data, with the reason.
            slots: trainings at once; None: `default_slots`.
            budget: wall time, seconds.
        """
        slots = slots or self.default_slots()
        planned = {run_id: self._planned(run_id) for run_id in self.trainings}
        untimed = [p.id for p in planned.values() if p.state != "reused" and p.seconds is None]
        other = self._seconds_of_rules()
        tasks = _tasks(self.jobs, planned, other)
        counts = count_pending(self.jobs)
        predicting = [self.known[t] for t in self._teachers_to_predict()]
        disk = needed_bytes(self.pending, predicting, self.images, self.times, self.places.data)
        fits = self._fits(planned, tasks, slots, budget) if budget is not None else None
        return Plan(
            tuple(targets), tuple(planned.values()), counts, slots,
            sum(task.seconds for task in tasks), wall_seconds(tasks, slots),
            tuple(untimed), tuple(sorted({*counts} - {*other, "train_teacher", "train_student"})),
            disk, shutil.disk_usage(_existing(self.places.runs)).free, dict(left_out), fits,
        )  # fmt: skip

    def _images(self, run: Run) -> TrainingImages | None:
        manifest = self.places.data / run.data_folder / "manifest.jsonl"
        return training_images(run.config, manifest)

    def _planned(self, run_id: str) -> PlannedRun:
        run = self.known[run_id]
        named = PlannedRun(run.id, run.study, run.label, run.seed, run.kind, "reused")
        if not self.trainings[run_id].pending:
            return named
        in_epoch, epochs = steps_in_epoch(run, self.images[run.data_folder]), epochs_of(run)
        steps = in_epoch * epochs if in_epoch else None
        found = find_checkpoint(run, self.places.runs / run.id)
        state: State = "to do"
        step = 0
        if found and found.state != "outdated":
            state, step, steps = found.state, found.step, steps or found.steps or None
        time = self.times.of(run)
        return replace(
            named,
            state=state,
            outdated=found is not None and found.state == "outdated",
            step=step,
            steps=steps,
            epoch=step * epochs / steps if steps else 0.0,
            epochs=epochs,
            time=time,
            seconds=time.seconds * max(0, steps - step) if time and steps else None,
        )

    def _seconds_of_rules(self) -> dict[str, float]:
        """Of rules other than training, where Snakemake has timed them."""
        rules = {job.rule for job in self.jobs if job.pending and not job.training}
        found = {r: seconds_of_rule(self.places.logs, r, self.known) for r in rules}
        return {rule: seconds for rule, seconds in found.items() if seconds is not None}

    def _teachers_to_predict(self) -> list[str]:
        numbered = {job.number: job for job in self.jobs}
        needed = (
            numbered[number].training
            for job in self.jobs
            if job.rule == "predict_teacher" and job.pending
            for number in job.needs
        )
        return [run_id for run_id in needed if run_id]

    def _fits(
        self,
        planned: Mapping[str, PlannedRun],
        tasks: Sequence[Task],
        slots: int,
        budget: float,
    ) -> Budget:
        """Those that fit, in the order of `ranked`; an evaluation that was timed belongs to it."""
        ranked = rank(self.studies, planned)
        known = {task.name for task in tasks}
        teachers = {i: self.known[i].teacher for i in ranked}
        untimed = [
            i
            for i in ranked
            if planned[i].seconds is None
            or ((t := teachers[i]) and t.id in planned and planned[t.id].state != "reused"
                and planned[t.id].seconds is None)
        ]  # fmt: skip
        evaluations = {
            number: _name(job)
            for job in self.jobs
            if job.rule == "evaluate_run" and _name(job) in known
            for number in job.needs
        }
        judged = [i for i in ranked if i not in {*untimed}]
        wanted = [evaluations.get(self.trainings[i].number, i) for i in judged]
        taken, wall = fitting(tasks, wanted, slots, budget)
        fits = tuple(i for i in judged if i in {*taken})
        too_long = tuple(i for i in judged if i not in {*fits})
        return Budget(budget, fits, too_long, tuple(untimed), wall)


def _tasks(
    jobs: Sequence[WorkflowJob],
    planned: Mapping[str, PlannedRun],
    seconds_of_rules: Mapping[str, float],
) -> list[Task]:
    """Timed jobs that would run; each needs the timed ones behind it, whatever lies between."""
    numbered = {job.number: job for job in jobs}
    seconds: dict[int, float] = {}
    for job in jobs:
        known = planned[job.training].seconds if job.training else seconds_of_rules.get(job.rule)
        if job.pending and known is not None:
            seconds[job.number] = known
    behind: dict[int, frozenset[int]] = {}

    def timed_behind(number: int) -> frozenset[int]:
        if number not in behind:
            sets = [
                {other} if other in seconds else timed_behind(other)
                for other in numbered[number].needs
            ]
            behind[number] = frozenset().union(*sets)
        return behind[number]

    return [
        Task(
            _name(numbered[number]),
            value,
            tuple(_name(numbered[other]) for other in sorted(timed_behind(number))),
            _PRIORITY.get(numbered[number].rule, 0),
        )
        for number, value in seconds.items()
    ]


def _name(job: WorkflowJob) -> str:
    return job.training or f"{job.rule} {job.number}"


def rank(studies: Iterable[Study], planned: Mapping[str, PlannedRun]) -> list[str]:
    """Ids of runs to be trained, the most useful first.

    One seed of every row before second seeds, where those that are reused count; in each round the
    baselines, then what was begun, then the rest, in the order of the tables.
    """
    keys: dict[str, tuple[Any, ...]] = {}
    for number, study in enumerate(studies):
        for place, row in enumerate(study.rows):
            if row.runs[0].kind not in TRAINED:
                continue
            left = [r for r in row.runs if r.id in planned and planned[r.id].state != "reused"]
            left.sort(key=lambda run: planned[run.id].state == "to do")
            finished = sum(r.id in planned and planned[r.id].state == "reused" for r in row.runs)
            for turn, run in enumerate(left, finished):
                other = row.label != study.baseline.label
                fresh = planned[run.id].state == "to do"
                key = (turn, other, fresh, number, place)
                keys[run.id] = min(key, keys.get(run.id, key))
    last = [p.id for p in planned.values() if p.state != "reused" and p.id not in keys]
    return sorted(keys, key=lambda run_id: keys[run_id]) + last


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
