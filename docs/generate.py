"""Write the pages of docs/reference/ that are made from the code: `python docs/generate.py`.

They are committed, so that they can be read without the site; tests/docs/test_site.py fails when
one of them is not what the code says.
"""

import json
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import typer
import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.cli import get_docs_for_click

from fadepth.cli import app
from fadepth.config import Config, Settings, load_config
from fadepth.evaluation.protocols import Protocol
from fadepth.files import write_atomic
from fadepth.study_file import StudyFile

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"

#: Left out of the table of presets, which they would make too wide.
PATHS = ("data.root", "data.splits", "odometry.root", "odometry.raw_root")

PRESETS = ("smoke", "quick", "kitti_mini", "own_video", "kitti", "ddad")

#: A class of settings, and the heading under which the page tells its keys.
Places = dict[type[Settings], str]

_MADE = "<!-- Made by `python docs/generate.py` from {source}: edit that, then call it again. -->"

_CONFIGURATION = """
Every key of a preset (`config/NAME.yaml`), of a study (`ablations/NAME.yaml`) and of a protocol
(`fadepth/protocols/NAME.yaml`), with its type, its default and its meaning, from the classes that
read them. A file says only what differs from the defaults; an unknown key is an error that names
the nearest right one. Defaults are the paper-scale reading of the method, monodepth2's where no
source tells FA-Depth's; [config/kitti.yaml](../../config/kitti.yaml) writes all of them out with
the source of each.

Later ones win: defaults, the preset, Snakemake's `--config` (or `--override`), the row of a study.
Only a study's `seeds` give way to those of `--config`. Studies and `--override` may write
`loss.apx.weight: 0.2` for the nested key.

**°** marks what is in no run's identity: it says where or how fast, and changing it trains nothing
again ([decision 001](../decisions/001-run-identity.md)). "None" in a meaning is YAML's `null`.
"""

_STUDY = """## Studies

A study file, `ablations/NAME.yaml`, names a table and its rows;
[ablations/README.md](../../ablations/README.md) tells how to write one.
"""

_PROTOCOL = """## Protocols

How depth is compared with ground truth; `evaluation.protocol` names one.
[Data and protocols](../data.md) tells which there are.
"""


def main() -> None:
    """Write every page anew."""
    for name, page in PAGES.items():
        write_atomic(REFERENCE / name, page())
        print(f"docs/reference/{name}")


# Configuration


def configuration_page() -> str:
    """Keys of presets, studies and protocols; and what each preset sets."""
    source = "fadepth/config.py, study_file.py, evaluation/protocols.py and config/"
    parts = ["# Configuration", _MADE.format(source=source), _CONFIGURATION]
    parts += ["## Presets", *sections(Config, "Keys of a preset")]
    parts += ["### What each preset sets", *preset_table()]
    parts += [_STUDY, *sections(StudyFile, "Keys of a study")]
    parts += [_PROTOCOL, *sections(Protocol, "Keys of a protocol")]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def sections(model: type[Settings], title: str) -> Iterator[str]:
    """For a class and each nested one: a heading, its docstring and the table of its keys."""
    places: Places = {model: title}
    waiting = [(model, "")]
    while waiting:
        model, prefix = waiting.pop(0)
        inner = []
        for name, field in model.model_fields.items():
            nested, step = nested_settings(field.annotation)
            if nested and nested not in places:
                places[nested] = f"`{prefix}{name}{step}`"
                inner.append((nested, f"{prefix}{name}{step}."))
        waiting = inner + waiting
        yield f"### {places[model]}"
        yield prose(model.__doc__ or "")
        rows = [row(name, prefix, field, places) for name, field in model.model_fields.items()]
        yield table(("key", "type", "default", "meaning"), rows)


def nested_settings(annotation: Any) -> tuple[type[Settings] | None, str]:
    """The class of settings below a key, and what stands between: `.NAME` in a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation, ""
    inner = [a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, Settings)]
    if not inner:
        return None, ""
    kind = get_origin(annotation)
    return inner[0], ".NAME" if kind is dict else "[]" if kind is tuple else ""


def row(name: str, prefix: str, field: FieldInfo, places: Places) -> tuple[str, str, str, str]:
    """Cells of one key."""
    extra = field.json_schema_extra
    mark = "&nbsp;°" if isinstance(extra, Mapping) and extra.get("identity") is False else ""
    nested, _ = nested_settings(field.annotation)
    described = (nested.__doc__ or "").splitlines()[0].removesuffix(".") if nested else ""
    meaning = prose(field.description or described)
    default = field.get_default()
    if default is PydanticUndefined:
        shown = "required"
    else:
        shown = "" if isinstance(default, Settings) else f"`{yaml_text(default)}`"
    kind = ", ".join(filter(None, [type_text(field.annotation, places), bounds_text(field)]))
    return f"`{prefix}{name}`{mark}", kind, shown, meaning


#: What YAML takes for a Python type: one, and several.
_NAMES = {
    bool: ("true or false", "true or false"),
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    str: ("text", "texts"),
}


def type_text(annotation: Any, places: Places, *, plural: bool = False) -> str:
    """What may be written in YAML for a Python type; of sections, a link to where they are told."""
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return _either([f"`{yaml_text(value)}`" for value in arguments])
    if kind in (Union, types.UnionType):
        if {bool, str} <= {*arguments}:
            return "plain value"
        told = [a for a in arguments if a is not type(None)]
        texts = [type_text(a, places, plural=plural) for a in told]
        return _either(texts + ["`null`"] * (len(told) < len(arguments)))
    if kind is tuple:
        count = "" if Ellipsis in arguments else f"{len(arguments)} "
        return f"list of {count}{type_text(arguments[0], places, plural=True)}"
    if kind is dict:
        return f"NAME: {type_text(arguments[1], places)}"
    if annotation in places:
        return f"[section](#{slug(places[annotation])})"
    return _NAMES[annotation][plural] if annotation in _NAMES else "anything"


def _either(texts: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def slug(heading: str) -> str:
    """The anchor of a heading, on GitHub and on the site."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


