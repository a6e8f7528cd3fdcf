"""Commands about studies as they are written, before anything is run."""

import difflib
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fadepth.cli import completing
from fadepth.cli.commands import ASK, add_command
from fadepth.cli.common import STUDIES, Json, Override, Presets, load_preset, parse_override
from fadepth.cli.terminal import console, print_json
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from fadepth.lint import Finding

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def lint(
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STUDY",
            autocompletion=completing.studies,
            help="A study or its table by name, or a file; default: all of ablations/.",
        ),
    ] = None,
    preset: Presets = None,
    override: Override = "{}",
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    as_json: Json = False,
) -> None:
    """Find mistakes in studies before anything is trained.

    Unequal budgets, one seed, rows without effect, and the like. Needs no data. Exit code 0: no
    error; 1: an error (with --strict also a warning); 2: a study or setting cannot be read.

    Examples:
        fadepth lint
        fadepth lint components ablations/mine.yaml --strict
    """
    from fadepth.lint import lint_studies

    paths = find_study_files(studies or [])
    settings, origin = load_preset(preset, override)
    found = lint_studies(paths, settings, origin, overrides=parse_override(override))
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        _print(found, len(paths))
    counted = ("error", "warning") if strict else ("error",)
    if any(finding.level in counted for finding in found):
        raise typer.Exit(1)


def find_study_files(names: Sequence[str]) -> list[Path]:
    """Study files by name of study or table, or by path; without names all of `ablations/`.

    Raises:
        FadepthError: there is no such study; the nearest name is told.
    """
    paths = sorted(STUDIES.glob("*.yaml"))
    if not names:
        if not paths:
            raise FadepthError(f"no study file (*.yaml) in {STUDIES}: name one by its path")
        return paths
    known: dict[str, Path] = {}
    found = []
    for name in names:
        if name.endswith((".yaml", ".yml")) or "/" in name:
            found.append(Path(name))
            continue
        known = known or _by_name(paths)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}" if near else f"there are {', '.join(known)}"
            raise FadepthError(f"no study '{name}' in {STUDIES}/: {hint}; or name a file, X.yaml")
        found.append(known[name])
    return list(dict.fromkeys(found))


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Names of tables, studies and files, each with the file."""
    from fadepth.config import load_yaml

    contents = {path: load_yaml(path) for path in paths}
    names = {str(content.get("table")): path for path, content in contents.items()}
    names |= {path.stem: path for path in paths}
    return names | {str(content.get("name")): path for path, content in contents.items()}


def _print(found: Sequence["Finding"], studies: int) -> None:
    from rich.text import Text

    out = console()
    for file in dict.fromkeys(finding.file for finding in found):
        out.print(Text(file, "bold"), soft_wrap=True)
        for finding in found:
            if finding.file == file:
                row = f"{finding.row}: " if finding.row else ""
                line = f"  {finding.level:<7}  {row}{finding.sentence}"
                if sys.stdout.isatty():
                    line = textwrap.fill(line, out.width, subsequent_indent=" " * 11)
                text = Text(line)
                text.stylize(_STYLES[finding.level], 2, 2 + len(finding.level))
                out.print(text, soft_wrap=True)
    out.print(Text(_summary([finding.level for finding in found], studies)))


def _summary(levels: Sequence[str], studies: int) -> str:
    where = "1 study" if studies == 1 else f"{studies} studies"
    counts = {level: levels.count(level) for level in _STYLES if level in levels}
    said = ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for level, n in counts.items())
    return f"{where}: {said or 'no findings'}"


def add_to(app: typer.Typer) -> None:
    """Add these commands to the `fadepth` command."""
    add_command(app, lint, ASK)
