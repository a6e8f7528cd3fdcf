"""Two studies compared: against differences and intervals that are computed by hand."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from project import Project, make_project
from rich.console import Console
from scipy import stats

from fadepth.config import load_yaml, merge
from fadepth.errors import FadepthError
from fadepth.execution.study_diff import (
    Compared,
    RowPair,
    Side,
    StudyDiff,
    compare_studies,
    diff_table,
    diff_view,
)
from fadepth.report.results import METRICS
from fadepth.report.writers import write_table
from fadepth.run import Run
from fadepth.study import Study, resolve_study
from tests.report.fakes import DRIVES, FRAMES, ROOT, write_rows_study, write_run

IMAGES = len(DRIVES) * FRAMES
SMOKE = merge(load_yaml(ROOT / "config" / "smoke.yaml"), {"scale": "full"})


def rows_study(folder: Path, name: str = "mine", /, preset: Any = (), **rows: Any) -> Study:
    """A study with these rows, label -> settings; `preset` goes on top of smoke's."""
    path = write_rows_study(folder, name, rows)
    return resolve_study(path, merge(SMOKE, dict(preset)), "smoke")


def compared(a: Study, b: Study, runs: Path) -> StudyDiff:
    return compare_studies(Side("one", a), Side("other", b), runs)


def pair_of(diff: StudyDiff, label: str) -> RowPair:
    return next(pair for pair in diff.rows if pair.label == label)


def measure_of(pair: RowPair, key: str = "abs_rel") -> Compared:
    return next(found for found in pair.compared if found.measure.key == key)


def row(study: Study, label: str) -> tuple[Run, ...]:
    return next(row for row in study.rows if row.label == label).runs


def shown(diff: StudyDiff) -> str:
    stream = io.StringIO()
    Console(file=stream, width=250).print(diff_view(diff))
    return stream.getvalue()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def two(tmp_path: Path, seeds: tuple[int, ...] = (1, 2, 3), **more: Any) -> tuple[Study, Study]:
    """Row A with one and with two pixels at the border; row plain is the same in both."""
    preset = {"seeds": list(seeds), **more}
    one = rows_study(tmp_path / "a", preset=preset, plain={}, A={"loss.border": 1})
    other = rows_study(tmp_path / "b", preset=preset, plain={}, A={"loss.border": 2})
    return one, other


# Numbers


def test_a_difference_that_all_images_and_seeds_show_has_no_width(
    tmp_path: Path, runs: Path
) -> None:
    one, other = two(tmp_path)
    for run in row(one, "A"):
        write_run(run, runs, 0.2 + 0.01 * run.seed)
    for run in row(other, "A"):
        write_run(run, runs, 0.23 + 0.01 * run.seed)
    pair = pair_of(compared(one, other, runs), "A")
    for index, (key, direction) in enumerate(METRICS.items()):
        found = measure_of(pair, key)
        assert found.a == pytest.approx(0.22 + index)
        assert found.b == pytest.approx(0.25 + index)
        assert found.difference == pytest.approx(0.03)
        assert found.interval is not None
        assert (found.interval.low, found.interval.high) == pytest.approx((0.03, 0.03))
        assert found.seeds == (1, 2, 3)
        assert found.verdict == ("worse" if direction == "lower" else "better")


def test_of_one_seed_the_interval_is_students_over_drives(tmp_path: Path, runs: Path) -> None:
    """Six drives of equal length: t with five degrees times s / sqrt(6), by hand."""
    one, other = two(tmp_path, seeds=(1,))
    by_drive = np.array([0.01, 0.05, -0.02, 0.03, 0.00, 0.02])
    write_run(row(one, "A")[0], runs, 0.2)
    write_run(row(other, "A")[0], runs, 0.2 + np.repeat(by_drive, FRAMES))
    found = measure_of(pair_of(compared(one, other, runs), "A"))
    half = stats.t.ppf(0.975, 5) * by_drive.std(ddof=1) / math.sqrt(6)
    assert found.interval is not None
    assert found.difference == pytest.approx(by_drive.mean())
    # The bootstrap's own error is a percent or so.
    assert found.interval.high - found.interval.mean == pytest.approx(half, rel=0.03)
    assert found.interval.mean - found.interval.low == pytest.approx(half, rel=0.03)
    assert half > by_drive.mean()
    assert found.verdict == "unclear"


