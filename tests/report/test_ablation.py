"""The ablation table against values computed by hand from fake run folders."""

import csv
import json
import shutil
import statistics
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from fadepth.errors import FadepthError
from fadepth.report.ablation import Row, ablation_table, collect_rows, read_records
from fadepth.report.writers import latex_text, markdown_text, write_table

METRICS = ["abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3"]
FACTORS = ["etm", "pyramid", "apx"]
COLUMNS = [
    "row",
    "kind",
    *FACTORS,
    "seeds",
    *METRICS,
    *[f"{m}_std" for m in METRICS],
    "params_m",
    "scale",
    "dataset",
    "protocol",
    "images",
    "run_ids",
]


def write_run(
    runs: Path,
    run_id: str,
    *,
    row="Base",
    kind="student",
    factors=None,
    seed=1,
    abs_rel=0.2,
    status="finished",
    **changes,
):
    folder = runs / run_id
    folder.mkdir(parents=True)
    manifest = {
        "run_id": run_id,
        "kind": kind,
        "row": row,
        "study": "ablation",
        "factors": factors or {},
        "seed": seed,
        "scale": "full",
        "dataset": "kitti",
        "status": status,
        "commit": "0123456789abcdef",
        "dirty": False,
        "data_hash": "data",
        "config_hash": f"config-{run_id}",
        "code_hash": "code",
        "teacher": None,
        "parameters_inference": 2_034_567,
    }
    evaluation = {
        "protocol": "kitti_eigen_raw",
        "images": 697,
        "scale": "full",
        "dataset": "kitti",
        "parameters": 1,
        "metrics": {name: abs_rel + index for index, name in enumerate(METRICS)},
    }
    for key, value in changes.items():
        (manifest if key in manifest else evaluation)[key] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "metrics.json").write_text(json.dumps(evaluation))


@pytest.fixture
def study(tmp_path: Path):
    """8 variants of 3 seeds, a teacher, 3 baselines; abs_rel = 0.1 * variant + 0.01 * seed^2."""
    runs = tmp_path / "runs"
    rows = []
    for index, levels in enumerate(product(["off", "on"], repeat=3)):
        factors = dict(zip(FACTORS, levels, strict=True))
        label = " + ".join(n for n, level in factors.items() if level == "on") or "Base"
        ids = [f"v{index}-s{seed}-0123456789" for seed in (1, 2, 3)]
        for seed, run_id in enumerate(ids, start=1):
            write_run(
                runs,
                run_id,
                row=label,
                factors=factors,
                seed=seed,
                abs_rel=0.1 * (index + 1) + 0.01 * seed**2,
            )
        rows.append(Row(label, "variant", factors, ids))
    write_run(
        runs,
        "teacher-0123456789",
        row="HQDecv2",
        kind="teacher",
        abs_rel=0.05,
        parameters_inference=60_000_000,
    )
    rows.append(Row("HQDecv2", "teacher", {}, ["teacher-0123456789"]))
    for name in ("zero", "mean", "ramp"):
        write_run(
            runs,
            f"{name}-0123456789",
            row=name,
            kind="baseline",
            abs_rel=0.9,
            seed=None,
            parameters_inference=0,
        )
        rows.append(Row(name, "baseline", {}, [f"{name}-0123456789"]))
    return runs, rows


def records_of(runs, rows):
    return read_records(runs, [run_id for row in rows for run_id in row.run_ids])


def test_frame_has_the_columns_means_and_spreads(study):
    runs, rows = study
    frame = collect_rows(rows, runs)
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 12
    values = [0.4 + 0.01, 0.4 + 0.04, 0.4 + 0.09]
    line = frame.iloc[3]
    assert line["row"] == "pyramid + apx"
    assert [line[name] for name in FACTORS] == ["off", "on", "on"]
    assert line["abs_rel"] == pytest.approx(sum(values) / 3)
    # Sample standard deviation by hand: sum of squares about the mean over n - 1.
    mean = sum(values) / 3
    by_hand = (sum((v - mean) ** 2 for v in values) / 2) ** 0.5
    assert line["delta_3_std"] == pytest.approx(by_hand)
    assert line["delta_3"] == pytest.approx(mean + 6)
    assert line["seeds"] == 3
    assert line["params_m"] == pytest.approx(2.034567)
    assert line["run_ids"] == "v3-s1-0123456789 v3-s2-0123456789 v3-s3-0123456789"


