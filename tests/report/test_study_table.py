"""A study's table against numbers computed by hand from fake run folders."""

import csv
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from fadepth.config import load_yaml
from fadepth.errors import FadepthError
from fadepth.execution.why import explain
from fadepth.report.reference import read_references
from fadepth.report.study_table import data_sentence, study_table
from fadepth.report.table import Table, marks
from fadepth.report.writers import html_document, latex_text, markdown_text, write_table
from fadepth.run import Run
from fadepth.stats import paired_difference
from fadepth.study import Study, resolve_study
from tests.report.fakes import (
    DRIVES,
    FRAMES,
    METRICS,
    PARAMETERS,
    ROOT,
    study_of,
    write_run,
    write_runs,
)

PAPER = ROOT / "ablations" / "paper"
FACTORS = ["etm", "pyramid", "apx"]
SEEDS = [1, 2, 3]
NOISE = {1: 0.0, 2: 0.002, 3: -0.001}
DIFFICULTY = np.repeat(np.linspace(-0.03, 0.03, len(DRIVES)), FRAMES)


def abs_rel(run: Run) -> Any:
    """APX takes 0.05, ETM nothing; seeds and drives spread."""
    if run.kind != "student":
        return {"teacher": 0.2, "baseline": 0.9}[run.kind] + 0 * DIFFICULTY
    value = 0.3 - 0.05 * (run.factors.get("apx") == "on")
    return value + NOISE[run.seed] + DIFFICULTY * (1 + (run.factors.get("apx") == "on"))


@pytest.fixture
def made(tmp_path: Path) -> tuple[Study, Path, Table]:
    study, runs = study_of(seeds=SEEDS), tmp_path / "runs"
    write_runs(study, runs, abs_rel)
    return study, runs, study_table(study, runs, tmp_path / "none")


def cells(table: Table, label: str) -> Any:
    return next(row.cells for row in table.rows if row.cells["row"] == label)


