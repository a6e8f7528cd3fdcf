"""Why Snakemake would do again what it would do now, in the words of an ablation.

What is due is Snakemake's decision (`snakemake --summary`). Why is found in what runs have written
about themselves: a run's id is a hash of its settings, so a changed setting gives a run that was
never there, and the reason is how it differs from the run that its row had before.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from time import localtime, strftime
from typing import Any

from fadepth.data.manifest import Manifest
from fadepth.errors import FadepthError
from fadepth.execution.changes import Change, Facts, read_settings, run_changes
from fadepth.execution.status import Board, RunState
from fadepth.execution.workflow import ask_snakemake
from fadepth.files import json_object
from fadepth.run import OWN, TRAINED, Run, RunKind
from fadepth.study import Study, unique_runs

TRAINING_RULES = ("train_student", "train_teacher")

#: A run of another row is named as the closest one only if it differs in so few settings.
_CLOSE = 3

#: More items than these are counted, not named.
_NAMED = 3


# What Snakemake would do


@dataclass(frozen=True)
class PlannedFile:
    """A file of the workflow: which rule makes it, what its state is, whether it is due."""

    path: str
    rule: str
    status: str
    due: bool


def planned_files(
    targets: Sequence[str], presets: Sequence[Path], overrides: Mapping[str, Any]
) -> list[PlannedFile]:
    """Every file that the targets rest on, with what Snakemake would do about it now.

    Raises:
        FadepthError: Snakemake cannot plan these targets; its own sentence is told.
    """
    return parse_summary(ask_snakemake(targets, presets, overrides, "--summary"))


def parse_summary(text: str) -> list[PlannedFile]:
    """The table that `snakemake --summary` prints.

    Raises:
        FadepthError: it has no such columns.
    """
    lines = [line.split("\t") for line in text.splitlines()]
    heads = [number for number, line in enumerate(lines) if line[0] == "output_file"]
    needed = ("output_file", "rule", "status", "plan")
    if not heads or any(name not in lines[heads[0]] for name in needed):
        raise FadepthError(
            "snakemake --summary printed no table that is known here: is it the version of "
            "requirements.lock?"
        )
    head = lines[heads[0]]
    columns = [head.index(name) for name in needed]
    files = []
    for line in lines[heads[0] + 1 :]:
        if len(line) == len(head):
            name, rule, status, plan = (line[column] for column in columns)
            files.append(PlannedFile(name, rule, status, plan == "update pending"))
    return files


# What is known of earlier runs


@dataclass(frozen=True)
class Earlier:
    """A folder of `runs/` as its manifest tells of it."""

    id: str
    content: Mapping[str, Any]

    @property
    def slug(self) -> str:
        """The part of its name that is for people."""
        return self.id.rsplit("-", 2)[0]

    @property
    def seed(self) -> int | None:
        """None where the manifest does not say."""
        value = self.content.get("seed")
        return value if isinstance(value, int) else None

    def text(self, key: str) -> str:
        """A field of the manifest; empty where it is none of text."""
        value = self.content.get(key)
        return value if isinstance(value, str) else ""


def read_history(runs: Path) -> dict[str, Earlier]:
    """Every run folder with a readable manifest, by id."""
    found = {}
    for path in sorted(runs.glob("*/manifest.json")):
        if content := json_object(path):
            found[path.parent.name] = Earlier(path.parent.name, content)
    return found


# Why


@dataclass(frozen=True)
class Rerun:
    """A training that is due.

    Attributes:
        run: which.
        label: of its row, with the table where another row is called the same.
        reasons: why, in the order of their weight.
        changes: settings that differ from `earlier`, where that is the reason.
        earlier: id of the run that it is compared with.
    """

    run: Run
    label: str
    reasons: Sequence[str]
    changes: Sequence[Change] = ()
    earlier: str | None = None

    @property
    def why(self) -> str:
        """All reasons in one line, without the run that was before."""
        return "; ".join([*map(str, self.changes), *self.reasons])

    def __str__(self) -> str:
        was = f" (was {self.earlier})" if self.earlier else ""
        return f"{self.label}, seed {self.run.seed}: {self.why}{was}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "run": self.run.id,
            "kind": self.run.kind,
            "row": self.run.label,
            "seed": self.run.seed,
            "reasons": list(self.reasons),
            "changes": [change.as_json() for change in self.changes],
            "earlier": self.earlier,
        }


@dataclass(frozen=True)
class Redone:
    """Jobs that train nothing and are due for one reason."""

    what: str
    reason: str
    items: Sequence[str]
    follows: bool

    def __str__(self) -> str:
        number = len(self.items)
        if self.what == "evaluation":
            return f"{number} evaluation{'s' * (number > 1)}: {self.reason}"
        named = ", ".join(self.items) if number <= _NAMED else f"{number} times"
        return f"{self.what} {named}: {self.reason}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {"what": self.what, "reason": self.reason, "items": list(self.items)}


@dataclass(frozen=True)
class Explanation:
    """All that is due, and why."""

    trainings: Sequence[Rerun]
    others: Sequence[Redone]

    def lines(self) -> Iterator[str]:
        """For people: a line a training, then what else is done, by reason."""
        if not self.trainings and not self.others:
            yield "nothing is to be done"
        for training in self.trainings:
            yield str(training)
        for other in self.others:
            yield str(other)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "trainings": [training.as_json() for training in self.trainings],
            "others": [other.as_json() for other in self.others],
        }


def explain_reruns(
    studies: Iterable[Study], runs: Path, data: Path, planned: Sequence[PlannedFile]
) -> Explanation:
    """Say why each file that is due is due.

    Args:
        studies: as the same preset resolves them.
        runs: folder of the run folders.
        data: folder of the data sets' manifests.
        planned: what Snakemake would do.

    Raises:
        FadepthError: an ego mask that a run names cannot be read.
    """
    explainer = _Explainer(list(studies), runs, data, planned)
    return Explanation(explainer.trainings(), explainer.others())


class _Explainer:
    def __init__(
        self, studies: list[Study], runs: Path, data: Path, planned: Sequence[PlannedFile]
    ) -> None:
        self.runs, self.data = runs, data
        self.due = {file.path: file for file in planned if file.due}
        # What the tables that are asked for call a run goes before what others call it.
        tables = {_job(file) for file in planned if file.rule == "render_table"}
        asked = [study for study in studies if study.file.table in tables]
        self.current = unique_runs(studies) | unique_runs(asked)
        self.history = read_history(runs)
        self.similar: dict[tuple[object, ...], list[Earlier]] = {}
        for record in self.history.values():
            place = tuple(record.text(key) for key in ("kind", "scale", "dataset"))
            self.similar.setdefault(place, []).append(record)
            self.similar.setdefault((*place, record.seed), []).append(record)
        self.states = Board(studies, runs).read().runs
        self.labels: dict[str, set[str]] = {}
        self.tables: dict[str, str] = {}
        for study in (*asked, *studies):
            for row in study.rows:
                for run in row.runs:
                    self.labels.setdefault(run.id, set()).add(row.label)
                    self.tables.setdefault(run.id, study.file.table)
        self.explained: dict[str, Rerun] = {}
        self.content_hash = cache(self._content_hash)
        # Kept for a while only: thousands of them are hundreds of megabytes.
        self.earlier_facts = lru_cache(500)(self._earlier_facts)

    def due_trainings(self) -> list[Run]:
        """Teachers first, then in the order of the studies."""
        names = {Path(f.path).parent.name for f in self.due.values() if f.rule in TRAINING_RULES}
        return sorted(
            (run for run_id, run in self.current.items() if run_id in names),
            key=lambda run: run.kind != "teacher",
        )

    def trainings(self) -> list[Rerun]:
        """Each training that is due, with its reasons."""
        runs = self.due_trainings()
        called = Counter((run.label, run.seed) for run in runs)
        for run in runs:
            twice = called[run.label, run.seed] > 1
            label = f"{run.label} ({self.tables[run.id]})" if twice else run.label
            self.explained[run.id] = replace(self._why(run), label=label)
        return list(self.explained.values())

    def _why(self, run: Run) -> Rerun:
        if run.id in self.history:
            return Rerun(run, run.label, self._known(run, self.history[run.id]))
        # A folder alone says nothing: Snakemake makes it for the log.
        if any((self.runs / run.id / name).exists() for name in ("manifest.json", "model.pt")):
            return Rerun(run, run.label, ["its manifest.json is damaged or not there"])
        return self._unknown(run)

    # A run that has been there

    def _known(self, run: Run, record: Earlier) -> list[str]:
        code = code_changes(run, record.content)
        reasons = [*self._stopped(run, record, code), *code, *self._data_change(run, record)]
        reasons += self._teacher_change(run, record.text("teacher"))
        if reasons:
            return reasons
        file = self.due[f"runs/{run.id}/model.pt"]
        if file.status == "ok":
            return ["an input is made anew, or Snakemake was stopped before it noted the result"]
        return [_SAID.get(file.status, file.status)]

    def _stopped(self, run: Run, record: Earlier, code: Sequence[str]) -> Iterator[str]:
        """Why there is no network, though the training was started."""
        state = self.states.get(run.id, (run, RunState("waiting")))[1]
        if (self.runs / run.id / "model.pt").exists():
            return
        if state.state == "training":
            yield f"is being trained now, {state.progress.where() or 'starting'}"
        elif state.state == "failed":
            yield f"failed: {state.note}"
        elif state.state == "resumable":
            goes_on = "begins anew" if code else "goes on from its checkpoint"
            yield f"was {state.note}, {goes_on}"
        elif record.text("status") == "finished":
            ended = _time(record.content.get("ended"))
            when = f" of {strftime('%Y-%m-%d %H:%M', localtime(ended))}" if ended else ""
            yield f"its model.pt{when} was deleted"
        else:
            yield f"{state.state}: {state.note}" if state.note else "was not finished"

    def _data_change(self, run: Run, record: Earlier) -> Iterator[str]:
        name = f"{run.data_folder}/manifest.jsonl"
        now, then = self.content_hash(self.data / name), record.text("data_hash")
        if file := self.due.get(f"data/{name}"):
            reason = self._reason(file)[0]
            yield f"waits for its data, data/{name}, which are prepared anew: {reason}"
        elif now and then and now != then:
            yield f"its data changed (data/{name}: {then} → {now})"

    def _content_hash(self, path: Path) -> str | None:
        try:
            return Manifest.read(path).content_hash
        except (FadepthError, OSError):
            return None

    def _teacher_change(self, run: Run, before: str) -> Iterator[str]:
        teacher = run.teacher
        if teacher is None:
            return
        if teacher.id in self.explained:
            due = self.explained[teacher.id]
            anew = due.earlier is not None or teacher.id in self.history
            yield "waits for its teacher, which is trained " + (
                f"anew: {due.why}" if anew else "first"
            )
        elif before and teacher.id != before:
            yield f"its teacher is now {teacher.id} (was {before})"
        elif f"runs/{teacher.id}/targets.npy" in self.due:
            yield "its teacher's predictions are made anew"

    # A run that has not been there

    def _unknown(self, run: Run) -> Rerun:
        facts = Facts.of(run)
        place = run.kind, run.config.scale, run.config.data.name
        of_seed = self.similar.get((*place, run.seed), [])
        for known in (self._of_row, self._of_slug):
            found = self._closest(run, facts, [r for r in of_seed if known(run, r)])
            if found:
                earlier, changes = found
                reasons = [*self._teacher_change(run, earlier.text("teacher"))]
                if not changes and not reasons:
                    reasons = ["its frames or the picture of its ego mask are others"]
                return Rerun(run, run.label, reasons, changes, earlier.id)
        reasons = [*self._new(run, facts, self.similar.get(place, []), of_seed)]
        return Rerun(run, run.label, [*reasons, *self._teacher_change(run, "")])

    def _of_row(self, run: Run, record: Earlier) -> bool:
        """Whether a record is of the same row, and no study has it there any more."""
        label = record.text("row")
        ours = self.labels.get(run.id, {run.label})
        return label in ours and label not in self.labels.get(record.id, set())

    def _of_slug(self, run: Run, record: Earlier) -> bool:
        return record.slug == run.slug and record.id not in self.current

    def _closest(
        self, run: Run, facts: Facts, records: Sequence[Earlier]
    ) -> tuple[Earlier, list[Change]] | None:
        """The record with the fewest other settings; of equals the latest."""
        ranked = []
        for record in records:
            earlier = self.earlier_facts(record.id)
            if earlier is not None:
                changes = run_changes(earlier, facts)
                late = -(_time(record.content.get("started")) or 0.0)
                rank = len(changes), record.text("study") != run.study, late, record.id
                ranked.append((rank, record, changes))
        return min(ranked, key=lambda entry: entry[0])[1:] if ranked else None

    def _earlier_facts(self, run_id: str) -> Facts | None:
        """Settings of a folder's run; None where they cannot be read."""
        record = self.history[run_id]
        config = read_settings(self.runs / run_id / "config.yaml")
        if config is None:
            return None
        kind: RunKind = "teacher" if record.text("kind") == "teacher" else "student"
        run = Run(kind, record.slug, record.text("row"), {}, record.seed or 0, config, "", "")
        try:
            return Facts.of(run)
        except FadepthError:
            return None  # an ego mask that is gone

    def _new(
        self, run: Run, facts: Facts, similar: Sequence[Earlier], of_seed: Sequence[Earlier]
    ) -> Iterator[str]:
        """Of a run without an earlier one: what is new about it."""
        config = run.config
        if not similar:
            yield (
                f"never started: no {run.kind} of scale {config.scale} has been trained on "
                f"{config.data.name}"
            )
            return
        ours = self.labels.get(run.id, {run.label})
        alike = [r for r in similar if r.text("row") in ours or r.slug == run.slug]
        of_row = [
            r
            for r in alike
            if self._of_row(run, r) or self._of_slug(run, r) or self._is_same(r, run, facts)
        ]
        if seeds := sorted({r.seed for r in of_row if r.seed is not None}):
            yield f"new seed (until now: {', '.join(map(str, seeds))})"
            return
        yield "new row"
        found = self._closest(run, facts, [r for r in of_seed if r.id not in self.current])
        if found and 0 < len(found[1]) <= _CLOSE:
            yield f"closest earlier run {found[0].id}: {'; '.join(map(str, found[1]))}"

    def _is_same(self, record: Earlier, run: Run, facts: Facts) -> bool:
        """Whether a record differs in nothing but the seed."""
        if record.text("teacher") != (run.teacher.id if run.teacher else ""):
            return False
        earlier = self.earlier_facts(record.id)
        return earlier is not None and not run_changes(earlier, facts)

    # What is no training

    def others(self) -> list[Redone]:
        """Jobs that are due and train nothing, by what they do and why."""
        groups: dict[tuple[str, str, bool], dict[str, None]] = {}
        for file in self.due.values():
            if file.rule in TRAINING_RULES:
                continue
            evaluation = file.rule.startswith("evaluate_")
            reason, follows = self._reason(file)
            what = "evaluation" if evaluation else file.rule
            groups.setdefault((what, reason, follows), {})[_job(file)] = None
        found = [Redone(w, reason, list(items), f) for (w, reason, f), items in groups.items()]
        return sorted(found, key=lambda redone: (redone.follows, redone.what != "evaluation"))

    def _reason(self, file: PlannedFile) -> tuple[str, bool]:
        """Why, and whether a training is the reason."""
        run = self.current.get(_run_of(file.path))
        if run is not None and run.id in self.explained:
            return "networks are trained first", True
        if run is not None and file.status in _NEWER:
            return f"{'networks or ' * (run.kind in TRAINED)}data are newer", False
        if file.rule.startswith(_OF_RESULTS) and file.status in _NEWER:
            return "results are new", bool(self.explained)
        if file.status == "ok":
            return "what they are made from is made anew", bool(self.explained)
        # The text of a rule is no reason here (profiles/default), but Snakemake names it first.
        if file.status in ("params changed", "rule implementation changed"):
            return _PARAMS.get(file.rule.partition("_")[0], "rows or code changed"), False
        return _SAID.get(file.status, file.status), False


