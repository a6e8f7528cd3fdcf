"""A study's table: one line a row, with its noise, its differences, and published rows."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fadepth.evaluation.protocols import find_protocol
from fadepth.report.comparison import Ours, comparison_table
from fadepth.report.differences import (
    RowDifference,
    differences,
    noise_of,
    seed_notes,
)
from fadepth.report.measures import costs_file, measures_of, primary_of
from fadepth.report.provenance import table_provenance
from fadepth.report.published import (
    PRINTED,
    REPORTED,
    applicable_references,
    checked_references,
    published_rows,
)
from fadepth.report.reference import Reference
from fadepth.report.results import Results, RowResult, make_stamp, read_results
from fadepth.report.table import Cell, Column, Table, TableRow
from fadepth.study import Study

#: What readers call the data sets that a study may ask for.
DATA_SETS = {
    "kitti": "KITTI", "ddad": "DDAD", "video": "own video", "synthetic": "synthetic street",
}  # fmt: skip

OFFICIAL = "official weights, our evaluator"


def study_table(
    study: Study, runs: Path, references: Path, *, partial: bool = False, base: Path | None = None
) -> Table:
    """Build the table of a study from the folders of its runs.

    Args:
        study: which rows, and what to show of them.
        runs: folder of the run folders.
        references: folder of the published values, `<table>.csv`.
        partial: take what is there, and say what is not.
        base: folder of `reports/`, where costs are; the working directory by default.

    Raises:
        FadepthError: a result is absent (unless `partial`), damaged, or of another run than the
            study says, or seeds of a row were not evaluated alike.
    """
    costs = None
    if "costs" in study.file.columns:
        costs = (base or Path.cwd()) / costs_file(study.file.table)
    results = read_results(study, measures_of(study), runs, costs=costs, partial=partial)
    primary = primary_of(study)
    found = differences(results, primary, runs)
    printed = checked_references(study, references)
    published = applicable_references(results, printed)
    rows = [_row(results, row, found.get(row.label)) for row in results.rows]
    rows += published_rows(published)
    stamp = make_stamp(results)
    columns = _columns(results, published, found)
    table = Table(
        name=study.file.table,
        title=f"{study.file.title}: {data_sentence(study)}",
        columns=columns,
        rows=tuple(rows),
        stamp=stamp,
        notes=tuple(_notes(results, published, found)),
        headings=_headings(rows),
        noise=noise_of(results),
        provenance=table_provenance(results, rows, columns, stamp),
    )
    companion = comparison_table(
        table,
        [reference for reference in published if reference.kind == "paper"],
        _ours(results),
        baseline=study.baseline.label,
        size=f"{study.config.data.height}x{study.config.data.width}",
    )
    if companion is None:
        return table
    return replace(table, companions=(companion,))


def data_sentence(study: Study) -> str:
    """Which images, and how large: `synthetic street in place of KITTI, 64×208`."""
    data = study.config.data
    name = DATA_SETS[data.source]
    if data.source != "synthetic" and data.name != data.source:
        name += f" ({data.name})"
    intended = DATA_SETS.get(study.file.data or "", "")
    if intended and data.source != study.file.data:
        name += f" in place of {intended}"
    return f"{name}, {data.height}×{data.width}"


# Beside it


def _headings(rows: Sequence[TableRow]) -> dict[str, str]:
    groups = list(dict.fromkeys(row.group for row in rows))
    if not {REPORTED, PRINTED, OFFICIAL} & set(groups):
        return {}
    spoken = {"variants": "trained here", "others": "for comparison"}
    return {group: spoken.get(group, group) for group in groups}


def _ours(results: Results) -> dict[str, dict[str, Ours]]:
    found: dict[str, dict[str, Ours]] = {}
    for row in results.rows:
        for measure in results.measures:
            values = list(row.values(measure.key).values())
            if values:
                own = Ours(statistics.fmean(values), _spread(values), len(values))
                found.setdefault(row.label, {})[measure.key] = own
    return found


# Rows


def _row(results: Results, row: RowResult, difference: RowDifference | None) -> TableRow:
    read = len([r for r in row.runs if r.values])
    cells: dict[str, Cell] = {"row": row.label, "kind": row.row.kind, "seeds": read}
    cells |= dict(row.row.factors) | _shown(results.study, row)
    missing = {}
    for measure in results.measures:
        values = list(row.values(measure.key).values())
        if values:
            cells[measure.key] = statistics.fmean(values)
            if len(values) > 1:
                cells[f"{measure.key}_std"] = _spread(values)
        if reason := row.missing(measure.key):
            missing[measure.key] = reason
    cells |= _costs(results.costs, row)
    if difference is not None:
        cells |= _difference_cells(difference)
    config = results.study.config
    data = [r.manifest for r in row.runs if r.manifest]
    said = [r.evaluation for r in row.runs if r.evaluation]
    cells |= {
        "scale": data[0]["scale"] if data else config.scale,
        "dataset": data[0]["dataset"] if data else config.data.name,
        "size": f"{config.data.height}x{config.data.width}",
        "supervision": _supervision(row),
        "protocol": said[0]["protocol"] if said else None,
        "images": said[0].get("images") if said else None,
        "run_ids": " ".join(r.run.id for r in row.runs),
    }
    group = {"variant": "variants", "official": OFFICIAL}.get(row.row.kind, "others")
    return TableRow(cells, kind=row.row.kind, group=group, missing=missing)


def _supervision(row: RowResult) -> str:
    """As published tables have it: monocular video, and with a teacher M+T."""
    if row.row.kind not in ("variant", "teacher"):
        return ""
    return "M+T" if any(r.run.teacher for r in row.runs) else "M"


def _shown(study: Study, row: RowResult) -> dict[str, Cell]:
    """Values of settings that the study wants to be seen, where they have an effect."""
    found: dict[str, Cell] = {}
    for name, key in study.file.shown.items():
        value: object = row.row.runs[0].config
        for part in key.split("."):
            if getattr(value, "enabled", True) is False:
                value = None
                break
            value = value.get(part) if isinstance(value, dict) else getattr(value, part)
        found[name] = "" if value is None else _spoken(value)
    return found


def _spoken(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _costs(costs: Mapping[str, object], row: RowResult) -> dict[str, Cell]:
    """Of the row's network; seeds share it, and the first was measured."""
    run_id = row.runs[0].run.id
    network = costs.get("networks", {}).get(run_id)  # type: ignore[attr-defined]
    if network is None:
        return {}
    found: dict[str, Cell] = {
        "params_m": network["parameters"] / 1e6,
        "gmacs": network["macs"] / 1e9,
    }
    for device in costs["devices"]:  # type: ignore[attr-defined]
        times, name = device["latency_ms"][run_id], device["device"]
        found |= {
            f"{name}.latency_ms": times["median"],
            f"{name}.latency_p10": times["p10"],
            f"{name}.latency_p90": times["p90"],
            f"{name}.fps": 1000 / times["median"],
        }
        if ratio := device.get("ratio", {}).get(run_id):
            found |= {
                f"{name}.ratio": ratio["median"],
                f"{name}.ratio_low": ratio["low"],
                f"{name}.ratio_high": ratio["high"],
            }
    return found