def lines(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as stream:
        return {line["row"]: line for line in csv.DictReader(stream)}


def test_csv_has_the_public_columns_means_and_spreads(
    made: tuple[Study, Path, Table], tmp_path: Path
) -> None:
    """Each number is that of the runs' own files, by another way."""
    study, runs, table = made
    write_table(table, tmp_path / "reports" / "table_ablation.csv")
    found = lines(tmp_path / "reports" / "table_ablation.csv")
    first = list(next(iter(found.values())))
    assert first[:6] == ["row", "kind", *FACTORS, "seeds"]
    wanted = {*METRICS, *(f"{m}_std" for m in METRICS), "params_m", "scale", "dataset", "protocol"}
    assert wanted | {"images", "run_ids", "difference", "p_holm", "verdict"} <= set(first)
    assert len(found) == 12
    for row in study.rows:
        line = found[row.label]
        assert line["run_ids"].split() == [run.id for run in row.runs]
        read = [json.loads((runs / run.id / "metrics.json").read_text()) for run in row.runs]
        for name in METRICS:
            values = [each["metrics"][name] for each in read]
            assert float(line[name]) == pytest.approx(statistics.fmean(values), rel=1e-12)
            if len(values) == 1:
                assert line[f"{name}_std"] == ""
            else:
                spread = pytest.approx(statistics.stdev(values), rel=1e-9)
                assert float(line[f"{name}_std"]) == spread
    assert float(found["+ APX"]["params_m"]) == pytest.approx(PARAMETERS / 1e6)
    assert [found["+ ETM + APX"][name] for name in FACTORS] == ["on", "off", "on"]
    assert [found["constant depth"][name] for name in FACTORS] == ["", "", ""]
    assert found["constant depth"]["images"] == str(len(DRIVES) * FRAMES)


def test_difference_is_paired_by_seed_and_image(made: tuple[Study, Path, Table]) -> None:
    """APX: -0.05, and the drives' spread once more; its interval is the bootstrap's own."""
    _, _, table = made
    apx = cells(table, "+ APX")
    assert apx["difference"] == pytest.approx(-0.05)
    by_image = np.tile(-0.05 + DIFFICULTY, (3, 1))
    expected = paired_difference(by_image, np.repeat(DRIVES, FRAMES).tolist())
    assert expected is not None
    assert apx["difference_low"] == pytest.approx(expected.low)
    assert apx["difference_high"] == pytest.approx(expected.high)
    # Three equal signs: the smallest two-sided p of three seeds, times seven rows, capped.
    assert apx["p"] == pytest.approx(0.25)
    assert apx["p_holm"] == 1.0
    # Student's t for two degrees of freedom, 4.303, times the baseline's spread.
    spread = statistics.stdev(NOISE.values())
    assert apx["noise_floor"] == pytest.approx(4.3027 * spread * (2 / 3) ** 0.5, rel=1e-4)
    assert apx["verdict"] == "better"
    assert cells(table, "+ ETM")["verdict"] == "within noise"
    assert cells(table, "SmallDepth").get("difference") is None
    assert any("3 seeds cannot reach p < 0.05 for 7 rows" in note for note in table.notes)
    assert any("9 seeds could" in note for note in table.notes)


def test_only_what_beats_the_noise_is_marked(made: tuple[Study, Path, Table]) -> None:
    _, _, table = made
    labels = [row.cells["row"] for row in table.rows]
    marked = {(labels[index], key) for index, key in marks(table)}
    assert ("+ APX", "abs_rel") in marked
    # Without effect, though it prints the second-best value: nothing but the seeds' noise.
    assert ("+ ETM", "abs_rel") not in marked
    assert ("SmallDepth", "abs_rel") not in marked
    assert ("HQDecv2 (teacher)", "abs_rel") not in marked


def test_one_seed_marks_nothing_and_says_so(tmp_path: Path) -> None:
    study, runs = study_of(seeds=[1]), tmp_path / "runs"
    write_runs(study, runs, abs_rel)
    table = study_table(study, runs, tmp_path)
    assert marks(table) == {}
    assert cells(table, "+ APX")["verdict"] == "one seed"
    assert cells(table, "+ APX")["p"] is None
    low, high = (cells(table, "+ APX")[f"difference_{end}"] for end in ("low", "high"))
    assert low < -0.05 < high
    for text in (markdown_text(table), latex_text(table), html_document(table)):
        assert "One seed: differences may be noise" in text
        assert "standard deviation over seeds" not in text


def test_title_names_the_data_that_stand_in() -> None:
    """A table of the street may not pass for one of KITTI."""
    assert data_sentence(study_of("kitti")) == "synthetic street in place of KITTI, 64×208"
    assert data_sentence(study_of("ddad")) == "synthetic street in place of DDAD, 64×128"
    assert data_sentence(study_of("kitti_highres")).endswith("96×320")
    assert data_sentence(study_of()) == "synthetic street, 64×208"


def test_settings_are_shown_where_they_have_an_effect(tmp_path: Path) -> None:
    study, runs = study_of("pyramid"), tmp_path / "runs"
    write_runs(study, runs, lambda run: 0.3 + 0 * DIFFICULTY)
    table = study_table(study, runs, tmp_path)
    shown = {
        str(row.cells["row"]): [row.cells[key] for key in ("levels", "flip", "jitter")]
        for row in table.rows
    }
    assert shown["no pyramid loss"] == ["", "", ""]
    assert shown["1 level"] == ["1", "on", "on"]
    assert shown["no flip"] == ["2", "off", "on"]
    dark = cells(table, "1 level")["dark.abs_rel"]
    assert dark == pytest.approx(0.4)


# What is missing


def test_partial_table_says_which_cell_lacks_what(
    made: tuple[Study, Path, Table], tmp_path: Path
) -> None:
    study, runs, _ = made
    rows = {row.label: row for row in study.rows}
    gone, unfinished, unmeasured = (
        rows[label].runs[1].id for label in ("+ ETM", "+ APX", "+ pyramid loss")
    )
    shutil.rmtree(runs / gone)
    manifest = json.loads((runs / unfinished / "manifest.json").read_text())
    (runs / unfinished / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    (runs / unmeasured / "metrics.json").unlink()
    for run in rows["+ ETM + APX"].runs:
        shutil.rmtree(runs / run.id)
    with pytest.raises(FadepthError, match="does not exist: run the workflow"):
        study_table(study, runs, tmp_path)
    table = study_table(study, runs, tmp_path, partial=True)
    missing = {str(row.cells["row"]): row.missing.get("abs_rel") for row in table.rows}
    assert missing["+ ETM"] == f"2/3 seeds: {gone} not trained"
    assert missing["+ APX"] == f"2/3 seeds: {unfinished} not finished"
    assert missing["+ pyramid loss"] == f"2/3 seeds: {unmeasured} not evaluated"
    assert missing["+ ETM + APX"] is not None
    assert missing["+ ETM + APX"].startswith("0/3 seeds")
    assert missing["SmallDepth"] is None
    # What is there is the mean of two seeds, and the pair of seeds 1 and 3 is compared.
    expected = statistics.fmean([0.25 + NOISE[1], 0.25 + NOISE[3]])
    assert cells(table, "+ APX")["abs_rel"] == pytest.approx(expected)
    assert cells(table, "+ APX")["difference"] == pytest.approx(-0.05)
    text = markdown_text(table)
    line = next(line for line in text.splitlines() if line.startswith("| + ETM + APX"))
    assert "—" in line
    assert gone in text and unfinished in text
    write_table(table, tmp_path / "partial.csv")
    assert lines(tmp_path / "partial.csv")["+ ETM + APX"]["abs_rel"] == ""


def test_nothing_has_run_yet(tmp_path: Path) -> None:
    """The empty table is a table: what there is to do, row by row."""
    table = study_table(study_of(seeds=SEEDS), tmp_path / "runs", tmp_path, partial=True)
    assert all(row.missing for row in table.rows)
    assert "0/3 seeds" in markdown_text(table)


# What is wrong


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "does not exist: delete it and run the workflow again"),
        ('{"protocol": "x", "ima', "is not complete JSON"),
        ('{"protocol": "x", "images": 3}', "metrics.abs_rel is None"),
        ('{"protocol": "x", "metrics": {"abs_rel": NaN}}', "metrics.abs_rel is nan"),
        ('{"protocol": "x", "metrics": {"abs_rel": true}}', "metrics.abs_rel is True"),
        ("[]", "holds no JSON object"),
    ],
)
def test_missing_or_half_metrics_are_told_in_one_sentence(
    made: tuple[Study, Path, Table], content: str | None, told: str
) -> None:
    study, runs, _ = made
    path = runs / next(study.runs).id / "metrics.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(FadepthError) as raised:
        study_table(study, runs, runs)
    assert told in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scale": "quick"}, "scale is"),
        ({"dataset": "other"}, "dataset is"),
        ({"protocol": "other"}, "protocol is"),
        ({"images": 3}, "images is"),
        ({"parameters_inference": 5}, "parameters is"),
    ],
)
def test_seeds_of_a_row_must_be_alike(
    made: tuple[Study, Path, Table], changes: dict[str, Any], told: str
) -> None:
    study, runs, _ = made
    run = study.rows[1].runs[2]
    write_run(run, runs, abs_rel(run), **changes)
    with pytest.raises(FadepthError, match=f"row '.+ ETM' cannot be averaged: {told}"):
        study_table(study, runs, runs)


