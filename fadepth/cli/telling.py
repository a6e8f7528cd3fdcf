"""Commands that tell what is there, what runs now and what would run, and change nothing."""

import difflib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fadepth.cli.common import (
    DEFAULT_PRESET,
    RUNS,
    STUDIES,
    Override,
    Presets,
    load_all_studies,
    load_preset,
    load_studies,
    parse_override,
)
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from rich.console import Console

    from fadepth.study import Study

Json = Annotated[bool, typer.Option("--json", help="for machines")]


def runs(preset: Presets = None, override: Override = "{}") -> None:
    """List the runs of every study, and how far each is."""
    from rich.table import Table
    from rich.text import Text

    from fadepth.execution.status import Board

    for study in Board(load_studies(preset, override).values(), RUNS).read().studies:
        view = Table(title=Text(study.title))
        for column in ("row", "run", "state"):
            view.add_column(column, overflow="fold")
        for row in study.rows:
            for run, state in row.runs:
                view.add_row(Text(row.label), run.id, Text(state.words()))
        _console().print(view)


def status(
    tables: Annotated[
        list[str] | None, typer.Argument(help="tables, such as table_etm; default: all")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="go on until all is done, or until Ctrl-C")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="seconds between two looks")] = 2.0,
    as_json: Json = False,
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Tell how far the trainings of each table are, row by row."""
    from fadepth.execution.status import Board, board_view
    from fadepth.execution.status import watch as watch_board

    if watch and as_json:
        raise FadepthError("--watch and --json do not go together: leave out one of them")
    board = Board(_chosen(tables or (), *load_all_studies(preset, override)), RUNS)
    if as_json:
        _print_json(board.read().as_json())
    elif watch:
        try:
            watch_board(board, _console(), interval)
        except KeyboardInterrupt:
            return
    else:
        _console().print(board_view(board.read()))


def why_rerun(
    targets: Annotated[
        list[str] | None, typer.Argument(help="files that Snakemake is to make")
    ] = None,
    as_json: Json = False,
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Tell why each training that Snakemake would do now is to be done.

    Default target: reports/all.
    """
    from fadepth.execution.reruns import explain_reruns, planned_files

    planned = planned_files(targets or ["reports/all"], preset or [], parse_override(override))
    studies = load_studies(preset, override).values()
    found = explain_reruns(studies, RUNS, Path("data"), planned)
    if as_json:
        _print_json(found.as_json())
        return
    for line in found.lines():
        _console().print(line, markup=False, highlight=False, soft_wrap=True)


def diff(
    one: Annotated[
        str,
        typer.Argument(
            metavar="A", help="a study or its file, and a preset: etm, table_etm@config/kitti.yaml"
        ),
    ],
    other: Annotated[str, typer.Argument(metavar="B", help="the other one")],
    output: Annotated[
        Path | None, typer.Option(help="a .csv file; .md, .tex and .html lie beside it")
    ] = None,
    as_json: Json = False,
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Compare two studies: settings, rows, and results of rows that are in both."""
    # Before the heavy imports: a wrong name is told at once.
    a, b = (_named_study(text, preset, override) for text in (one, other))

    from fadepth.execution.study_diff import Side, compare_studies, diff_table, diff_view
    from fadepth.report.writers import write_table

    found = compare_studies(Side(*a), Side(*b), RUNS)
    if as_json:
        _print_json(found.as_json())
    else:
        _console().print(diff_view(found))
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


def _console() -> "Console":
    from rich.console import Console

    # A file or a pipe has no width: names are not to be folded there.
    return Console(width=None if sys.stdout.isatty() else 200)


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=1, ensure_ascii=False))


def add_to(app: typer.Typer) -> None:
    """Add these commands to the `fadepth` command."""
    for command in (runs, status, why_rerun, diff):
        app.command()(command)
