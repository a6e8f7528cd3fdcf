"""How a function becomes a command: its help, its place in `fadepth --help`, its end by Ctrl-C."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, ClassVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from fadepth.cli.terminal import say

#: Panels of `fadepth --help`, the everyday ones first.
ASK = "See and ask"
NETWORKS = "Networks"
REPORTS = "Tables and figures"
DATA = "Data"
WORKFLOW = "Run by the workflow"

#: What Ctrl-C has left of a command that only reads.
NOTHING = "nothing was changed"
#: Of one whose files appear when they are whole.
UNFINISHED = "what was there before is as it was; the same command does it again"


class _Plain:
    """Help in words that people type: types and ranges stand in metavars and sentences."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for parameter in self.params:  # type: ignore[attr-defined]
            _simplify(parameter)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; no other names of an option, which are for scripts of before."""
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            _simplify(parameter)  # also --help, which is made late
            if isinstance(parameter, TyperOption):
                del parameter.opts[1:]
        super().format_help(ctx, formatter)  # type: ignore[misc]


def _simplify(parameter: object) -> None:
    """No `<bool>`, `<list[Path]>` and `[x>=1]`; all of it is for the help alone."""
    if isinstance(parameter, TyperArgument):
        parameter.display_type_rich = lambda ctx: ""  # type: ignore[method-assign]
    elif isinstance(parameter, TyperOption):
        parameter.min = parameter.max = None
        if parameter.is_flag:
            parameter.metavar = ""
        elif parameter.metavar is None and parameter.type_descriptor.is_choice:
            parameter.metavar = "|".join(map(str, parameter.type_descriptor.choices or ()))


class Command(_Plain, TyperCommand):
    """A command."""


class Group(_Plain, TyperGroup):
    """`fadepth`, `fadepth data`, `fadepth bench`.

    Attributes:
        order: names of commands in the order of their use; others come after them.
    """

    order: ClassVar[tuple[str, ...]] = ()

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, as `--help` shows them."""
        place = {name: number for number, name in enumerate(self.order)}
        return sorted(super().list_commands(ctx), key=lambda name: place.get(name, len(place)))


def add_command(
    app: typer.Typer,
    function: Callable[..., None],
    panel: str | None = None,
    *,
    kept: str = NOTHING,
    name: str | None = None,
) -> None:
    """Add a function to the command line.

    Args:
        app: `fadepth` or a group of it.
        function: its docstring is the help: one line for the list, more for the command's own,
            then `Examples:`, which stand below the options.
        panel: where `--help` lists it.
        kept: what is left after Ctrl-C, and how to go on.
        name: default: the function's.
    """
    told, _, examples = inspect.cleandoc(function.__doc__ or "").partition("\n\nExamples:\n")
    if examples:
        lines = (line.strip() for line in examples.splitlines())
        examples = "\n".join(["Examples:", *(f"$ {line}" for line in lines if line)])
    app.command(
        name,
        cls=Command,
        rich_help_panel=panel,
        help=as_help(told),
        epilog=_without_markup(examples) or None,
    )(_interruptible(function, kept))


def as_help(text: str) -> str:
    """Each paragraph as one line, which the terminal folds."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return _without_markup("\n\n".join(" ".join(part.split()) for part in paragraphs))


def _without_markup(text: str) -> str:
    """Brackets that rich shows and does not take for styles."""
    return re.sub(r"\[(?=[a-z#/@])", r"\\[", text)


def _interruptible(function: Callable[..., None], kept: str) -> Callable[..., None]:
    """The function, which tells on Ctrl-C what is left; typer then ends with code 130."""

    @functools.wraps(function)
    def command(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except KeyboardInterrupt:
            say(f"interrupted; {kept}", "yellow")
            raise

    return command