def test_a_run_of_another_kind_is_refused(made: tuple[Study, Path, Table]) -> None:
    study, runs, _ = made
    run = study.rows[1].runs[0]
    write_run(run, runs, abs_rel(run), kind="teacher")
    with pytest.raises(FadepthError, match="is of kind 'teacher', but the study asks for"):
        study_table(study, runs, runs)


def test_a_folder_of_another_run_is_refused(made: tuple[Study, Path, Table]) -> None:
    """Copied by hand, say: the mean would be of the wrong network."""
    study, runs, _ = made
    one, other = study.rows[0].runs[2], study.rows[1].runs[0]
    shutil.rmtree(runs / other.id)
    shutil.copytree(runs / one.id, runs / other.id)
    with pytest.raises(FadepthError, match=f"is of run {one.id}: delete the folder"):
        study_table(study, runs, runs)


def test_partial_table_lives_without_images(made: tuple[Study, Path, Table]) -> None:
    study, runs, _ = made
    (runs / study.rows[3].runs[1].id / "per_image.csv").unlink()
    with pytest.raises(FadepthError, match=r"per_image\.csv cannot be read"):
        study_table(study, runs, runs)
    row = cells(study_table(study, runs, runs, partial=True), "+ APX")
    assert row["difference"] == pytest.approx(-0.05)
    assert "difference_low" not in row


