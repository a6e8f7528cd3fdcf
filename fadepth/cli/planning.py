"""Commands that tell what the workflow would do, and clear away what no study asks for."""

import json
import shlex
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fadepth.cli.commands import ASK, add_command
from fadepth.cli.common import (
    DEFAULT_PRESET,
    RUNS,
    STUDIES,
    Json,
    Override,
    Presets,
    load_all_studies,
    load_preset,
    parse_override,
    set_up_logging,
)
from fadepth.cli.terminal import console, print_json
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from rich.table import Table

    from fadepth.execution.gc import Found
    from fadepth.execution.plan.plan import Plan, PlannedRun, Planner

DATA = Path("data")
EVERYTHING = "reports/all"
#: Rows of tables that are printed; --json has all.
_ROWS = 40
_CORES = 8


def plan(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="TARGET", help=f"As for snakemake; default: {EVERYTHING}."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Say what fits into this time: 90m, 6h, 2d."),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Trainings at once; default: usable cores, or 1 on a GPU."
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="First time a few steps of what nobody has timed."),
    ] = False,
    as_json: Json = False,
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Say what would run, in what time and space.

    Trainings that `snakemake TARGET` would do, reuse and go on with. Snakemake itself is asked, and
    nothing is started. Hours come from measured steps; --budget also prints the call that trains
    what fits.

    Examples:
        fadepth plan
        fadepth plan reports/table_ablation.csv --override '{"seeds": [1, 2, 3]}'
        fadepth plan --budget 6h
    """
    from fadepth.execution.plan.jobs import workflow_jobs
    from fadepth.execution.plan.plan import Planner
    from fadepth.execution.plan.schedule import parse_duration
    from fadepth.study import missing_benchmark

    set_up_logging("plan", None)
    seconds = parse_duration(budget) if budget else None
    wanted = targets or [EVERYTHING]
    studies, left_out = load_all_studies(preset, override)
    jobs = workflow_jobs(wanted, preset or [], parse_override(override))
    planner = Planner(jobs, studies)
    if calibrate:
        _calibrate(planner)
        planner = Planner(jobs, studies)
    for table, study in studies.items():
        if reason := missing_benchmark(study, Path.cwd()):
            left_out[table] = reason
    made = planner.plan(wanted, left_out if EVERYTHING in wanted else {}, slots, seconds)
    command = _command(made, preset, override, slots) if made.budget else None
    if as_json:
        print_json({**made.as_dict(), "command": command})
    else:
        _tell(made, command)


def _calibrate(planner: "Planner") -> None:
    untimed = planner.untimed()
    if not untimed:
        return
    from fadepth.execution.plan.calibrate import calibrate

    typer.secho("timing a few steps of each training that nobody has timed", err=True)
    for problem in calibrate(untimed, RUNS, DATA, lambda line: typer.secho(f"  {line}", err=True)):
        typer.secho(f"  not timed: {problem}", err=True)


def _command(plan: "Plan", presets: list[Path] | None, override: str, slots: int | None) -> str:
    """The call that trains and evaluates just what fits the budget."""
    from fadepth.config import merge

    assert plan.budget is not None
    targets = [f"runs/{run_id}/metrics.json" for run_id in plan.budget.fits]
    if not targets:
        return ""
    words = ["snakemake", "--cores", str(max(_CORES, plan.slots)), *targets]
    if presets and presets != [DEFAULT_PRESET]:
        words += ["--configfile", *map(str, presets)]
    if extra := merge({}, parse_override(override)):
        words += ["--config", *(f"{key}={json.dumps(value)}" for key, value in extra.items())]
    if slots:
        words += ["--resources", f"train_slot={slots}", f"gpu={slots}"]
    return shlex.join(words)


# For people


def _tell(plan: "Plan", command: str | None) -> None:
    text = console(soft_wrap=True)
    for line in _heading(plan):
        text.print(line, markup=False)
    if plan.count("to do", "resumable", "running"):
        console().print(_rows_table(plan))
        for line in _hours(plan):
            text.print(line, markup=False)
    for line in (*_disk(plan), *_left_out(plan), *_budget(plan, command)):
        text.print(line, markup=False)


def _heading(plan: "Plan") -> Iterator[str]:
    target = " ".join(plan.targets)
    if not plan.jobs:
        yield f"{target}: nothing to be done; all {len(plan.runs)} trainings are there."
        return
    new = plan.count("to do", "resumable", "running")
    parts = [f"{new} of {len(plan.runs)} trainings to do"]
    if resumable := plan.count("resumable"):
        parts.append(f"{resumable} of them resumable")
    if running := plan.count("running"):
        parts.append(f"{running} of them running now")
    parts.append(f"{plan.count('reused')} reused")
    yield f"{target}: {', '.join(parts)}."
    kinds: Counter[tuple[str, str]] = Counter()
    for rule, number in plan.jobs.items():
        kinds[_kind(rule)] += number
    kinds.pop(_kind("train_"), None)
    if kinds:
        told = [f"{number} {names[number != 1]}" for names, number in kinds.items()]
        yield f"Beside them: {', '.join(told)}."
    if outdated := sum(run.outdated for run in plan.runs):
        yield f"{outdated} checkpoints are of other code: these trainings start from the beginning."


#: What jobs are called, one and several, by the start of their rule's name.
_KINDS = {
    "train_": ("training", "trainings"),
    "predict_": ("prediction of all frames by a teacher", "predictions of all frames by teachers"),
    "evaluate_": ("evaluation", "evaluations"),
    "measure_": ("evaluation", "evaluations"),
    "render_table": ("table", "tables"),
    "render_effects": ("table", "tables"),
    "draw_": ("figure", "figures"),
    "": ("other job", "other jobs"),
}


def _kind(rule: str) -> tuple[str, str]:
    return next(names for start, names in _KINDS.items() if rule.startswith(start))


def _rows_table(plan: "Plan") -> "Table":
    from rich import box
    from rich.table import Table

    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in plan.runs:
        groups.setdefault((run.study, run.row), []).append(run)
    new = {key: [r for r in runs if r.state != "reused"] for key, runs in groups.items()}
    studies = list(dict.fromkeys(study for study, _ in groups))
    shown = sorted((key for key in groups if new[key]), key=lambda key: studies.index(key[0]))
    view = Table(box=box.SIMPLE, caption_justify="left", pad_edge=False)
    view.caption = _caption(len(shown), len(groups))
    for name in ("study", "row"):
        view.add_column(name, overflow="fold")
    for name in ("to do", "reused", "steps left", "s/step", "time"):
        view.add_column(name, justify="right")
    for name in ("timed by", "resumable"):
        view.add_column(name, overflow="fold")
    for key in shown[:_ROWS]:
        reused = len(groups[key]) - len(new[key])
        view.add_row(*key, str(len(new[key])), str(reused or ""), *_cells(new[key]))
    return view


def _cells(new: "list[PlannedRun]") -> tuple[str, ...]:
    """Of the runs of a row that are to do: steps, seconds a step, time, its source, resumable."""
    from fadepth.execution.plan.schedule import spoken_duration

    left = [run.steps - run.step for run in new if run.steps is not None]
    times = [run.time for run in new if run.time is not None]
    seconds = [run.seconds for run in new if run.seconds is not None]
    return (
        f"{sum(left):,}" if len(left) == len(new) else "?",
        f"{statistics.mean(time.seconds for time in times):.3g}" if times else "?",
        spoken_duration(sum(seconds)) if len(seconds) == len(new) else "?",
        ", ".join(dict.fromkeys(time.note for time in times)),
        "; ".join(_begun(new)),
    )


def _begun(runs: "list[PlannedRun]") -> Iterator[str]:
    for run in runs:
        if run.state in ("resumable", "running"):
            now = ", running" if run.state == "running" else ""
            yield f"seed {run.seed} at epoch {run.epoch:.3g}/{run.epochs}{now}"


def _caption(shown: int, groups: int) -> str | None:
    parts = []
    if shown > _ROWS:
        parts.append(f"{shown - _ROWS} more rows (--json lists all)")
    if groups > shown:
        parts.append(f"{groups - shown} rows are reused as they are")
    return "; ".join(parts) or None


def _hours(plan: "Plan") -> Iterator[str]:
    from fadepth.execution.plan.schedule import spoken_duration

    if plan.machine_seconds:
        least = "at least " if plan.untimed else ""
        yield (
            f"Time: {least}{spoken_duration(plan.machine_seconds)} of work, "
            f"{least}{spoken_duration(plan.wall_seconds)} on the clock with {plan.slots} at once."
        )
    untimed = [run for run in plan.runs if run.id in {*plan.untimed}]
    if never := [run for run in untimed if run.time is None]:
        yield (
            f"Time of {len(never)} trainings unknown: no step of that kind has been timed here; "
            "`fadepth plan --calibrate` times a few."
        )
    if without := len(untimed) - len(never):
        yield f"Time of {without} trainings unknown: their frames are counted once data are there."
    kinds = dict.fromkeys(_kind(rule)[1] for rule in plan.not_counted)
    yield f"Not counted: {', '.join(['start-up', *kinds])} (nobody has timed them)."


def _disk(plan: "Plan") -> Iterator[str]:
    from fadepth.files import readable_bytes

    disk = plan.disk
    if not (disk.total or disk.unknown):
        return
    parts = [f"runs {readable_bytes(disk.runs)}"]
    if disk.predictions:
        parts.append(f"predictions {readable_bytes(disk.predictions)}")
    if disk.caches:
        parts.append(f"caches of images {readable_bytes(disk.caches)}")
    how = f"; {disk.computed} trainings by weights and checkpoint alone" if disk.computed else ""
    yield (
        f"Disk: about {readable_bytes(disk.total)} ({', '.join(parts)}{how}); "
        f"{readable_bytes(plan.free_bytes)} are free."
    )
    if disk.total > plan.free_bytes:
        yield (
            f"WARNING: that is {readable_bytes(disk.total - plan.free_bytes)} more than is free: "
            "make room first (`fadepth gc --dry-run` lists what no study asks for)."
        )
    if disk.unknown:
        yield f"Disk not known yet for {', '.join(disk.unknown)}."


def _left_out(plan: "Plan") -> Iterator[str]:
    for table, reason in plan.left_out.items():
        yield f"{table} is left out: {reason}"


def _budget(plan: "Plan", command: str | None) -> Iterator[str]:
    from fadepth.execution.plan.schedule import spoken_duration

    budget = plan.budget
    if budget is None:
        return
    number = sum(map(len, (budget.fits, budget.too_long, budget.untimed)))
    yield (
        f"In {spoken_duration(budget.seconds)} with {plan.slots} at once: {len(budget.fits)} of "
        f"{number} trainings fit ({spoken_duration(budget.wall_seconds)})"
        + (f"; {len(budget.untimed)} were never timed." if budget.untimed else ".")
    )
    named = {run.id: run for run in plan.runs}
    for title, ids in (("fits", budget.fits), ("does not fit", budget.too_long)):
        rows: dict[str, list[int]] = {}
        for run in (named[run_id] for run_id in ids):
            rows.setdefault(f"{run.study}: {run.row}", []).append(run.seed)
        for row, seeds in list(rows.items())[:_ROWS]:
            yield f"  {title}: {row}, seed{'s' * (len(seeds) > 1)} {_spans(seeds)}"
        if len(rows) > _ROWS:
            yield f"  {title}: {len(rows) - _ROWS} more rows"
    if command:
        yield f"This runs what fits:\n{command}"


def _spans(numbers: list[int]) -> str:
    """`1 to 250`, `1, 3, 4`."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][-1] == number - 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    long = [f"{span[0]} to {span[-1]}" if len(span) > 2 else None for span in spans]
    words = [text or ", ".join(map(str, span)) for text, span in zip(long, spans, strict=True)]
    return ", ".join(words)