def test_one_seed_is_said_beside_a_verdict(tmp_path: Path, runs: Path) -> None:
    one, other = two(tmp_path, seeds=(1,))
    write_run(row(one, "A")[0], runs, 0.2)
    write_run(row(other, "A")[0], runs, 0.1)
    assert measure_of(pair_of(compared(one, other, runs), "A")).verdict == "better, one seed"


def test_seeds_that_disagree_are_unclear(tmp_path: Path, runs: Path) -> None:
    one, other = two(tmp_path)
    for run, value in zip(row(other, "A"), (0.1, 0.3, 0.22), strict=True):
        write_run(run, runs, value)
    for run in row(one, "A"):
        write_run(run, runs, 0.2)
    found = measure_of(pair_of(compared(one, other, runs), "A"))
    assert found.difference == pytest.approx(0.62 / 3 - 0.2)
    assert found.verdict == "unclear"


def test_only_seeds_that_both_have_are_compared(tmp_path: Path, runs: Path) -> None:
    one, other = two(tmp_path)
    for run, value in zip(row(one, "A"), (0.1, 0.2, 0.9), strict=True):
        write_run(run, runs, value)
    for run, value in zip(row(other, "A")[:2], (0.2, 0.3), strict=True):
        write_run(run, runs, value)
    diff = compared(one, other, runs)
    found = measure_of(pair_of(diff, "A"))
    assert found.a == pytest.approx(0.4)
    assert found.b == pytest.approx(0.25)
    assert found.difference == pytest.approx(0.1)
    assert found.seeds == (1, 2)
    assert "worse (seed 1, 2)" in shown(diff)


def test_without_a_common_seed_only_means_are_told(tmp_path: Path, runs: Path) -> None:
    one, other = two(tmp_path, seeds=(1, 2))
    write_run(row(one, "A")[0], runs, 0.1)
    write_run(row(other, "A")[1], runs, 0.3)
    found = measure_of(pair_of(compared(one, other, runs), "A"))
    assert found.difference == pytest.approx(0.2)
    assert (found.interval, found.verdict) == (None, "other seeds")


@pytest.mark.parametrize("damage", ["other images", "no file", "half"])
def test_without_the_same_images_there_is_no_interval(
    tmp_path: Path, runs: Path, damage: str
) -> None:
    one, other = two(tmp_path)
    for study, value in ((one, 0.1), (other, 0.3)):
        for run in row(study, "A"):
            write_run(run, runs, value)
    path = runs / row(other, "A")[1].id / "per_image.csv"
    lines = path.read_text().splitlines()
    if damage == "other images":
        path.write_text("\n".join(lines[:-1]) + "\n")
    elif damage == "half":
        path.write_text("drive,fra")
    else:
        path.unlink()
    found = measure_of(pair_of(compared(one, other, runs), "A"))
    assert found.difference == pytest.approx(0.2)
    assert (found.interval, found.verdict) == (None, "no interval")


def test_parameters_have_a_difference_and_no_verdict(tmp_path: Path, runs: Path) -> None:
    one, other = two(tmp_path)
    for run in row(one, "A"):
        write_run(run, runs, 0.2, parameters_inference=1_000_000)
    for run in row(other, "A"):
        write_run(run, runs, 0.2, parameters_inference=1_500_000)
    found = measure_of(pair_of(compared(one, other, runs), "A"), "params_m")
    assert found.difference == pytest.approx(0.5)
    assert (found.interval, found.verdict) == (None, "")


