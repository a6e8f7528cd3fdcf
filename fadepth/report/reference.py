"""Numbers that others print, from CSV files: published peers, and what FA-Depth's tables say.

A file belongs to one table (`ablations/paper/README.md`). The numbers are data, each row names its
source, and a row is of one data set under one protocol, so that nothing is set beside our numbers
that was measured another way.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from fadepth.errors import FadepthError
from fadepth.evaluation.metrics import METRICS
from fadepth.evaluation.protocols import find_protocol, protocol_names

#: reported: a published peer; paper: FA-Depth's own table.
ReferenceKind = Literal["reported", "paper"]

_FIRST = ("row", "kind", "data", "protocol", "size", "supervision", "params_m")
_LAST = ("note", "source")
_REQUIRED = ("row", "kind", "data", "protocol")
_METRICS = (*METRICS, "log10", "rmse_log10")
#: Columns of depth metrics; `make3d.abs_rel` and `dark.abs_rel` name a protocol or a condition.
_METRIC = re.compile(rf"([a-z0-9_]+\.)?({'|'.join(_METRICS)})")
_COSTS = ("training_params_m", "gmacs", "fps", "device")
_NUMBER = re.compile(r"-?\d+(\.(?P<decimals>\d+))?")
#: A number that its source gives roughly or as a bound: kept as text, printed as it is.
_ROUGH = re.compile(rf"(≈|~|<|>|≤|≥|about|over|under)\s*{_NUMBER.pattern}")


@dataclass(frozen=True)
class Reference:
    """One row of a file.

    Attributes:
        row: label; of kind paper the label of our row that it is compared with.
        kind: reported or paper.
        data, protocol: what it was evaluated on, and how (`fadepth/protocols/`).
        size: of the network's input, height x width ("192x640"); empty if not known.
        supervision: M monocular video, S stereo, MS both; M+T distilled from a teacher; M+pseudo
            with pseudo-labels of a large model.
        values: filled cells only, params_m among them: numbers, or text such as "> 500".
        note: what a reader must know of the numbers.
        source: where they are printed.
        texts: the same cells as they are written in the file: "0.110" has three decimals.
    """

    row: str
    kind: ReferenceKind
    data: str
    protocol: str
    size: str
    supervision: str
    values: Mapping[str, float | str]
    note: str
    source: str
    texts: Mapping[str, str] = field(default_factory=dict)

    def decimals(self, key: str) -> int:
        """Decimals with which a number is printed; 0 for an integer."""
        match = _NUMBER.fullmatch(self.texts[key])
        assert match is not None, "only numbers have decimals"
        return len(match["decimals"] or "")


def applicable(references: Sequence[Reference], *, data: str, protocol: str) -> list[Reference]:
    """References of this data set under this protocol: others must not stand beside our numbers."""
    return [r for r in references if r.data == data and r.protocol == protocol]


def read_references(path: Path) -> list[Reference]:
    """Read a file of references; an absent file has none.

    Raises:
        FadepthError: not UTF-8 with commas, another header, a row with too few or too many cells,
            an unknown kind or protocol, a protocol that is not for the data, a metric that is no
            number, a filled cell without a source, or a row that is there twice.
    """
    if not path.is_file():
        return []
    lines = _lines(path)
    header = next(lines, (1, []))[1]
    _check_header(path, header)
    found: dict[tuple[str, ...], int] = {}
    result = []
    for number, fields in lines:
        if len(fields) != len(header):
            raise FadepthError(
                f"{path}, line {number}: expected {len(header)} cells as in the header, found "
                f"{len(fields)}; put quotes around a text with a comma, and leave unknown cells "
                "empty"
            )
        cells = dict(zip(header, (text.strip() for text in fields), strict=True))
        reference = _reference(_Place(path, number), cells)
        key = _key(reference)
        if key in found:
            raise _Place(path, number).error(
                "row", f"'{reference.row}' is there already, in line {found[key]}: keep one of them"
            )
        found[key] = number
        result.append(reference)
    return result


@dataclass(frozen=True)
class _Place:
    """Where in which file something is wrong."""

    path: Path
    line: int

    def error(self, column: str, problem: str) -> FadepthError:
        return FadepthError(f"{self.path}, line {self.line}, column '{column}': {problem}")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every line that is not empty."""
    try:
        # utf-8-sig: spreadsheets put a mark before the first byte.
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(text.splitlines(), strict=True)
        filled = [(reader.line_num, fields) for fields in reader if any(map(str.strip, fields))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FadepthError(
            f"{path} is no CSV in UTF-8 ({error}): save it so, with commas between the cells"
        ) from None
    return iter(filled)


def _check_header(path: Path, header: list[str]) -> None:
    first, last = header[: len(_FIRST)], header[-len(_LAST) :]
    if tuple(first) != _FIRST or tuple(last) != _LAST:
        raise FadepthError(
            f"{path}, line 1: expected the columns {','.join(_FIRST)}, then those of numbers, then "
            f"{','.join(_LAST)}, with commas between; restore the header"
        )
    for name in header[len(_FIRST) : -len(_LAST)]:
        if not (_METRIC.fullmatch(name) or name in _COSTS) or header.count(name) > 1:
            raise FadepthError(
                f"{path}, line 1, column '{name}': expected {', '.join(_METRICS)} "
                f"(perhaps as make3d.abs_rel or dark.abs_rel) or {', '.join(_COSTS)}, each at most "
                "once; rename or remove it"
            )


def _reference(place: _Place, cells: Mapping[str, str]) -> Reference:
    _check_words(place, cells)
    texts = {key: text for key, text in cells.items() if _is_value(key) and text}
    values = {key: _value(place, key, text) for key, text in texts.items()}
    for key in texts:
        if not cells["source"]:
            raise place.error(key, "a number without a source: name its file or table in 'source'")
        of_protocol, _, metric = key.rpartition(".")
        if metric and of_protocol in protocol_names() and of_protocol != cells["protocol"]:
            raise place.error(
                key,
                f"the row is of protocol {cells['protocol']}: write the number into the row of "
                f"protocol {of_protocol}",
            )
    kept = {key: cells[key] for key in ("row", "data", "protocol", "size", "supervision")}
    kind = cast(ReferenceKind, cells["kind"])
    return Reference(
        **kept, kind=kind, values=values, note=cells["note"], source=cells["source"], texts=texts
    )


def _check_words(place: _Place, cells: Mapping[str, str]) -> None:
    for key in _REQUIRED:
        if not cells[key]:
            raise place.error(key, "expected a text, found none: fill the cell or remove the line")
    if cells["kind"] not in get_args(ReferenceKind):
        kinds = " or ".join(get_args(ReferenceKind))
        raise place.error("kind", f"expected {kinds}, found '{cells['kind']}': correct the cell")
    if cells["protocol"] not in protocol_names():
        raise place.error(
            "protocol",
            f"expected one of {', '.join(protocol_names())}, found '{cells['protocol']}': correct "
            "the cell",
        )
    of = find_protocol(cells["protocol"]).data
    if cells["data"] not in of:
        raise place.error(
            "data",
            f"expected {' or '.join(of)}, which protocol {cells['protocol']} is for, found "
            f"'{cells['data']}': correct one of the two",
        )
    size = re.fullmatch(r"(\d+)x(\d+)", cells["size"])
    if cells["size"] and (size is None or int(size[1]) > int(size[2])):
        raise place.error(
            "size",
            f"expected height x width such as 192x640, found '{cells['size']}': correct the cell, "
            "or leave it empty if not known",
        )


def _is_value(key: str) -> bool:
    return key not in _LAST and (key == "params_m" or key not in _FIRST)


def _value(place: _Place, key: str, text: str) -> float | str:
    if key == "device" or _ROUGH.fullmatch(text):
        return text
    if not _NUMBER.fullmatch(text):
        raise place.error(
            key,
            f"expected a number such as 0.115, or '> 500', 'about 2', '≈0.84' where it is not "
            f"exact, found '{text}': correct the cell, or leave it empty if not known",
        )
    if key.rpartition(".")[2].startswith("delta_") and float(text) > 1:
        raise place.error(key, f"expected a share, 0 to 1, found '{text}': divide per cent by 100")
    return float(text)


def _key(reference: Reference) -> tuple[str, ...]:
    """What makes a row another row; a net whose speed is told for two devices has two."""
    r = reference
    device = str(r.values.get("device", ""))
    return r.row, r.kind, r.data, r.protocol, r.size, r.supervision, device