def test_an_image_that_is_there_twice_is_told(made: tuple[Study, Path, Table]) -> None:
    study, runs, _ = made
    path = runs / study.rows[1].runs[0].id / "per_image.csv"
    table = pd.read_csv(path, dtype=str)
    pd.concat([table, table.head(1)]).to_csv(path, index=False)
    with pytest.raises(FadepthError, match="names an image twice"):
        study_table(study, runs, runs)


def test_rows_that_were_not_made_alike_are_noted(made: tuple[Study, Path, Table]) -> None:
    study, runs, before = made
    assert not any("not comparable" in note for note in before.notes)
    for run in study.rows[1].runs:
        write_run(run, runs, abs_rel(run), data_hash="other", images=7)
    notes = " ".join(study_table(study, runs, runs).notes)
    for what in ("frames (data hashes)", "numbers of images"):
        assert f"Rows differ in their {what}" in notes


# Where a cell comes from


def test_every_cell_leads_to_its_runs(made: tuple[Study, Path, Table], tmp_path: Path) -> None:
    study, _, table = made
    write_table(table, tmp_path / "table_ablation.csv")
    twin = json.loads((tmp_path / "table_ablation.provenance.json").read_text())
    cell = twin["cells"]["+ APX"]["abs_rel"]
    runs = next(row for row in study.rows if row.label == "+ APX").runs
    assert cell["runs"] == {r.id: pytest.approx(0.25 + NOISE[r.seed]) for r in runs}
    assert cell["value"] == pytest.approx(statistics.fmean(cell["runs"].values()))
    told = twin["runs"][runs[1].id]
    assert (told["seed"], told["commit"], told["dirty"]) == (2, "0123456789abcdef", False)
    assert told["config_hash"] == runs[1].config_hash
    assert told["model_sha256"] == f"weights of {runs[1].id}"
    assert told["device"] == "cpu"
    assert twin["stamp"]["seeds"] == SEEDS


def test_why_explains_a_cell(made: tuple[Study, Path, Table], tmp_path: Path) -> None:
    _, _, table = made
    write_table(table, tmp_path / "table_ablation.csv")
    for row in ("+ ETM + APX", "etm+apx", "ETM + APX"):
        text = explain(tmp_path, "table_ablation", row, "abs_rel")
        assert "row '+ ETM + APX', abs_rel: 0.25" in text
        assert text.count("weights (sha256)") == 3
        assert "2023-11-14 22:13:20 UTC, took 100 s" in text


def test_why_understands_printed_headers(made: tuple[Study, Path, Table], tmp_path: Path) -> None:
    write_table(made[2], tmp_path / "table_ablation.csv")
    for given, key in (("δ₁", "delta_1"), ("Abs Rel ↓", "abs_rel"), ("Δ Abs Rel", "difference_95"),
                       ("difference", "difference"), ("verdict", "verdict")):  # fmt: skip
        assert f"'+ APX', {key}: " in explain(tmp_path, "table_ablation", "+ APX", given)
    assert "'+ APX', abs_rel" in explain(tmp_path, "reports/table_ablation.csv", "+ APX", "abs_rel")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("table_abl", "x", "y"), "make the table with .* there are table_ablation"),
        (("table_ablation", "+ EMT", "abs_rel"), "has no row '. EMT': did you mean '. ETM'"),
        (("table_ablation", "+ ETM", "absrl"), "no column 'absrl': did you mean 'abs_rel'"),
    ],
)
def test_why_names_what_there_is(
    made: tuple[Study, Path, Table], tmp_path: Path, arguments: tuple[str, str, str], told: str
) -> None:
    write_table(made[2], tmp_path / "table_ablation.csv")
    with pytest.raises(FadepthError, match=told):
        explain(tmp_path, *arguments)