@pytest.mark.parametrize(
    ("left", "reason"),
    [((), "not trained in B"), (("manifest.json",), "not evaluated in B")],
)
def test_what_is_missing_is_told(
    tmp_path: Path, runs: Path, left: tuple[str, ...], reason: str
) -> None:
    one, other = two(tmp_path)
    for run in (*row(one, "A"), *row(other, "A")):
        write_run(run, runs, 0.2)
    for run in row(other, "A"):
        for path in (runs / run.id).iterdir():
            if path.name not in left:
                path.unlink()
    diff = compared(one, other, runs)
    found = measure_of(pair_of(diff, "A"))
    assert found.a == pytest.approx(0.2)
    assert (found.b, found.difference, found.verdict) == (None, None, reason)
    assert reason in shown(diff)


# Rows and settings


def test_rows_of_the_same_runs_are_not_compared(tmp_path: Path, runs: Path) -> None:
    one, other = two(tmp_path)
    diff = compared(one, other, runs)
    pair = pair_of(diff, "plain")
    assert pair.same
    assert pair.compared == ()
    assert "plain: same runs, nothing to compare\n" in shown(diff)
    assert [pair.label for pair in diff.rows] == ["plain", "A"]
    assert (diff.only_a, diff.only_b, diff.settings) == ([], [], [])
    assert str(*pair_of(diff, "A").changes) == "loss.border 1 → 2"


def test_more_seeds_of_the_same_runs_are_told(tmp_path: Path, runs: Path) -> None:
    one = rows_study(tmp_path / "a", preset={"seeds": [1, 2]}, plain={})
    other = rows_study(tmp_path / "b", preset={"seeds": [1, 2, 5, 6]}, plain={})
    diff = compared(one, other, runs)
    assert pair_of(diff, "plain").words() == ("same runs, nothing to compare; seed 5, 6 only in B")
    assert [str(change) for change in diff.settings] == ["seeds [1, 2] → [1, 2, 5, 6]"]


def test_rows_of_one_study_only_are_named(tmp_path: Path, runs: Path) -> None:
    one = rows_study(tmp_path / "a", plain={}, A={"loss.border": 1}, B={"loss.border": 2})
    other = rows_study(tmp_path / "b", plain={}, C={"loss.border": 3})
    diff = compared(one, other, runs)
    assert (diff.only_a, diff.only_b) == (["A", "B"], ["C"])


def test_relabelled_rows_are_found_by_factors_and_by_runs(tmp_path: Path, runs: Path) -> None:
    """A factorial whose factor has another label; rows of a list that have the same runs."""
    content = load_yaml(ROOT / "ablations" / "components.yaml")
    content["factors"]["etm"]["label"] = "branches"
    content["factors"]["etm"]["levels"]["on"] = {"student.etm.branches": "rep"}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    one = resolve_study(ROOT / "ablations" / "components.yaml", SMOKE, "smoke")
    other = resolve_study(path, SMOKE, "smoke")
    diff = compared(one, other, runs)
    assert (diff.only_a, diff.only_b) == ([], [])
    pair = pair_of(diff, "+ ETM + APX | + branches + APX")
    assert [str(change) for change in pair.changes] == ["student.etm.branches ac → rep"]
    a = rows_study(tmp_path / "a", plain={}, A={"loss.border": 1}, B={"loss.border": 2})
    b = rows_study(tmp_path / "b", plain={}, B={"loss.border": 1})
    diff = compared(a, b, runs)
    # A label goes before what a row is.
    assert [pair.label for pair in diff.rows] == ["plain", "B"]
    assert diff.only_a == ["A"]
    c = rows_study(tmp_path / "c", plain={}, C={"loss.border": 1})
    assert pair_of(compared(a, c, runs), "A | C").same