def test_reference_rows_have_no_factors_and_no_spread(study):
    frame = collect_rows(study[1], study[0])
    teacher = frame[frame["kind"] == "teacher"].iloc[0]
    assert [teacher[name] for name in FACTORS] == ["", "", ""]
    assert all(pd.isna(teacher[f"{name}_std"]) for name in METRICS)
    assert frame["kind"].tolist() == ["variant"] * 8 + ["teacher"] + ["baseline"] * 3


def test_written_files_agree_with_the_run_folders(study, tmp_path: Path):
    runs, rows = study
    table = ablation_table(records_of(runs, rows), rows)
    out = tmp_path / "reports" / "table_ablation.csv"
    write_table(table, out, out.with_suffix(".md"), out.with_suffix(".tex"))
    with out.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert list(lines[0]) == COLUMNS
    for line in lines:
        loaded = [
            json.loads((runs / i / "metrics.json").read_text())["metrics"]
            for i in line["run_ids"].split()
        ]
        for name in METRICS:
            values = [each[name] for each in loaded]
            assert float(line[name]) == pytest.approx(statistics.fmean(values), rel=1e-12)
            if len(values) == 1:
                assert line[f"{name}_std"] == ""
            else:
                spread = statistics.stdev(values)
                assert float(line[f"{name}_std"]) == pytest.approx(spread, rel=1e-12)
    assert lines[0]["images"] == "697"
    assert lines[9]["params_m"] == "0.0"
    frame = pd.read_csv(out, keep_default_na=False)
    pd.testing.assert_series_equal(frame["abs_rel"], collect_rows(rows, runs)["abs_rel"])


def test_provenance_names_each_cells_runs(study, tmp_path: Path):
    runs, rows = study
    out = tmp_path / "table_ablation.csv"
    table = ablation_table(records_of(runs, rows), rows)
    write_table(table, out, out.with_suffix(".md"), out.with_suffix(".tex"))
    twin = json.loads((tmp_path / "table_ablation.provenance.json").read_text())
    cell = twin["cells"]["etm"]["abs_rel"]
    assert cell == {f"v4-s{s}-0123456789": pytest.approx(0.5 + 0.01 * s**2) for s in (1, 2, 3)}
    assert twin["runs"]["v4-s2-0123456789"] == {
        "commit": "0123456789abcdef",
        "dirty": False,
        "config_hash": "config-v4-s2-0123456789",
        "data_hash": "data",
        "code_hash": "code",
        "seed": 2,
        "teacher": None,
    }
    assert twin["stamp"]["seeds"] == [1, 2, 3]


def test_rows_are_grouped_from_manifests_without_a_study(study):
    runs, rows = study
    records = records_of(runs, rows)
    assert ablation_table(records).rows == ablation_table(records, rows).rows


def test_best_and_second_among_variants_only(study):
    runs, rows = study
    lines = markdown_text(ablation_table(records_of(runs, rows), rows)).splitlines()
    base = next(line for line in lines if line.startswith("| Base"))
    teacher = next(line for line in lines if line.startswith("| HQDecv2"))
    assert "**0.147 ± 0.040**" in base
    assert "**" not in teacher
    assert "| 0.050 |" in teacher


def test_one_seed_is_said_and_has_no_spread(tmp_path: Path):
    for index, level in enumerate(["off", "on"]):
        write_run(tmp_path, f"r{index}", row=level, factors={"apx": level}, abs_rel=0.1 + index)
    table = ablation_table(read_records(tmp_path, ["r0", "r1"]))
    assert "one seed: differences may be noise" in table.notes
    for text in (markdown_text(table), latex_text(table)):
        assert "one seed: differences may be noise" in text
        assert "0.100" in text
        assert "standard deviation" not in text


def test_several_seeds_are_not_called_one(study):
    runs, rows = study
    notes = ablation_table(records_of(runs, rows), rows).notes
    assert not any("one seed" in note for note in notes)
    assert not any("not comparable" in note for note in notes)