#: Snakemake's words in ours.
_SAID = {
    "missing": "not there, never made or deleted",
    "updated input files": "what they are made from is newer",
    "rule implementation changed": "settings or code changed",
    "set of input files changed": "made from other files than before",
    "params changed": "settings or code changed",
}

#: States that come of other inputs alone.
_NEWER = ("ok", "updated input files", "set of input files changed")

#: Rules that show results.
_OF_RESULTS = ("render_", "draw_", "compile_", "link_", "all_")

#: What `params` of a rule watch, by the first word of its name.
_PARAMS = {
    "evaluate": "evaluation code or protocol changed",
    "measure": "code of the measurement changed",
    "prepare": "other frames are asked for",
    "predict": "settings or code of the teacher changed",
}


def code_changes(run: Run, content: Mapping[str, Any]) -> list[str]:
    """Which code of a finished training has changed since, by its manifest."""
    before = content.get("modules")
    if not isinstance(before, dict):
        known = content.get("code_hash")
        return ["code changed"] if known and known != run.code_hash else []
    now = run.code_fingerprints
    changed = [module for module in now if module in before and now[module] != before[module]]
    added = [module for module in now if module not in before]
    gone = [module for module in before if module not in now]
    return [
        *_own_changes(run, changed, added, gone),
        *(f"code of {', '.join(names)} changed" for names in [_ours(changed)] if names),
        *(f"it now depends on {', '.join(names)}" for names in [_ours(added)] if names),
        *(f"it no longer depends on {', '.join(names)}" for names in [_ours(gone)] if names),
    ]


def _ours(modules: Iterable[str]) -> list[str]:
    return [module for module in modules if not module.startswith(OWN)]


def _own_changes(run: Run, *changes: Iterable[str]) -> Iterator[str]:
    """What has changed, come or gone of the user's own network."""
    names = [name.removeprefix(OWN) for found in changes for name in found if name.startswith(OWN)]
    if names:
        network = run.config.student.network
        yield f"your own network {network} has changed ({', '.join(names)})"


def _time(value: object) -> float | None:
    """A manifest's time, seconds since 1970; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 < value < 1e11 else None


def _run_of(path: str) -> str:
    parts = Path(path).parts
    return parts[1] if len(parts) > 2 and parts[0] == "runs" else ""


def _job(file: PlannedFile) -> str:
    """What tells one job of a rule from another; all files of a job have it in common."""
    path = Path(file.path)
    if _run_of(file.path):
        what = (
            f" {file.rule.removeprefix('evaluate_')}" if file.rule.startswith("evaluate_") else ""
        )
        return f"{path.parent.relative_to('runs')}{what}"
    return file.path if path.parts[0] == "data" else path.name.partition(".")[0]