def _difference_cells(difference: RowDifference) -> dict[str, Cell]:
    cells: dict[str, Cell] = {
        "difference": difference.mean,
        "p": difference.p if len(difference.by_seed) > 1 else None,
        "p_holm": difference.p_holm if len(difference.by_seed) > 1 else None,
        "noise_floor": difference.floor,
        "verdict": difference.verdict,
        "difference_95": signed(difference.mean),
    }
    interval = difference.interval
    if interval is not None:
        cells |= {"difference_low": interval.low, "difference_high": interval.high}
        ends = f"{signed(interval.low)}, {signed(interval.high)}"
        cells["difference_95"] = f"{signed(difference.mean)} [{ends}]"
    return cells


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


# Columns


def _columns(
    results: Results, published: Sequence[Reference], found: Mapping[str, RowDifference]
) -> tuple[Column, ...]:
    study = results.study
    columns = [Column("row", "Row", "Row"), Column("kind")]
    factors = list(dict.fromkeys(name for row in study.rows for name in row.factors))
    for name in (*factors, *study.file.shown):
        title = name.upper() if len(name) <= 3 else name.capitalize()
        columns.append(Column(name, title, title))
    if any(reference.kind == "reported" for reference in published):
        columns.append(Column("size", "Size", "Size"))
        columns.append(Column("supervision", "Train", "Train"))
    columns.append(Column("seeds", "Seeds", "Seeds", decimals=0))
    spread = any(len(row.runs) > 1 for row in study.rows)
    measured = [measure.column for measure in results.measures]
    if "costs" in study.file.columns:
        measured = [*_cost_columns(results, published), *measured]
    columns += [column if spread else replace(column, spread=None) for column in measured]
    if found:
        name = spoken_name(primary_of(study).column)
        title = f"{name} [95 %]"
        columns.append(
            Column("difference_95", f"Δ {title}", rf"$\Delta$ {title}", sort="difference")
        )
        columns.append(Column("verdict", "Verdict", "Verdict"))
    hidden = [column.spread for column in measured if column.spread]
    hidden += ["difference", "difference_low", "difference_high", "p", "p_holm", "noise_floor"]
    hidden += ["scale", "dataset", "protocol", "images", "run_ids"]
    if published:
        hidden.append("source")
    shown = {column.key for column in columns}
    columns += [Column(key) for key in hidden if key not in shown]
    return tuple(columns)