# Clearing away


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list; delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Also checkpoints of finished trainings.")
    ] = False,
    as_json: Json = False,
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Delete runs and data that no study asks for.

    A study asks for a run under any preset of config/ or the given one. Runs that somebody works
    on, and folders that are not ours, are never touched. A finished training needs its checkpoint
    no more: were its code to change, it would start afresh anyway.

    Examples:
        fadepth gc --dry-run
        fadepth gc --dry-run --json
        fadepth gc --checkpoints
    """
    from fadepth.execution.gc import asked_for, delete, find_free, no_workflow

    presets: list[tuple[dict[str, Any], str, dict[str, Any]]]
    presets = [(*load_preset([path]), {}) for path in sorted(DEFAULT_PRESET.parent.glob("*.yaml"))]
    presets.append((*load_preset(preset, override), parse_override(override)))
    found = find_free(asked_for(STUDIES, presets), RUNS, DATA, checkpoints)
    if not as_json:
        _list(found)
    freed, stayed = 0, list[Path]()
    if found.free and not dry_run and _may_delete(found, yes, as_json):
        with no_workflow(Path(".snakemake")):
            freed, stayed = delete(found.free)
    if as_json:
        print_json(_found_json(found, freed, stayed))
    else:
        _tell_freed(found, dry_run, freed, stayed)


def _list(found: "Found") -> None:
    text = console(soft_wrap=True)
    for line in _kept(found):
        text.print(line, markup=False)
    if found.free:
        console().print(_free_table(found))


def _may_delete(found: "Found", yes: bool, as_json: bool) -> bool:
    from fadepth.files import readable_bytes

    size = readable_bytes(found.size)
    if yes:
        return True
    if as_json or not sys.stdin.isatty():
        raise FadepthError(
            f"gc would delete {size} and there is no terminal to ask at: call it with --yes, or "
            "with --dry-run to list only"
        )
    return typer.confirm(f"Delete these {len(found.free)} things, {size}?")


def _tell_freed(found: "Found", dry_run: bool, freed: int, stayed: list[Path]) -> None:
    from fadepth.files import readable_bytes

    if not found.free:
        typer.echo("Nothing is free: studies ask for all that is there, or it is kept.")
    elif dry_run:
        size = readable_bytes(found.size)
        typer.echo(f"Without --dry-run this would free {size}; nothing was deleted.")
    elif not freed and not stayed:
        typer.echo("Nothing was deleted.")
    else:
        typer.echo(f"Freed {readable_bytes(freed)}.")
    for path in stayed:
        typer.echo(f"{path} stays: a process has begun to write there.")


def _found_json(found: "Found", freed: int, stayed: list[Path]) -> dict[str, Any]:
    return {
        "free": [
            {
                "kind": item.kind,
                "paths": [str(path) for path in item.paths],
                "bytes": item.size,
                "written": item.written,
                "what": item.what,
            }
            for item in found.free
        ],
        "kept": [{"path": str(path), "reason": reason} for path, reason in found.kept],
        "bytes": found.size,
        "freed_bytes": freed,
        "stayed": [str(path) for path in stayed],
    }


def _free_table(found: "Found") -> "Table":
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from fadepth.execution.gc import age
    from fadepth.execution.plan.schedule import spoken_duration
    from fadepth.files import readable_bytes

    view = Table(box=box.SIMPLE, caption_justify="left", pad_edge=False)
    for name in ("kind", "where", "size", "last written", "what"):
        view.add_column(name, overflow="fold", justify="right" if name == "size" else "left")
    largest = sorted(found.free, key=lambda item: (-item.size, item.paths))
    for item in largest[:_ROWS]:
        cells = (str(item.paths[0]), readable_bytes(item.size), f"{spoken_duration(age(item))} ago")
        view.add_row(item.kind, *map(escape, cells), escape(item.what))
    if (more := largest[_ROWS:]) and (size := sum(item.size for item in more)):
        view.caption = f"and {len(more)} smaller ones, {readable_bytes(size)}"
    return view


def _kept(found: "Found") -> Iterator[str]:
    """Folders that stay although no study asks for them, by reason."""
    reasons: dict[str, list[str]] = {}
    for path, reason in found.kept:
        reasons.setdefault(reason, []).append(str(path))
    for reason, paths in reasons.items():
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        yield f"Kept: {', '.join(paths[:3])}{more} ({reason})"


def add_to(app: typer.Typer) -> None:
    """Add these commands to the `fadepth` command."""
    add_command(app, plan, ASK)
    kept = "what was deleted by then is gone, nothing is left half; the same command goes on"
    add_command(app, gc, ASK, kept=kept)