def test_any_factor_names_make_columns(tmp_path: Path):
    write_run(tmp_path, "r0", row="a", factors={"sparsity": "dense", "ema": "off"})
    write_run(tmp_path, "r1", row="b", factors={"sparsity": "group32", "ema": "on"})
    rows = [
        Row("a", "variant", {"sparsity": "dense", "ema": "off"}, ["r0"]),
        Row("b", "variant", {"sparsity": "group32", "ema": "on"}, ["r1"]),
    ]
    frame = collect_rows(rows, tmp_path)
    assert list(frame.columns)[:5] == ["row", "kind", "sparsity", "ema", "seeds"]
    text = markdown_text(ablation_table(read_records(tmp_path, ["r0", "r1"]), rows))
    assert "| Row | Sparsity | EMA | Seeds |" in text


def test_rows_that_were_not_made_alike_are_noted(tmp_path: Path):
    write_run(tmp_path, "r0", row="a", teacher="t1")
    write_run(tmp_path, "r1", row="b", seed=2, data_hash="other", teacher="t2", images=652)
    notes = " ".join(ablation_table(read_records(tmp_path, ["r0", "r1"])).notes)
    for what in ("frames (data hashes)", "teachers", "numbers of images", "seeds"):
        assert f"rows differ in their {what}" in notes


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "does not exist: evaluate r0 again"),
        ('{"protocol": "x", "ima', "is not complete JSON: evaluate r0 again"),
        ('{"protocol": "x", "images": 3}', "lacks 'metrics'"),
        ('{"protocol": "x", "images": 3, "metrics": {"abs_rel": 0.1}}', "metrics.sq_rel is None"),
        ('{"protocol": "x", "images": 3, "metrics": {"abs_rel": NaN}}', "metrics.abs_rel is nan"),
        ("[]", "holds no JSON object"),
    ],
)
def test_missing_or_half_metrics_are_told_in_one_sentence(tmp_path: Path, content, told):
    write_run(tmp_path, "r0")
    path = tmp_path / "r0" / "metrics.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(FadepthError) as raised:
        collect_rows([Row("Base", "variant", {}, ["r0"])], tmp_path)
    assert told in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_not_finished_or_not_there_makes_no_table(tmp_path: Path):
    write_run(tmp_path, "r0", status="running")
    with pytest.raises(FadepthError, match="'running', not 'finished'"):
        collect_rows([Row("Base", "variant", {}, ["r0"])], tmp_path)
    shutil.rmtree(tmp_path / "r0")
    with pytest.raises(FadepthError, match=r"manifest\.json does not exist: train r0 again"):
        collect_rows([Row("Base", "variant", {}, ["r0"])], tmp_path)
    with pytest.raises(FadepthError, match="row 'Base' has no run"):
        collect_rows([Row("Base", "variant", {}, [])], tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scale": "quick"}, "scale is 'full' in r0 and 'quick' in r1"),
        ({"protocol": "other"}, "protocol is 'kitti_eigen_raw' in r0 and 'other' in r1"),
        ({"images": 3}, "images is 697 in r0 and 3 in r1"),
        ({"parameters_inference": 5}, "parameters is 2034567 in r0 and 5 in r1"),
        ({"factors": {"apx": "on"}}, "says apx off, but run r1 has apx on"),
        ({"kind": "teacher"}, "run r1 is of kind 'teacher'"),
    ],
)
def test_seeds_of_a_row_must_be_alike(tmp_path: Path, changes, told):
    write_run(tmp_path, "r0", factors={"apx": "off"})
    write_run(tmp_path, "r1", **{"factors": {"apx": "off"}, "seed": 2, **changes})
    with pytest.raises(FadepthError) as raised:
        collect_rows([Row("Base", "variant", {"apx": "off"}, ["r0", "r1"])], tmp_path)
    assert told in str(raised.value)


def test_two_rows_may_not_share_a_label(tmp_path: Path):
    write_run(tmp_path, "r0")
    row = Row("Base", "variant", {}, ["r0"])
    with pytest.raises(FadepthError, match="two rows are called 'Base'"):
        collect_rows([row, row], tmp_path)
