"""Commands that tell what is there, what runs now and what would run, and change nothing."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fadepth.cli import completing
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
    load_studies,
    parse_override,
)
from fadepth.cli.terminal import console, print_json
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from fadepth.execution.status import Snapshot
    from fadepth.study import Study

Tables = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TABLE",
        autocompletion=completing.studies,
        help="Tables or their studies, such as table_etm; default: all.",
    ),
]


def runs(
    tables: Tables = None,
    as_json: Json = False,
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """List the runs of every study, and how far each is.

    A run is named after what its result depends on: other settings, another name. With --json each
    run stands once, with the tables that show it.

    Examples:
        fadepth runs
        fadepth runs etm --preset config/smoke.yaml
        fadepth runs --json | jq -r '.[] | select(.state == "done").run'
    """
    from rich.table import Table
    from rich.text import Text

    from fadepth.execution.status import Board

    studies = _chosen(tables or (), *load_all_studies(preset, override))
    found = Board(studies, RUNS).read()
    if as_json:
        print_json(_runs_json(found))
        return
    for study in found.studies:
        view = Table(title=Text(study.title))
        for column in ("row", "run", "state"):
            view.add_column(column, overflow="fold")
        for row in study.rows:
            for run, state in row.runs:
                view.add_row(Text(row.label), run.id, Text(state.words()))
        console().print(view)


def _runs_json(found: "Snapshot") -> list[dict[str, Any]]:
    """Each run once, in the order of the tables."""
    runs: dict[str, dict[str, Any]] = {}
    for study in found.as_json()["studies"]:
        for row in study["rows"]:
            for run in row["runs"]:
                known = runs.setdefault(run["run"], {**run, "rows": []})
                known["rows"].append({"table": study["table"], "row": row["row"]})
    return list(runs.values())


def status(
    tables: Tables = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until all is done, or until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Time between two looks.")
    ] = 2.0,
    as_json: Json = False,
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Show how far the trainings of each table are.

    Reads the files of runs/ and changes nothing, so it may run beside anything else.

    Examples:
        fadepth status
        fadepth status table_etm --watch
    """
    from fadepth.execution.status import Board, board_view
    from fadepth.execution.status import watch as watch_board

    if watch and as_json:
        raise FadepthError("--watch and --json do not go together: leave out one of them")
    board = Board(_chosen(tables or (), *load_all_studies(preset, override)), RUNS)
    if as_json:
        print_json(board.read().as_json())
    elif watch:
        watch_board(board, console(), interval)
    else:
        console().print(board_view(board.read()))


def why_rerun(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="TARGET", help="As for snakemake; default: reports/all."),
    ] = None,
    as_json: Json = False,
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Say why Snakemake would train something again.

    In words of the study, such as "+ APX, seed 2: loss.apx.weight 0.1 -> 0.2".

    Examples:
        fadepth why-rerun
        fadepth why-rerun reports/table_ablation.csv --json
    """
    from fadepth.execution.reruns import explain_reruns, planned_files

    planned = planned_files(targets or ["reports/all"], preset or [], parse_override(override))
    studies = load_studies(preset, override).values()
    found = explain_reruns(studies, RUNS, Path("data"), planned)
    if as_json:
        print_json(found.as_json())
        return
    for line in found.lines():
        console(soft_wrap=True).print(line, markup=False)


def diff(
    one: Annotated[
        str,
        typer.Argument(
            metavar="A",
            autocompletion=completing.studies,
            help="A study or its file, and a preset if it is not --preset: etm, "
            "table_etm@config/kitti.yaml.",
        ),
    ],
    other: Annotated[
        str,
        typer.Argument(metavar="B", autocompletion=completing.studies, help="The other one."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write this .csv; .md, .tex and .html lie beside it."
        ),
    ] = None,
    as_json: Json = False,
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Compare two studies: settings, rows and results.

    Results are those of rows that are in both.

    Examples:
        fadepth diff components apx
        fadepth diff table_etm@config/smoke.yaml table_etm@config/quick.yaml
    """
    # Before the heavy imports: a wrong name is told at once.
    a, b = (_named_study(text, preset, override) for text in (one, other))

    from fadepth.execution.study_diff import Side, compare_studies, diff_table, diff_view
    from fadepth.report.writers import write_table

    found = compare_studies(Side(*a), Side(*b), RUNS)
    if as_json:
        print_json(found.as_json())
    else:
        console().print(diff_view(found))
    if output:
        write_table(diff_table(found), output)


def _named_study(text: str, presets: list[Path] | None, override: str) -> tuple[str, "Study"]:
    """Study and its name with the preset's.

    Args:
        text: `STUDY` or `STUDY@PRESET`, where STUDY is a study's name, its table, or a file.
        presets: without PRESET.
        override: on top of either.
    """
    from fadepth.study import resolve_study

    name, at, preset = text.rpartition("@")
    # A file's own name may hold an @.
    if not at or Path(text).is_file():
        name, preset = text, ""
    files = [Path(preset)] if preset else presets
    path = _study_file(name)
    study = resolve_study(path, *load_preset(files, override), overrides=parse_override(override))
    told = " + ".join(str(file) for file in files or [DEFAULT_PRESET])
    return f"{name}@{told}", study


def _study_file(name: str) -> Path:
    """The file of a study, by its path, its name or its table.

    Raises:
        FadepthError: there is none; the nearest name is told.
    """
    from fadepth.config import load_yaml

    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise FadepthError(f"{path} does not exist: name a study file, or a study of {STUDIES}/")
    known: dict[str, Path] = {}
    for file in sorted(STUDIES.glob("*.yaml")):
        content = load_yaml(file)
        for key in (content.get("name"), content.get("table")):
            known.setdefault(str(key), file)
    if name not in known:
        raise FadepthError(_unknown(name, known))
    return known[name]


def _chosen(
    names: Iterable[str], studies: dict[str, "Study"], left_out: dict[str, str]
) -> list["Study"]:
    """The studies that feed these tables; all where none is named.

    Raises:
        FadepthError: a name is no table's and no study's.
    """
    by_name = {study.file.name: study for study in studies.values()} | studies
    chosen = []
    for name in names:
        if name not in by_name:
            raise FadepthError(left_out.get(name, _unknown(name, by_name)))
        chosen.append(by_name[name])
    return chosen or list(studies.values())


def _unknown(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"no study is called '{name}': {hint}there are {', '.join(names)}"


def add_to(app: typer.Typer) -> None:
    """Add these commands to the `fadepth` command."""
    add_command(app, runs, ASK)
    add_command(app, status, ASK, kept="what is being trained goes on")
    add_command(app, why_rerun, ASK)
    add_command(app, diff, ASK)