def _cost_columns(results: Results, published: Sequence[Reference]) -> list[Column]:
    columns = [
        Column("params_m", "Params (M)", "Params (M)", decimals=2),
        Column("gmacs", "GMACs", "GMACs", decimals=3),
    ]
    for device in results.costs.get("devices", ()):
        name = device["device"]
        threads = device["threads"]
        group = "CPU, 1 thread" if name == "cpu" and threads == 1 else f"{device['name']}"
        if name == "cpu" and threads != 1:
            group = f"CPU, {threads} threads"
        columns += [
            Column(f"{name}.latency_ms", "ms ↓", r"ms $\downarrow$", decimals=2, group=group),
            Column(f"{name}.fps", "FPS ↑", r"FPS $\uparrow$", decimals=0, group=group),
        ]
        spread = ["latency_p10", "latency_p90"]
        if device.get("ratio"):  # not in files of older versions, nor at sizes the U-Net refuses
            title = r"$\times$ U-Net $\downarrow$"
            columns.append(Column(f"{name}.ratio", "× U-Net ↓", title, decimals=3, group=group))
            spread += ["ratio_low", "ratio_high"]
        columns += [Column(f"{name}.{key}") for key in spread]
    if any("fps" in reference.values for reference in published):
        columns.append(Column("fps", "FPS ↑", r"FPS $\uparrow$", decimals=0, group="as reported"))
    return columns


def spoken_name(column: Column) -> str:
    """A measure without its arrow, and of which data: `Abs Rel, dark`."""
    name = (column.markdown or column.key).rstrip(" ↓↑")
    return f"{name}, {column.group}" if column.group else name


def signed(value: float) -> str:
    """Three decimals with a sign; what prints as zero has none."""
    text = f"{value:+.3f}".replace("-", "−")
    return text[1:] if float(f"{value:.3f}") == 0 else text


# Notes


def _notes(
    results: Results, published: Sequence[Reference], found: Mapping[str, RowDifference]
) -> list[str]:
    study = results.study
    notes = []
    if found:
        notes.append(
            f"Δ: row minus '{study.baseline.label}', paired by seed and image; interval from a "
            "bootstrap over drives and seeds"
        )
    notes += seed_notes(results, primary_of(study), found)
    if any(len(row.runs) > 1 for row in study.rows):
        notes.append("mean ± sample standard deviation over seeds")
    notes += _image_notes(results)
    notes += _difference_notes(results)
    if "costs" in study.file.columns and results.costs:
        notes += _cost_notes(results.costs)
    if any(row.row.kind == "baseline" for row in results.rows):
        notes.append("constant and median depth do not look at the image and are fitted to truth")
    if any(reference.kind == "reported" for reference in published):
        notes.append(
            "reported rows are copied from their authors' files (source in the CSV); best and "
            "second among them are their own"
        )
        notes.append(
            "train: M monocular video, S stereo, MS both, +T with a teacher, +pseudo with the "
            "labels of a large model"
        )
    elif not published and study.config.scale != "full":
        notes.append("published numbers are left out: they are of other data and budgets")
    own = [*study.file.notes, *study.left_out]
    return [*own, *(note[:1].upper() + note[1:] for note in notes)]


def _cost_notes(costs: Mapping[str, Any]) -> list[str]:
    layout = f"{costs['layout'].replace('_', ' ')}, " if "layout" in costs else ""
    notes = [
        f"latency: median of one image of {costs['height']}×{costs['width']}, float32, {layout}"
        "all networks in turn in one process"
    ]
    if yardstick := costs.get("yardstick"):
        notes.append(
            f"× U-Net: time over that of a {yardstick['name']} (monodepth2's depth network, "
            f"{yardstick['parameters'] / 1e6:.1f} M parameters) in the same rounds"
        )
    return notes


def _image_notes(results: Results) -> list[str]:
    notes = []
    short = {
        f"{e['images']} images of {e['protocol']}, not the {e['images_published']} of the "
        "published list"
        for r in results.runs
        for e in r.evaluations.values()
        if e.get("is_published_list") is False
    }
    notes += sorted(short)
    study = results.study
    for name in study.file.all_benchmarks:
        settings = study.config.benchmarks[name]
        title = settings.title or name
        notes.append(f"evaluated on {title}: {find_protocol(settings.protocol).title}")
    return notes


def _difference_notes(results: Results) -> list[str]:
    """What rows do not have in common, though they should."""
    runs = results.runs
    trained = [r for r in runs if r.run.kind == "student"]
    variants = [row for row in results.rows if row.row.kind == "variant"]
    compared: dict[str, set[str]] = {
        "scales": {str(r.manifest["scale"]) for r in runs},
        "data sets": {str(r.manifest["dataset"]) for r in runs},
        "frames (data hashes)": {str(r.manifest.get("data_hash")) for r in trained},
        "protocols": {str(r.evaluation["protocol"]) for r in runs if r.evaluation},
        "numbers of images": {str(r.evaluation.get("images")) for r in runs if r.evaluation},
        "seeds": {str(sorted(r.run.seed for r in row.runs)) for row in variants},
        "teachers": {t for r in trained if (t := r.manifest.get("teacher"))},
    }
    return [
        f"rows differ in their {what}: not comparable one to one"
        for what, values in compared.items()
        if len(values) > 1 and not (what == "teachers" and results.study.file.name == "apx")
    ]