def bounds_text(field: FieldInfo) -> str:
    """The range of a number, the pattern of a text or the least length of a list."""
    told = []
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(ge=limit):
                told.append(f"≥ {limit}")
            case annotated_types.Gt(gt=limit):
                told.append(f"&gt; {limit}")
            case annotated_types.Le(le=limit):
                told.append(f"≤ {limit}")
            case annotated_types.Lt(lt=limit):
                told.append(f"&lt; {limit}")
            case annotated_types.MinLen(min_length=length):
                told.append(f"at least {length}")
            case _ if pattern := getattr(bound, "pattern", None):
                told.append(f"matching `{pattern}`")
    return ", ".join(told)


def preset_table() -> Iterator[str]:
    """What presets set other than the default, key by key."""
    defaults = dict(leaves(Config()))
    presets = [dict(leaves(load_config(ROOT / "config" / f"{name}.yaml"))) for name in PRESETS]
    files = ", ".join(f"[{name}.yaml](../../config/{name}.yaml)" for name in PRESETS)
    yield (
        "Empty: the default. Where data lie is left out; of `benchmarks` and `datasets` only names "
        f"are shown. Files: {files}."
    )
    rows = []
    for key, default in defaults.items():
        cells = [f"`{p[key]}`" if p[key] != default else "" for p in presets]
        if any(cells) and key not in PATHS:
            rows.append((f"`{key}`", f"`{default}`", *cells))
    yield table(("key", "default", *PRESETS), rows)


def leaves(settings: Settings, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and value, as YAML, of everything that is not a section."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from leaves(value, f"{prefix}{name}.")
        elif name in ("benchmarks", "datasets"):
            yield prefix + name, ", ".join(value) or "{}"
        else:
            yield prefix + name, yaml_text(value)


def yaml_text(value: Any) -> str:
    """A value as one would write it in YAML, on one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {yaml_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and yaml.safe_load(value) == value and not value[:1].isdigit():
        return value
    return json.dumps(value)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def prose(text: str) -> str:
    """A docstring or description as Markdown for a cell: one line, its signs not taken as marks."""
    pieces = re.split(r"(`[^`]*`|\$\{[^}]*\})", " ".join(text.split()))
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            pieces[number] = re.sub(r"([*|<\\])", r"\\\1", piece)
        elif piece.startswith("$"):
            pieces[number] = f"`{piece}`"
    return "".join(pieces)


# Commands


def command_page() -> str:
    """Every command with its arguments and options, as typer tells them."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="fadepth")
    head, *parts = re.split(r"^(?=##)", text, flags=re.MULTILINE)
    told = dict(_summary(part) for part in parts)
    pages = [
        _with_summaries(_tidy(part), name, told)
        for name, part in zip(["fadepth", *told], [head, *parts], strict=True)
    ]
    pages[0] = pages[0].removeprefix("# `fadepth`").strip()
    return (
        "\n\n".join(["# Commands and options", _MADE.format(source="fadepth/cli/"), *pages]) + "\n"
    )


def _summary(part: str) -> tuple[str, str]:
    """Full name of a command, and the first paragraph of its help."""
    heading, _, text = part.partition("\n\n")
    return heading.strip("# `"), " ".join(text.partition("\n\n")[0].split())


def _tidy(part: str) -> str:
    part = re.sub(r"^\* `--help`: .*\n", "", part, flags=re.MULTILINE)
    part = part.replace("**Options**:\n\n\n", "").replace("```console\n$ ", "```text\n")
    part = re.sub(r"Examples:\n((?:\$ .*\n)+)", r"**Examples**:\n\n```text\n\1```\n", part)
    lines = part.strip().split("\n")
    return "\n".join(line if line.startswith("#") else _without_tags(line) for line in lines)


def _without_tags(line: str) -> str:
    """`runs/<id>/` in a help text is no HTML."""
    pieces = re.split(r"(`[^`]*`)", line)
    return "".join(p if n % 2 else p.replace("<", "&lt;") for n, p in enumerate(pieces))


def _with_summaries(part: str, name: str, told: Mapping[str, str]) -> str:
    """Sentences in full, and links, in the list of a group's commands; typer cuts them short."""
    head, mark, listed = part.partition("**Commands**:\n\n")

    def line(match: re.Match[str]) -> str:
        full = f"{name} {match[1]}"
        return f"* [`{match[1]}`](#{slug(full)}): {_without_tags(told[full])}"

    return head + mark + re.sub(r"^\* `([a-z-]+)`.*", line, listed, flags=re.MULTILINE)


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration_page,
    "command-line.md": command_page,
}

if __name__ == "__main__":
    main()
