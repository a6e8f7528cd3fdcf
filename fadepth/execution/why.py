"""What `fadepth why` does: from a cell of a table to everything that made its number."""

import difflib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fadepth.errors import FadepthError

#: What is told of a run, and how it is called.
_FACTS = {
    "seed": "seed",
    "commit": "commit",
    "config_hash": "configuration",
    "data_hash": "data",
    "code_hash": "code",
    "model_sha256": "weights (sha256)",
    "teacher": "teacher",
    "host": "host",
    "device": "device",
    "torch": "torch",
    "command": "command",
}


@dataclass(frozen=True)
class Cell:
    """A number of a table, and what is behind it.

    Attributes:
        table, row, metric: where it stands; the metric by its key in the CSV.
        content: value, std and the value of each run, or the source of a published value.
        runs: run id -> what is known of it, as in the run's `manifest.json`.
        stamp: scale, data and protocol of the table.
    """

    table: str
    row: str
    metric: str
    content: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Any]]
    stamp: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """For scripts: the cell with the runs that it is made of."""
        runs = {key: self.runs.get(key, {}) for key in self.content.get("runs", {})}
        where = {"table": self.table, "row": self.row, "metric": self.metric}
        return {**where, "cell": self.content, "runs": runs, "stamp": self.stamp}


def explain(folder: Path, table: str, row: str, metric: str) -> str:
    """Say in words where the number in a cell comes from; arguments and errors as `find_cell`."""
    return "\n".join(_lines(find_cell(folder, table, row, metric)))


def find_cell(folder: Path, table: str, row: str, metric: str) -> Cell:
    """A cell of a table with all that is known of its number.

    Args:
        folder: holds `<table>.provenance.json`.
        table, row, metric: the cell; the row by its label, whatever its spaces and capitals.

    Raises:
        FadepthError: there is no such table, row or column; the nearest ones are named.
    """
    table = Path(table).name.partition(".")[0]
    path = folder / f"{table}.provenance.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cells, runs, stamp = content["cells"], content["runs"], content["stamp"]
    except FileNotFoundError:
        made = sorted(p.name.partition(".")[0] for p in folder.glob("*.provenance.json"))
        raise FadepthError(
            f"{path} does not exist: make the table with 'snakemake --cores 8 reports/{table}.csv'"
            + (f"; there are {', '.join(made)}" if made else "")
        ) from None
    except (ValueError, KeyError, TypeError):
        raise FadepthError(f"{path} is damaged: delete it and make the table again") from None
    label = _match(row, cells, f"{table} has no row")
    # The printed header will do as well as the CSV's.
    metric = content.get("headers", {}).get(metric) or _header(metric, content.get("headers", {}))
    key = _match(metric, cells[label], f"row '{label}' of {table} has no column")
    return Cell(table, label, key, cells[label][key], runs, stamp)


def _match(given: str, known: Mapping[str, Any], problem: str) -> str:
    """The name that is meant, or a sentence with those that there are."""
    plain = {_plain(name): name for name in known}
    if given in known:
        return given
    if _plain(given) in plain:
        return plain[_plain(given)]
    near = difflib.get_close_matches(_plain(given), plain, n=1, cutoff=0.5)
    hint = f"did you mean '{plain[near[0]]}'? " if near else ""
    raise FadepthError(f"{problem} '{given}': {hint}There are {', '.join(map(repr, known))}")


def _header(metric: str, headers: Mapping[str, str]) -> str:
    """The column of a header written without its arrow or brackets; else the text itself."""
    bare = {re.sub(r"[ ↓↑]+$|\s*\[.*", "", name): key for name, key in headers.items()}
    return bare.get(metric.strip(" ↓↑"), metric)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "", name.lower())


def _lines(found: Cell) -> Iterator[str]:
    cell, runs, stamp = found.content, found.runs, found.stamp
    spread = f" ± {cell['std']!r}" if cell.get("std") is not None else ""
    value = cell["value"] if isinstance(cell["value"], str) else repr(cell["value"])
    yield f"{found.table}, row '{found.row}', {found.metric}: {value}{spread}"
    if "source" in cell:
        yield f"  reported by its authors, not run here: {cell['source']}"
        return
    told = [run.get("protocols", {}).get(cell["from"]) for run in runs.values()]
    protocol = next(filter(None, told), stamp["protocol"])
    yield (
        f"  scale {stamp['scale']}, data {stamp['dataset']}, protocol {protocol}, "
        f"from {cell['from']}"
    )
    if "missing" in cell:
        yield f"  missing: {cell['missing']}"
    for run_id, value in cell["runs"].items():
        yield f"  {run_id}" + ("" if value is None else f": {value!r}")
        yield from _run_lines(runs.get(run_id, {}))


def _run_lines(run: Mapping[str, Any]) -> Iterator[str]:
    for key, name in _FACTS.items():
        value = run.get(key)
        if value is None:
            continue
        dirty = " with uncommitted changes" if key == "commit" and run.get("dirty") else ""
        yield f"    {name}: {value}{dirty}"
    if run.get("ended") and run.get("started"):
        begun = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run["started"]))
        yield f"    started {begun}, took {run['ended'] - run['started']:.0f} s"