def test_presets_differences_are_told_once_identity_first(tmp_path: Path, runs: Path) -> None:
    one = rows_study(tmp_path / "a", plain={}, A={"loss.border": 1})
    preset = {
        "evaluation": {"panels": 1},
        "training": {"workers": 2, "batch_size": 1},
        "data": {"root": "elsewhere"},
    }
    other = rows_study(tmp_path / "b", preset=preset, plain={}, A={"loss.border": 2})
    diff = compared(one, other, runs)
    assert {str(change): change.identity for change in diff.settings} == {
        "training.batch_size 2 → 1": True,
        "data.root data/synthetic_street → elsewhere": False,
        "training.workers 0 → 2": False,
        "evaluation.panels 2 → 1": False,
    }
    assert diff.settings[0].key == "training.batch_size"
    assert pair_of(diff, "A").words(diff.settings) == "loss.border 1 → 2; settings as above"
    assert pair_of(diff, "A").words() == "loss.border 1 → 2; training.batch_size 2 → 1"


def test_another_teacher_is_a_difference_of_its_students(tmp_path: Path, runs: Path) -> None:
    rows = {"plain": {}, "A": {"loss.apx.enabled": True}}
    one = rows_study(tmp_path / "a", **rows)
    other = rows_study(tmp_path / "b", preset={"teacher": {"width": 0.2}}, **rows)
    diff = compared(one, other, runs)
    assert pair_of(diff, "plain").same
    assert pair_of(diff, "A").words() == "its teacher: teacher.width 0.1 → 0.2"
    assert not pair_of(diff, "HQDecv2 (teacher)").same


# What is refused

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "scale": ({"scale": "quick"}, "A is of scale full and B of scale quick"),
    "data": ({"data": {"name": "other"}}, "the data set synthetic_street and B about other"),
    "frames": (
        {"data": {"synthetic": {"seed": 5}}},
        "A and B have other frames of synthetic_street",
    ),
    "protocol": (
        {"evaluation": {"protocol": "synthetic_70m"}},
        "by the protocol synthetic_dense and B by synthetic_70m",
    ),
    "split": ({"evaluation": {"split": "val"}}, "on the split test and B on val"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_numbers_of_another_kind_are_refused_and_settings_still_told(
    tmp_path: Path, runs: Path, what: str
) -> None:
    changes, reason = OTHERS[what]
    one = rows_study(tmp_path / "a", plain={}, A={"loss.border": 1})
    other = rows_study(tmp_path / "b", preset=changes, plain={}, A={"loss.border": 2})
    for study in (one, other):
        for run in study.runs:
            write_run(run, runs, 0.2)
    diff = compared(one, other, runs)
    assert any(reason in refused for refused in diff.refused), diff.refused
    assert all(pair.compared == () for pair in diff.rows)
    assert diff.settings
    assert "loss.border 1 → 2" in pair_of(diff, "A").words(diff.settings)
    assert "numbers are not compared: " in shown(diff)
    with pytest.raises(FadepthError, match="there are no numbers to write"):
        diff_table(diff)


@pytest.mark.parametrize(
    ("key", "value"), [("protocol", "synthetic_70m"), ("data_hash", "0000"), ("split", "val")]
)
def test_results_that_were_measured_otherwise_are_not_compared(
    tmp_path: Path, runs: Path, key: str, value: str
) -> None:
    """What metrics.json says of itself goes before what the study asks for by now."""
    one, other = two(tmp_path)
    for study, said in ((one, {}), (other, {key: value})):
        for run in row(study, "A"):
            write_run(run, runs, 0.2)
            path = runs / run.id / "metrics.json"
            content = {"data_hash": "1111", "split": "test", **json.loads(path.read_text()), **said}
            path.write_text(json.dumps(content))
    found = measure_of(pair_of(compared(one, other, runs), "A"))
    assert found.difference is None
    assert found.verdict.startswith(f"measured otherwise: {key} ")
    assert found.verdict.endswith(f"{value} in B")


def test_seeds_that_cannot_be_averaged_are_refused_with_the_reason(
    tmp_path: Path, runs: Path
) -> None:
    one, other = two(tmp_path)
    for study in (one, other):
        for run in row(study, "A"):
            write_run(run, runs, 0.2, images=IMAGES + run.seed)
    diff = compared(one, other, runs)
    assert any("cannot be averaged: images" in reason for reason in diff.refused)
    assert pair_of(diff, "A").compared == ()


def test_only_measures_that_both_tables_show_are_compared(tmp_path: Path, runs: Path) -> None:
    content = load_yaml(ROOT / "ablations" / "etm.yaml")
    names = ("training_parameters", "parameters", "metrics")
    studies = []
    for name, columns in (("a", [*names]), ("b", ["metrics", "parameters", "grid"])):
        for changed in content["rows"][1:]:
            changed["settings"]["loss.border"] = 1 if name == "a" else 2
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content | {"columns": columns}))
        studies.append(resolve_study(path, SMOKE, "smoke"))
    pair = pair_of(compared(studies[0], studies[1], runs), "+ ETM ac")
    assert {found.measure.key for found in pair.compared} == {"params_m", *METRICS}


