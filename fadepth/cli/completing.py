"""What the shell offers for names that only the folder knows: runs, studies, presets, columns.

Called at every Tab: files are listed or their first lines read, nothing is imported or resolved.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import typer

_NAME = re.compile(r"""^(name|table):[ \t]*["']?([\w.-]+)""", re.MULTILINE)
#: Name and table stand at the top of a study.
_HEAD = 2000


def run_ids(incomplete: str) -> list[str]:
    """Folders of `runs/`: runs that have begun."""
    return _begins(incomplete, (path.parent.name for path in Path("runs").glob("*/manifest.json")))


def tables(incomplete: str) -> list[str]:
    """Tables of `ablations/`."""
    return _begins(incomplete, (table for _, table in _studies() if table))


def studies(incomplete: str) -> list[str]:
    """Studies of `ablations/` by their names and by their tables."""
    return _begins(incomplete, (word for names in _studies() for word in names if word))


def presets(incomplete: str) -> list[str]:
    """Files of `config/`; nothing for other beginnings, for which the shell offers files."""
    return _begins(incomplete, map(str, Path("config").glob("*.yaml")))


def made_tables(incomplete: str) -> list[str]:
    """Tables of `reports/` whose cells can be asked for."""
    files = Path("reports").glob("*.provenance.json")
    return _begins(incomplete, (file.name.partition(".")[0] for file in files))


def columns(ctx: typer.Context, incomplete: str) -> list[str]:
    """Columns of the table that is named before on the line."""
    table = Path(str(ctx.params.get("folder") or "reports")) / f"{ctx.params.get('name')}.csv"
    try:
        with table.open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file), [])
    except (OSError, ValueError, csv.Error):
        return []
    return _begins(incomplete, header)


def _studies() -> Iterator[tuple[str, str]]:
    """Name and table of each study, empty where the file does not say."""
    for path in sorted(Path("ablations").glob("*.yaml")):
        try:
            with path.open(encoding="utf-8") as file:
                found = dict(_NAME.findall("".join(islice(file, 40))[:_HEAD]))
        except (OSError, ValueError):
            continue
        yield found.get("name", ""), found.get("table", "")


def _begins(incomplete: str, words: Iterable[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(incomplete)})
