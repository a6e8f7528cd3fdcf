"""Designs: the rows that each makes of one list of factors, their runs, seeds and tables."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fadepth import study as study_module
from fadepth.config import load_yaml, merge
from fadepth.errors import FadepthError
from fadepth.report.study_table import study_table
from fadepth.report.table import Table
from fadepth.report.writers import csv_text, latex_text, markdown_text
from fadepth.run import Run
from fadepth.study import Study, resolve_study, unique_runs
from fadepth.study_file import load_study_file
from tests.report.fakes import write_runs

ROOT = Path(__file__).resolve().parent.parent

ETM_REP = {"student.etm.branches": "rep"}
ETM_AC = {"student.etm.branches": "ac"}
PYRAMID = {"loss.pyramid.enabled": True}
APX = {"loss.apx.enabled": True}

FACTORS: dict[str, Any] = {
    "etm": {"label": "ETM", "levels": {"off": {}, "rep": ETM_REP, "ac": ETM_AC}},
    "pyramid": {"label": "pyramid loss", "levels": {"off": {}, "on": PYRAMID}},
    "apx": {"label": "APX", "levels": {"off": {}, "on": APX}},
}

#: Rows by hand: label, levels of etm, pyramid and apx, settings.
ROWS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "one_at_a_time": [
        ("SmallDepth", "off off off", {}),
        ("+ ETM rep", "rep off off", ETM_REP),
        ("+ ETM ac", "ac off off", ETM_AC),
        ("+ pyramid loss", "off on off", PYRAMID),
        ("+ APX", "off off on", APX),
    ],
    "leave_one_out": [
        ("SmallDepth + all", "ac on on", {**ETM_AC, **PYRAMID, **APX}),
        ("w/o ETM", "off on on", {**PYRAMID, **APX}),
        ("with ETM rep", "rep on on", {**ETM_REP, **PYRAMID, **APX}),
        ("w/o pyramid loss", "ac off on", {**ETM_AC, **APX}),
        ("w/o APX", "ac on off", {**ETM_AC, **PYRAMID}),
    ],
    "cumulative": [
        ("SmallDepth", "off off off", {}),
        ("+ ETM ac", "ac off off", ETM_AC),
        ("+ ETM ac + pyramid loss", "ac on off", {**ETM_AC, **PYRAMID}),
        ("+ ETM ac + pyramid loss + APX", "ac on on", {**ETM_AC, **PYRAMID, **APX}),
    ],
    "factorial": [
        ("SmallDepth", "off off off", {}),
        ("+ ETM rep", "rep off off", ETM_REP),
        ("+ ETM ac", "ac off off", ETM_AC),
        ("+ pyramid loss", "off on off", PYRAMID),
        ("+ APX", "off off on", APX),
        ("+ ETM rep + pyramid loss", "rep on off", {**ETM_REP, **PYRAMID}),
        ("+ ETM ac + pyramid loss", "ac on off", {**ETM_AC, **PYRAMID}),
        ("+ ETM rep + APX", "rep off on", {**ETM_REP, **APX}),
        ("+ ETM ac + APX", "ac off on", {**ETM_AC, **APX}),
        ("+ pyramid loss + APX", "off on on", {**PYRAMID, **APX}),
        ("+ ETM rep + pyramid loss + APX", "rep on on", {**ETM_REP, **PYRAMID, **APX}),
        ("+ ETM ac + pyramid loss + APX", "ac on on", {**ETM_AC, **PYRAMID, **APX}),
    ],
}

Write = Callable[..., Path]
each_design = pytest.mark.parametrize("design", list(ROWS))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a study of the three factors with changes (None removes a key)."""

    def write(design: str, /, **changes: Any) -> Path:
        content: dict[str, Any] = {"name": design, "title": "A title", "table": f"table_{design}"}
        content |= {"design": design, "factors": FACTORS, "baselines": []}
        content = {k: v for k, v in (content | changes).items() if v is not None}
        path = tmp_path / f"{design}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def resolved(path: Path, /, **overrides: Any) -> Study:
    preset = merge(load_yaml(ROOT / "config" / "smoke.yaml"), overrides)
    return resolve_study(path, preset, "config/smoke.yaml", overrides=overrides)


def labels(study: Study) -> list[str]:
    return [row.label for row in study.rows if row.kind == "variant"]


def ids(study: Study) -> dict[str, list[str]]:
    return {row.label: [run.id for run in row.runs] for row in study.rows if row.kind == "variant"}