# Files and commands


def test_the_table_has_every_digit_and_where_it_is_from(tmp_path: Path, runs: Path) -> None:
    one, other = two(tmp_path)
    for study, value in ((one, 0.2), (other, 0.25)):
        for run in row(study, "A"):
            write_run(run, runs, value)
    output = tmp_path / "out" / "mine.csv"
    write_table(diff_table(compared(one, other, runs)), output)
    lines = list(csv.DictReader(output.open()))
    line = next(line for line in lines if line["measure"] == "Abs Rel ↓")
    assert line["row"] == "A"
    assert [float(line[key]) for key in ("a", "b", "difference", "low", "high")] == pytest.approx(
        [0.2, 0.25, 0.05, 0.05, 0.05]
    )
    assert (line["verdict"], line["seeds"]) == ("worse", "3")
    assert line["settings"] == "loss.border 1 → 2"
    text = output.with_suffix(".md").read_text()
    assert "scale full; data synthetic\\_street; protocol synthetic\\_dense; seeds 1, 2, 3" in text


def test_a_comparison_is_json(tmp_path: Path, runs: Path) -> None:
    one, other = two(tmp_path)
    for study, value in ((one, 0.2), (other, 0.25)):
        for run in row(study, "A"):
            write_run(run, runs, value)
    content = json.loads(json.dumps(compared(one, other, runs).as_json()))
    measure = next(m for m in content["rows"][1]["measures"] if m["measure"] == "abs_rel")
    assert measure["difference"] == pytest.approx(0.05)
    assert measure["verdict"] == "worse"
    assert content["rows"][0] == {
        "a": "plain", "b": "plain", "same": True, "notes": [], "changes": [], "measures": [],
    }  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Project:
    return make_project(tmp_path_factory.mktemp("diff"), repository)


def test_a_study_is_named_by_name_table_file_and_preset(project: Project) -> None:
    edited = load_yaml(ROOT / "ablations" / "etm.yaml")
    edited["rows"][1]["settings"]["loss.border"] = 1
    (project.folder / "my@copy.yaml").write_text(yaml.safe_dump(edited))
    result = project.fadepth(
        *("diff", "etm@config/smoke.yaml", "my@copy.yaml", "--preset", "config/smoke.yaml"),
        "--json",
    )
    assert result.returncode == 0, result.stdout
    content = json.loads(result.stdout)
    assert (content["a"], content["b"]) == (
        "etm@config/smoke.yaml",
        "my@copy.yaml@config/smoke.yaml",
    )
    assert content["settings"] == []
    assert [r["a"] for r in content["rows"] if not r["same"]] == ["+ ETM rep"]
    result = project.fadepth("diff", "table_etm", "etm@config/smoke.yaml")
    assert result.returncode == 0, result.stdout
    assert "A is of scale quick and B of scale smoke" in result.stdout


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("etm", "etn"), "no study is called 'etn': did you mean etm?"),
        (("etm", "nothing.yaml"), "nothing.yaml does not exist"),
        (("etm", "etm@config/no.yaml"), "config/no.yaml does not exist"),
    ],
)
def test_a_wrong_name_is_told(project: Project, names: tuple[str, str], sentence: str) -> None:
    result = project.fadepth("diff", *names)
    assert result.returncode == 2
    assert result.stdout.startswith(f"fadepth: {sentence}")