# Beside published values


@pytest.fixture
def kitti(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A study of config/kitti.yaml with its runs, as if all images of the list had been seen."""
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}_files.txt").write_text("day/drive 5 l\n")
    monkeypatch.setenv("KITTI_SPLITS", str(tmp_path))
    preset = load_yaml(ROOT / "config" / "kitti.yaml")

    def make(name: str, **said: Any) -> tuple[Study, Path]:
        study = resolve_study(ROOT / "ablations" / f"{name}.yaml", preset, "kitti.yaml")
        for run in study.runs:
            write_run(run, tmp_path / "runs", abs_rel(run), **{"is_published_list": True, **said})
        return study, tmp_path / "runs"

    return make


def test_peers_stand_beside_our_rows_and_compete_among_themselves(kitti: Any) -> None:
    study, runs = kitti("kitti")
    table = study_table(study, runs, PAPER)
    peers = [row for row in table.rows if row.kind == "reported"]
    assert len(peers) > 20
    tiny = cells(table, "Lite-Mono-tiny")
    assert (tiny["abs_rel"], tiny["params_m"], tiny["size"]) == (0.110, 2.2, "192x640")
    assert tiny["source"] == "noahzn/Lite-Mono README.md"
    assert cells(table, "SmallDepth")["size"] == "192x640"
    labels = [row.cells["row"] for row in table.rows]
    best = {labels[i] for (i, key), mark in marks(table).items() if key == "abs_rel"}
    assert "NimbleD + Lite-Mono-8M" in best
    text = markdown_text(table)
    assert "reported by their authors, not run here" in text
    assert "trained here" in text
    # Nobody prints 0.092 for what we trained.
    assert table.headings["variants"] == "trained here"


def test_official_weights_are_a_kind_of_their_own(
    kitti: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not ranked with what is trained here, nor with what others print."""
    study, runs = kitti("kitti")
    np.save(tmp_path / "md2.npy", np.ones((1, 2, 3)))
    monkeypatch.setenv("PREDICTIONS", str(tmp_path))  # a study names no absolute path
    row = {"label": "Monodepth2 (official)", "predictions": "${PREDICTIONS}/md2.npy"}
    content = load_yaml(ROOT / "ablations" / "kitti.yaml")
    (tmp_path / "kitti.yaml").write_text(
        yaml.safe_dump(content | {"rows": [*content["rows"], row]})
    )
    preset = load_yaml(ROOT / "config" / "kitti.yaml")
    study = resolve_study(tmp_path / "kitti.yaml", preset, "kitti.yaml")
    official = next(r for r in study.rows if r.kind == "official").runs[0]
    assert official.id.startswith("official_monodepth2_official-s0-")
    write_run(official, runs, 0.05 + 0 * DIFFICULTY, is_published_list=True)
    table = study_table(study, runs, PAPER)
    shown = next(row for row in table.rows if row.kind == "official")
    assert shown.group == "official weights, our evaluator"
    assert shown.cells["abs_rel"] == pytest.approx(0.05)
    assert shown.cells.get("params_m") is None
    labels = [row.cells["row"] for row in table.rows]
    assert "Monodepth2 (official)" not in {labels[index] for index, _ in marks(table)}
    assert "official weights, our evaluator" in markdown_text(table)
    # Other predictions are another run; without the file there is no such row, and a note.
    np.save(tmp_path / "md2.npy", np.zeros((1, 2, 3)))
    again = resolve_study(tmp_path / "kitti.yaml", preset, "kitti.yaml")
    assert next(r for r in again.rows if r.kind == "official").runs[0].id != official.id
    (tmp_path / "md2.npy").unlink()
    without = resolve_study(tmp_path / "kitti.yaml", preset, "kitti.yaml")
    assert "official" not in {r.kind for r in without.rows}
    assert "there is no file" in without.left_out[0]


@pytest.mark.parametrize(
    "said", [{"is_published_list": False, "images_published": 697}, {"scale": "quick"}]
)
def test_no_peer_beside_other_images(kitti: Any, said: dict[str, Any]) -> None:
    study, runs = kitti("kitti", **said)
    if "scale" in said:
        config = study.config.model_copy(update=said)
        study = Study(study.file, config, study.data_hash, study.rows)
    assert {row.kind for row in study_table(study, runs, PAPER).rows} == {
        "variant", "teacher", "baseline",
    }  # fmt: skip


def test_filled_in_numbers_of_the_paper_appear_with_verdicts(kitti: Any, tmp_path: Path) -> None:
    """What a user who has the paper does: type two cells and a source."""
    study, runs = kitti("components")
    assert study_table(study, runs, PAPER).companions == ()
    lines_ = (PAPER / "table_ablation.csv").read_text().splitlines()
    header = lines_[0].split(",")
    filled = [lines_[0]]
    typed = {"SmallDepth": "0.300", "+ APX": "0.280", "+ ETM": "0.290"}
    for line in lines_[1:]:
        row = dict(zip(header, line.split(","), strict=True))
        if row["row"] in typed:
            row |= {"abs_rel": typed[row["row"]], "source": "arXiv 2405.10885 table 6"}
        filled.append(",".join(row[key] for key in header))
    (tmp_path / "table_ablation.csv").write_text("\n".join(filled) + "\n")
    (companion,) = study_table(study, runs, tmp_path).companions
    verdicts = {row.cells["row"]: row.cells["verdict"] for row in companion.rows}
    # Ours: 0.3003, 0.2503 and 0.3003, with a noise of some 0.0015 over three seeds.
    assert verdicts == {
        "SmallDepth": "within noise", "+ APX": "same direction", "+ ETM": "different",
    }  # fmt: skip
    # Of three pairs: APX beats the plain row and ETM here as there; plain and ETM tie here.
    assert any("2 of 3 orderings hold" in note for note in companion.notes)


def test_mistyped_numbers_of_the_paper_are_told_at_every_scale(tmp_path: Path) -> None:
    study = study_of(scale="smoke")
    write_runs(study, tmp_path / "runs", abs_rel)
    text = (PAPER / "table_ablation.csv").read_text()
    header = text.splitlines()[0].split(",")
    row = dict.fromkeys(header, "") | {"row": "+APX", "kind": "paper", "data": "kitti"}
    row |= {"protocol": "kitti_eigen_raw", "abs_rel": "0.1", "source": "arXiv 2405.10885"}
    (tmp_path / "table_ablation.csv").write_text(text + ",".join(row.values()) + "\n")
    with pytest.raises(FadepthError, match=r"no row of ours: did you mean '\+ APX'"):
        study_table(study, tmp_path / "runs", tmp_path)
    (tmp_path / "table_ablation.csv").write_text(text.replace("+ APX,paper", "+ APX,papr"))
    with pytest.raises(FadepthError, match="papr"):
        study_table(study, tmp_path / "runs", tmp_path)


def test_every_published_cell_has_a_place_of_its_own(kitti: Any) -> None:
    """Two rows of one name would answer for each other."""
    for name in ("kitti", "complexity", "kitti_highres"):
        study, runs = kitti(name)
        table = study_table(study, runs, PAPER, partial=True)
        labels = [row.cells["row"] for row in table.rows]
        assert len(labels) == len(set(labels))
        told = (table.provenance or {})["cells"]
        for row in table.rows:
            if row.kind == "reported" and "abs_rel" in row.cells:
                assert told[row.cells["row"]]["abs_rel"]["value"] == row.cells["abs_rel"]
        if name == "complexity":
            bound = cells(table, "SmallDepth [paper]")
            assert (bound["params_m"], bound["fps"]) == ("about 2", "> 500")
            assert "SmallDepth" in told


# Costs


def costs_of(study: Study) -> dict[str, Any]:
    """What `measure_costs` writes, with times of our own choosing: 4 ms, 8 ms, ..."""
    ids = [row.runs[0].id for row in study.rows]
    times = {run: 4.0 * (1 + i) for i, run in enumerate(ids)}
    latency = {r: {"median": t, "p10": t - 1, "p90": t + 1, "turns": 30} for r, t in times.items()}
    ratio = {r: {"median": t / 100, "low": t / 110, "high": t / 90} for r, t in times.items()}
    device = {"device": "cpu", "name": "CPU", "threads": 1, "clean_share": 0.9}
    return {
        "height": 192,
        "width": 640,
        "layout": "channels_last",
        "networks": {
            run: {"parameters": 2_000_000, "macs": 861_000_000, "model_sha256": "x"} for run in ids
        },
        "yardstick": {"name": "ResNet-18 U-Net", "parameters": 14_329_236, "macs": 8_000_000_000},
        "devices": [{**device, "latency_ms": latency, "ratio": ratio}],
    }


def table_with_costs(folder: Path, costs: dict[str, Any]) -> Table:
    study = study_of("complexity")
    write_runs(study, folder / "runs", abs_rel)
    path = folder / "reports" / "costs" / "table_complexity.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(costs))
    return study_table(study, folder / "runs", folder / "none", base=folder)


def test_times_stand_beside_those_of_the_unet(tmp_path: Path) -> None:
    table = table_with_costs(tmp_path, costs_of(study_of("complexity")))
    second = cells(table, "dense kernels")
    assert (second["cpu.latency_ms"], second["cpu.fps"]) == (8.0, 125.0)
    assert second["cpu.ratio"] == pytest.approx(0.08)
    assert (second["cpu.ratio_low"], second["cpu.ratio_high"]) == (8 / 110, 8 / 90)
    shown = [column.key for column in table.columns if column.group == "CPU, 1 thread"]
    assert shown == ["cpu.latency_ms", "cpu.fps", "cpu.ratio"]
    text = markdown_text(table)
    assert "× U-Net ↓" in text
    assert "0.080" in text
    assert "over that of a ResNet-18 U-Net (monodepth2's depth network, 14.3 M" in text
    assert "float32, channels last, all networks in turn" in text
    assert r"$\times$ U-Net" in latex_text(table)
    write_table(table, tmp_path / "table_complexity.csv")
    with (tmp_path / "table_complexity.csv").open() as file:
        written = next(row for row in csv.DictReader(file) if row["row"] == "dense kernels")
    assert float(written["cpu.ratio_low"]) == pytest.approx(8 / 110)


def test_costs_of_older_versions_and_other_sizes_have_no_such_column(tmp_path: Path) -> None:
    full = costs_of(study_of("complexity"))
    device = {k: v for k, v in full["devices"][0].items() if k not in ("ratio", "clean_share")}
    older = {k: v for k, v in full.items() if k not in ("yardstick", "layout")}
    for costs in (
        {**older, "devices": [device]},
        {**full, "yardstick": None, "devices": [{**device, "ratio": {}}]},
    ):
        table = table_with_costs(tmp_path, costs)
        assert cells(table, "SmallDepth")["cpu.latency_ms"] == 4.0
        assert not any("ratio" in column.key for column in table.columns)
        assert "U-Net" not in markdown_text(table)


def test_students_of_a_teacher_say_so(kitti: Any) -> None:
    study, runs = kitti("kitti")
    table = study_table(study, runs, PAPER)
    assert cells(table, "SmallDepth")["supervision"] == "M"
    assert cells(table, "+ ETM + pyramid loss + APX")["supervision"] == "M+T"


def test_every_row_of_the_paper_is_one_of_ours() -> None:
    """A label that no study has would never be compared, and nobody would notice."""
    preset = load_yaml(ROOT / "config" / "smoke.yaml") | {"data": {"source": "synthetic"}}
    for path in sorted((ROOT / "ablations").glob("*.yaml")):
        study = resolve_study(path, preset, "full size")
        ours = {row.label for row in study.rows}
        file = PAPER / f"{study.file.table}.csv"
        printed = {r.row for r in read_references(file) if r.kind == "paper"}
        assert printed <= ours, file.name
        assert printed, file.name