# Rows


@each_design
def test_rows_of_a_design_by_hand(design: str, write: Write) -> None:
    rows = [row for row in resolved(write(design)).rows if row.kind == "variant"]
    found = [(row.label, " ".join(row.factors.values())) for row in rows]
    assert found == [(label, levels) for label, levels, _ in ROWS[design]]
    assert all(list(row.factors) == ["etm", "pyramid", "apx"] for row in rows)


@each_design
def test_runs_are_those_of_the_same_rows_written_out(design: str, write: Write) -> None:
    """A run's id depends on settings alone: not on the design, its levels or labels."""
    rows = [{"label": label, "settings": settings} for label, _, settings in ROWS[design]]
    written_out = resolved(write("explicit", factors=None, rows=rows))
    study = resolved(write(design))
    assert ids(study) == ids(written_out)
    assert len({run.id for run in study.students}) == len(ROWS[design])


def test_designs_over_one_factor_list_share_their_runs(write: Write) -> None:
    """All rows of the others are combinations, and a run in several tables is trained once."""
    studies = [resolved(write(design)) for design in ROWS]
    students = [run for run in unique_runs(studies).values() if run.kind == "student"]
    assert len(students) == 12
    teachers = {run.id for study in studies for run in study.runs if run.kind == "teacher"}
    assert len(teachers) == 1
    # Of a shared run the label is the row's, in each study its own.
    full = {ids(studies[1])["SmallDepth + all"][0], ids(studies[2])[ROWS["cumulative"][-1][0]][0]}
    assert len(full) == 1


@each_design
def test_the_first_row_is_what_others_are_compared_with(design: str, write: Write) -> None:
    first, last = ROWS[design][0][0], ROWS[design][-1][0]
    assert resolved(write(design)).baseline.label == first
    assert resolved(write(design, baseline=last)).baseline.label == last


@each_design
def test_only_a_factorial_is_called_one(design: str, write: Write) -> None:
    assert load_study_file(write(design)).is_factorial == (design == "factorial")


@each_design
def test_a_new_factor_is_yaml_alone(design: str, write: Write) -> None:
    """A factor that no code has heard of: expected rows counted by hand, old runs as before."""
    smooth = {"label": "smoothness", "levels": {"off": {}, "on": {"loss.smoothness_weight": 0.01}}}
    study = resolved(write(design, factors={**FACTORS, "smooth": smooth}))
    before = {run.id for run in resolved(write(design)).students}
    after = {run.id for run in study.students}
    expected = {
        # Labels of new rows; how many old runs stay.
        "one_at_a_time": (["+ smoothness"], 5),
        # The full row now has it, too; only the row without it is an old one.
        "leave_one_out": (["w/o smoothness"], 1),
        "cumulative": (["+ ETM ac + pyramid loss + APX + smoothness"], 4),
        "factorial": (
            ["+ smoothness", *(f"{row[0]} + smoothness" for row in ROWS[design][1:])],
            12,
        ),
    }[design]
    old = [label for label, _, _ in ROWS[design]]
    assert [label for label in labels(study) if label not in old] == sorted(
        expected[0], key=labels(study).index
    )
    assert len(labels(study)) == len(old) + len(expected[0])
    assert len(before & after) == expected[1]
    settings = {row.label: row.runs[0].config.loss.smoothness_weight for row in study.rows}
    with_it = [row.label for row in study.rows if row.factors.get("smooth") == "on"]
    assert with_it
    assert {settings[label] for label in with_it} == {0.01}
    assert {w for label, w in settings.items() if label not in with_it} == {1e-3}


# Labels


def test_the_full_row_has_a_name_of_its_own_choice(write: Write) -> None:
    assert labels(resolved(write("leave_one_out", base_label="Tiny")))[0] == "Tiny + all"
    assert labels(resolved(write("leave_one_out", full_label="FA-Depth")))[0] == "FA-Depth"


def test_a_plain_level_that_is_not_off_is_named(write: Write) -> None:
    """Nothing is missing where another loss stands in its place."""
    losses = {"label": "loss", "levels": {"md2": {}, "cbw": {"loss.base": "cbw"}}}
    masks = {"label": "mask", "levels": {"on": {}, "off": {"loss.automask": False}}}
    factors = {"loss": losses, "mask": masks}
    assert labels(resolved(write("leave_one_out", factors=factors))) == [
        "SmallDepth + all",
        "with loss md2",
        "with mask",
    ]
    assert labels(resolved(write("cumulative", factors=factors))) == [
        "SmallDepth",
        "+ loss cbw",
        "+ loss cbw + mask off",
    ]


def test_one_factor_in_each_design(write: Write) -> None:
    factors = {"pyramid": FACTORS["pyramid"]}
    for design in ("one_at_a_time", "cumulative", "factorial"):
        assert labels(resolved(write(design, factors=factors))) == ["SmallDepth", "+ pyramid loss"]
    study = resolved(write("leave_one_out", factors=factors))
    assert labels(study) == ["SmallDepth + all", "w/o pyramid loss"]
    assert study.baseline.label == "SmallDepth + all"


# Bad files


def problem(path: Path) -> str:
    with pytest.raises(FadepthError) as caught:
        resolved(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@each_design
def test_factors_and_rows_exclude_each_other(design: str, write: Write) -> None:
    expected = f"a {design} study has factors, and no rows"
    assert expected in problem(write(design, rows=[{"label": "a"}]))
    assert expected in problem(write(design, factors=None))


def test_an_unknown_design_is_told_with_the_known_ones(write: Write) -> None:
    text = problem(write("random"))
    assert "key 'design'" in text
    for design in (*ROWS, "explicit"):
        assert f"'{design}'" in text


@each_design
def test_a_baseline_that_is_no_row_is_told_with_those_that_are(design: str, write: Write) -> None:
    rows = ", ".join(label for label, _, _ in ROWS[design])
    text = problem(write(design, baseline="+ EMT"))
    assert f"baseline '+ EMT' is no row: there are {rows}" in text


@each_design
def test_two_factors_with_one_label_are_refused(design: str, write: Write) -> None:
    twin = {**FACTORS["apx"], "label": "pyramid loss"}
    factors = {"pyramid": FACTORS["pyramid"], "apx": twin}
    path = write(design, factors=factors)
    if design == "cumulative":  # each of its rows has one more
        assert labels(resolved(path))[-1] == "+ pyramid loss + pyramid loss"
    else:
        assert "two rows called" in problem(path)


@pytest.mark.parametrize("name", ["seeds", "size", "verdict"])
def test_a_factor_cannot_be_called_as_a_column(name: str, write: Write) -> None:
    text = problem(write("factorial", factors={name: FACTORS["apx"]}))
    assert "key 'factors'" in text
    assert f"'{name}' is a column of every table: choose another name" in text


# Seeds


def seeds(study: Study) -> list[list[int]]:
    return [[run.seed for run in row.runs] for row in study.rows if row.kind == "variant"]


def test_seeds_of_a_study_stand_in_place_of_the_presets(write: Write) -> None:
    path = write("cumulative", seeds=[4, 7])
    study = resolved(path)
    assert seeds(study) == [[4, 7]] * 4
    # They are an axis: the same runs as with those seeds in the preset.
    preset = merge(load_yaml(ROOT / "config" / "smoke.yaml"), {"seeds": [4, 7]})
    assert ids(study) == ids(resolve_study(write("cumulative"), preset, "p"))


def test_seeds_of_the_command_line_go_before_the_studys(write: Write) -> None:
    path = write("one_at_a_time", seeds=[4, 7])
    assert seeds(resolved(path, seeds=[9])) == [[9]] * 5
    # Other overrides leave them.
    assert seeds(resolved(path, training={"epochs": 3})) == [[4, 7]] * 5


def test_seeds_of_a_study_go_before_those_of_its_data_set(write: Write, tmp_path: Path) -> None:
    other = tmp_path / "other_preset.yaml"
    other.write_text(yaml.safe_dump(load_yaml(ROOT / "config" / "smoke.yaml") | {"seeds": [5]}))
    preset = merge(
        load_yaml(ROOT / "config" / "smoke.yaml"), {"datasets": {"far": {"preset": str(other)}}}
    )
    path = write("cumulative", data="far", seeds=[4, 7])
    assert seeds(resolve_study(path, preset, "p")) == [[4, 7]] * 4
    given = merge(preset, {"seeds": [9]})
    assert seeds(resolve_study(path, given, "p", overrides={"seeds": [9]})) == [[9]] * 4


def test_the_teachers_seed_stays_as_it_is(write: Write) -> None:
    one = {run.id for run in resolved(write("cumulative")).runs if run.kind == "teacher"}
    study = resolved(write("cumulative", seeds=[4, 7]))
    assert {run.id for run in study.runs if run.kind == "teacher"} == one
    assert {run.teacher.id for run in study.students if run.teacher} == one


def test_teachers_that_compete_have_the_studys_seeds(write: Write) -> None:
    rows = [
        {"label": "HQDecv2", "network": "teacher"},
        {"label": "HQDec", "network": "teacher", "settings": {"teacher.adacoeff": False}},
    ]
    assert seeds(resolved(write("explicit", factors=None, rows=rows, seeds=[4, 7]))) == [[4, 7]] * 2


@pytest.mark.parametrize("wrong", [[], [1, 1], [-1], ["one"]])
def test_wrong_seeds_are_told(wrong: list[Any], write: Write) -> None:
    assert "key 'seeds" in problem(write("cumulative", seeds=wrong))


# Effort


@each_design
def test_settings_are_read_once_a_row_however_many_seeds(
    design: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 runs are to be resolved in seconds: no work is done again for each seed."""
    calls = 0
    original = study_module.parse_config

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*arguments)

    monkeypatch.setattr(study_module, "parse_config", counted)
    counts = []
    for count in (1, 5):
        calls = 0
        resolved(write(design, seeds=list(range(count))))
        counts.append(calls)
    assert counts == [len(ROWS[design]) + 2] * 2  # the preset, and at the study's size


def test_rows_share_one_teacher(write: Write) -> None:
    """Its identity is found once, and not again for each row that learns from it."""
    study = resolved(write("factorial", seeds=[1, 2]))
    taught = [run.teacher for run in study.students if run.teacher]
    assert len(taught) == 12
    assert all(teacher is taught[0] for teacher in taught)


# Tables


def made_table(path: Path, runs: Path) -> Table:
    """The table of a study at full scale, over three seeds; each component is worth something."""
    study = resolved(path, seeds=[1, 2, 3], scale="full")

    def abs_rel(run: Run) -> float:
        worth = {"ac": 0.03, "rep": 0.01, "on": 0.02}
        noise = {1: 0.0, 2: 0.001, 3: -0.001}.get(run.seed, 0.0)
        return 0.3 - sum(worth.get(level, 0.0) for level in run.factors.values()) + noise

    write_runs(study, runs, abs_rel)
    return study_table(study, runs, runs / "no references")


WORTH = {"ac": 0.03, "rep": 0.01, "on": 0.02, "off": 0.0}


@each_design
def test_a_table_has_factor_columns_and_differences_to_its_first_row(
    design: str, write: Write, tmp_path: Path
) -> None:
    table = made_table(write(design, columns=["metrics"]), tmp_path / "runs")
    printed = [column.key for column in table.columns if column.markdown]
    assert printed[:5] == ["row", "etm", "pyramid", "apx", "seeds"]
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    first = sum(WORTH[level] for level in ROWS[design][0][1].split())
    for (label, levels, _), row in zip(ROWS[design], rows, strict=False):
        assert row["row"] == label
        assert [row["etm"], row["pyramid"], row["apx"]] == levels.split()
        assert row["seeds"] == "3"
        worth = sum(WORTH[level] for level in levels.split())
        assert float(row["abs_rel"]) == pytest.approx(0.3 - worth)
        if label == ROWS[design][0][0]:
            assert row["difference"] == ""
        else:
            assert float(row["difference"]) == pytest.approx(first - worth)
            assert row["verdict"].startswith("better" if worth > first else "worse")
    others = rows[len(ROWS[design]) :]
    assert [row["kind"] for row in others] == ["teacher"]
    assert [others[0][name] for name in ("etm", "pyramid", "apx")] == [""] * 3
    notes = " ".join(table.notes)
    assert f"Δ: row minus '{ROWS[design][0][0]}'" in notes
    assert "rows differ in their" not in notes
    for text in (markdown_text(table), latex_text(table)):
        assert "w/o pyramid loss" in text or design != "leave_one_out"


def test_no_column_of_a_table_can_be_hidden_by_a_factor(write: Write, tmp_path: Path) -> None:
    """Columns that come with every study: each is refused as a factor's name."""
    table = made_table(write("cumulative", columns=["primary"]), tmp_path / "runs")
    general = {column.key for column in table.columns} - {"etm", "pyramid", "apx"}
    assert len(general) > 10
    measured = {key for key in general if key.startswith("abs_rel")}
    for name in sorted(general - measured):
        assert "is a column of every table" in problem(
            write("factorial", factors={name: FACTORS["apx"]})
        )
