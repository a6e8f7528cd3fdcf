"""`fadepth lint`: studies with planted flaws, each told, and nothing told of sound ones."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from fadepth.cli import app
from fadepth.config import load_yaml, merge
from fadepth.errors import FadepthError
from fadepth.lint import Finding, lint_studies
from fadepth.study import Resolver, resolve_study

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / "config" / "smoke.yaml"

#: As many as seven rows need for p < 0.05 (docs/tables.md).
SEEDS = list(range(1, 10))

ETM = {"student.etm.branches": "ac"}
PYRAMID = {"loss.pyramid.enabled": True}
APX = {"loss.apx.enabled": True}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a sound study of two rows with changes (None removes a key)."""

    def write(file: str = "mine", /, **changes: Any) -> Path:
        rows = [{"label": "plain"}, {"label": "+ ETM", "settings": ETM}]
        content = {"name": file, "title": "A title", "table": f"table_{file}", "seeds": SEEDS}
        content |= {"design": "explicit", "rows": rows, "baselines": []}
        content = {k: v for k, v in (content | changes).items() if v is not None}
        path = tmp_path / f"{file}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def rows(*settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows `plain`, `row 1`, ..."""
    given = [{"label": f"row {n}", "settings": s} for n, s in enumerate(settings, 1)]
    return [{"label": "plain"}, *given]


def switch(label: str, on: dict[str, Any], off: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"label": label, "levels": {"off": off or {}, "on": on}}


def factors(write: Write, design: str = "factorial", /, **named: dict[str, Any]) -> Path:
    return write(design=design, rows=None, factors=named)


def lint(*paths: Path, **overrides: Any) -> list[Finding]:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    given = merge(load_yaml(SMOKE), dotted)
    return lint_studies(paths, given, "config/smoke.yaml", overrides=merge({}, dotted))


def brief(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.level, finding.check, finding.row) for finding in findings]


def only(findings: list[Finding], check: str) -> Finding:
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, findings
    assert "\n" not in found[0].sentence
    return found[0]


# Nothing to tell


def test_a_sound_study_has_no_findings(write: Write) -> None:
    assert lint(write()) == []


@pytest.mark.parametrize("design", ["one_at_a_time", "leave_one_out", "cumulative", "factorial"])
def test_a_sound_study_of_factors_has_no_findings(design: str, write: Write) -> None:
    named = {"etm": switch("ETM", ETM), "pyramid": switch("pyramid", PYRAMID)}
    assert lint(factors(write, design, **named, apx=switch("APX", APX))) == []


def test_the_repositorys_studies_have_no_errors() -> None:
    paths = sorted((ROOT / "ablations").glob("*.yaml"))
    found = lint(*paths, seeds=SEEDS)
    assert len(paths) == 11
    assert {finding.level for finding in found} == {"note"}
    # What one would say of them by hand: rows that change several things, one too large.
    assert {finding.check for finding in found} == {"several", "teacher", "left_out"}
    assert only(found, "teacher").row == "teacher HQDec"
    assert "'3 levels'" in only(found, "left_out").sentence


# All, and not just the first


def test_all_findings_are_told_errors_first(write: Write) -> None:
    path = write(
        seeds=[1],
        baseline="none such",
        rows=[
            {"label": "a"},
            {"label": "b", "settings": {"loss.pyramid.weight": 3}},
            {"label": "c", "settings": {"training.epochs": 9, **ETM}},
            {"label": "d", "settings": {"loss.apx.wieght": 1, "student.width": -1}},
            {"label": "e", "settings": {"evaluation.protocol": "synthetic_full", **PYRAMID}},
        ],
    )
    assert brief(lint(path)) == [
        ("error", "file", ""),
        ("error", "settings", "d"),
        ("error", "settings", "d"),
        ("error", "same_run", "b"),
        ("error", "evaluation", "e"),
        ("warning", "idle", "b"),
        ("warning", "seeds", ""),
        ("warning", "budget", "c"),
        ("note", "several", "c"),
    ]


def test_findings_name_their_file_and_study(write: Write) -> None:
    path = write("some_study", seeds=[1])
    (found,) = lint(path)
    assert (found.file, found.study) == (str(path), "some_study")


# Budgets


def test_unequal_budgets_are_named(write: Write) -> None:
    found = only(lint(write(rows=rows({**ETM, "training.epochs": 9}))), "budget")
    assert (found.level, found.row) == ("warning", "row 1")
    assert "training.epochs 9 instead of 2 ('plain')" in found.sentence
    assert "etm" not in found.sentence


@pytest.mark.parametrize(
    "settings",
    [
        {"training.steps_per_epoch": 4},
        {"training.batch_size": 3},
        {"training.learning_rate": 1e-3},
        {"training.schedule": "step"},
        {"data.width": 256},
        {"data.flip_probability": 0.0},
        {"data.jitter.probability": 0.0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_each_part_of_the_budget_counts(settings: dict[str, Any], write: Write) -> None:
    found = only(lint(write(rows=rows(settings))), "budget")
    assert found.level == "warning"
    assert next(iter(settings)) in found.sentence


def test_a_budget_that_all_rows_share_is_not_unequal(write: Write) -> None:
    long = {"training.epochs": 9}
    both = [{"label": "plain", "settings": long}, {"label": "ETM", "settings": {**ETM, **long}}]
    assert lint(write(rows=both)) == []
    assert lint(write(), training__epochs=9) == []


def test_where_and_how_fast_is_no_budget(write: Write) -> None:
    found = lint(write(rows=rows({**ETM, "training.workers": 3})))
    assert brief(found) == [("warning", "idle", "row 1")]


@pytest.mark.parametrize("design", ["one_at_a_time", "leave_one_out", "cumulative", "factorial"])
def test_a_factor_about_the_budget_is_noted_and_one_that_hides_it_is_not_let_off(
    design: str, write: Write
) -> None:
    epochs = {"training.epochs": 9}
    path = factors(write, design, etm=switch("ETM", ETM), long=switch("long", epochs))
    found = only(lint(path), "budget")
    assert found.level == "note"
    assert "level 'on' of 'long' is about the budget: training.epochs 9 instead of 2" in (
        found.sentence
    )
    path = factors(write, design, etm=switch("ETM", {**ETM, **epochs}), apx=switch("APX", APX))
    found = only(lint(path), "budget")
    assert found.level == "warning"
    assert "level 'on' of 'etm' has training.epochs 9 instead of 2" in found.sentence


def test_budgets_of_teachers_are_their_own(write: Write) -> None:
    def teachers(**settings: Any) -> Path:
        smaller = {"label": "small", "network": "teacher", "settings": settings}
        return write(rows=[{"label": "plain", "network": "teacher"}, smaller])

    assert lint(teachers(**{"teacher.width": 0.2})) == []
    found = only(lint(teachers(**{"teacher.width": 0.2, "teacher.epochs": 9})), "budget")
    assert "teacher.epochs 9 instead of null" in found.sentence
    assert "width" not in found.sentence


# Teachers


def test_another_teacher_is_doubtful_unless_the_row_is_about_it(write: Write) -> None:
    hqdec = {"teacher.adacoeff": False}
    mixed = write(rows=rows(APX, {**APX, **ETM, **hqdec}))
    found = only(lint(mixed), "teacher")
    assert (found.level, found.row) == ("warning", "row 2")
    assert "teacher.adacoeff false instead of true" in found.sentence
    # Beside a row that differs in the teacher alone it is what the study asks.
    about = write(rows=rows(APX, {**APX, **hqdec}))
    assert only(lint(about), "teacher").level == "note"
    # Also where that row is the baseline.
    baseline = [{"label": "APX", "settings": APX}, {"label": "b", "settings": {**APX, **hqdec}}]
    assert only(lint(write(rows=baseline)), "teacher").level == "note"


def test_a_factor_about_the_teacher_is_noted(write: Write) -> None:
    about = switch("small", {"teacher.width": 0.05})
    path = factors(write, "leave_one_out", apx=switch("APX", APX), teacher=about)
    found = [f for f in lint(path) if f.check == "teacher"]
    assert [f.level for f in found] == ["note"]
    mixed = switch("small", {"teacher.width": 0.05, **ETM})
    path = factors(write, "leave_one_out", apx=switch("APX", APX), teacher=mixed)
    assert only(lint(path), "teacher").level == "warning"


# Baseline


def test_a_baseline_that_is_no_row(write: Write) -> None:
    found = lint(write(baseline="plian"))
    assert brief(found) == [("error", "file", "")]
    assert "baseline 'plian' is no row: there are plain, + ETM" in found[0].sentence


def test_a_baseline_that_the_preset_leaves_out(write: Write) -> None:
    large = [
        {"label": "plain", "least_side": 128},
        {"label": "+ ETM", "settings": ETM},
        {"label": "+ APX", "settings": APX},
    ]
    found = lint(write(rows=large, baseline="plain"))
    assert ("error", "baseline", "plain") in brief(found)
    assert "it needs images of 128 pixels or more" in only(found, "baseline").sentence
    assert lint(write(rows=large, baseline="plain"), data__height=128) == []


def test_a_row_without_another_is_compared_with_nothing(write: Write) -> None:
    found = lint(write(rows=[{"label": "plain"}]))
    assert brief(found) == [("warning", "baseline", "plain")]


# Seeds


def test_one_seed_judges_nothing(write: Write) -> None:
    found = only(lint(write(seeds=[1])), "seeds")
    assert found.level == "warning"
    assert "one seed (1)" in found.sentence
    # By hand: 2 / 2^n <= 0.05 for one comparison.
    assert "(6 for p < 0.05 with 1 row beside the baseline)" in found.sentence


def test_seeds_that_cannot_reach_significance_are_noted(write: Write) -> None:
    found = only(lint(write(seeds=[1, 2, 3])), "seeds")
    assert found.level == "note"
    assert "3 seeds cannot reach p < 0.05 for 1 row (smallest possible p 0.25): 6 could" in (
        found.sentence
    )
    assert lint(write(seeds=[1, 2, 3, 4, 5, 6])) == []


def test_seeds_of_the_command_line_count(write: Write) -> None:
    assert only(lint(write(), seeds=[1]), "seeds").level == "warning"


def test_rows_with_seeds_of_their_own(write: Write) -> None:
    (found,) = lint(write(rows=rows({**ETM, "seeds": [2, 3]})))
    assert (found.level, found.check, found.row) == ("warning", "seeds", "row 1")
    assert "has seeds [2, 3], and 'plain' [1, 2, 3, 4, 5, 6, 7, 8, 9]" in found.sentence


# Without effect


def test_rows_that_are_the_same_run(write: Write) -> None:
    found = lint(write(rows=rows(ETM, ETM, {"loss.automask": True})))
    assert brief(found) == [("error", "same_run", "row 2"), ("error", "same_run", "row 3")]
    assert "same run as 'row 1'" in found[0].sentence
    assert "same run as 'plain'" in found[1].sentence


@pytest.mark.parametrize("design", ["one_at_a_time", "leave_one_out", "cumulative", "factorial"])
@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"loss.ssim_weight": 0.85}, "loss.ssim_weight is 0.85 in both"),
        ({"training.workers": 3}, "training.workers counts for nothing here"),
        ({"loss.pyramid.weight": 3}, "loss.pyramid.weight counts for nothing here"),
        ({}, "neither sets anything"),
    ],
    ids=["default", "no identity", "switched off", "empty"],
)
def test_a_factor_without_effect_is_one_error(
    settings: dict[str, Any], why: str, design: str, write: Write
) -> None:
    named = {"etm": switch("ETM", ETM), "apx": switch("APX", APX)}
    path = factors(write, design, **named, idle=switch("idle", settings))
    found = lint(path)
    assert [(f.level, f.check) for f in found] == [("error", "no_effect")]
    assert "'idle' at 'o" in found[0].sentence
    assert why in found[0].sentence


def test_two_factors_without_effect_are_two_errors(write: Write) -> None:
    path = factors(
        write,
        etm=switch("ETM", ETM),
        one=switch("one", {"training.workers": 3}),
        two=switch("two", {"loss.ssim_weight": 0.85}),
    )
    assert [f.check for f in lint(path)] == ["no_effect"] * 2


def test_a_factor_with_effect_beside_another_only(write: Write) -> None:
    """The weight of a loss counts where the loss is on: in half of the rows it does not."""
    heavy = switch("heavy", {"loss.pyramid.weight": 3})
    found = lint(factors(write, pyramid=switch("pyramid", PYRAMID), heavy=heavy))
    assert brief(found) == [("error", "no_effect", "+ heavy")]
    assert lint(factors(write, "cumulative", pyramid=switch("pyramid", PYRAMID), heavy=heavy)) == []


def test_a_setting_of_something_switched_off(write: Write) -> None:
    found = only(lint(write(rows=rows({**ETM, "loss.apx.weight": 3}))), "idle")
    assert (found.level, found.row) == ("warning", "row 1")
    assert "loss.apx.weight 3.0 has no effect" in found.sentence
    assert "etm" not in found.sentence
    # Spelling out what the preset has is no mistake.
    assert lint(write(rows=rows({**ETM, "loss.apx.enabled": False}))) == []


def test_a_setting_of_a_level_that_is_switched_off_in_every_row(write: Write) -> None:
    both = switch("ETM", {**ETM, "loss.apx.weight": 3})
    alone = lint(factors(write, "one_at_a_time", etm=both, apx=switch("APX", APX)))
    assert [f.check for f in alone] == ["idle"]
    # In a factorial there are rows in which it counts.
    assert lint(factors(write, etm=both, apx=switch("APX", APX))) == []


def test_levels_that_a_cumulative_study_passes_over(write: Write) -> None:
    levels = {"off": {}, "rep": {"student.etm.branches": "rep"}, "ac": ETM}
    path = factors(write, "cumulative", etm={"label": "ETM", "levels": levels})
    assert "level 'rep' of 'etm' is in no row" in only(lint(path), "level").sentence
    assert lint(factors(write, "one_at_a_time", etm={"label": "ETM", "levels": levels})) == []


def test_two_factors_that_set_the_same(write: Write) -> None:
    path = factors(
        write,
        "one_at_a_time",
        etm=switch("ETM", ETM),
        wide=switch("wide", {"student.width": 0.5, "student.etm.branches": "all"}),
    )
    found = only(lint(path), "overlap")
    assert found.level == "warning"
    assert "factors 'etm' and 'wide' set 'student.etm.branches'" in found.sentence


def test_a_row_that_changes_several_things(write: Write) -> None:
    found = only(lint(write(rows=rows({**ETM, **PYRAMID, "loss.automask": True}))), "several")
    assert (found.level, found.row) == ("note", "row 1")
    expected = "differs from 'plain' in 2 settings: student.etm.branches, loss.pyramid.enabled"
    assert found.sentence == expected


def test_what_the_baseline_has_and_the_row_has_not_counts(write: Write) -> None:
    full = [{"label": "full", "settings": {**ETM, **PYRAMID}}, {"label": "plain"}]
    found = only(lint(write(rows=full)), "several")
    assert found.sentence.startswith("differs from 'full' in 2 settings")


def test_a_resolution_is_one_thing(write: Write) -> None:
    size = {"data.height": 96, "data.width": 320}
    assert [f.check for f in lint(write(rows=rows(size)))] == ["budget"]


# Evaluation


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        ({"evaluation.protocol": "synthetic_full"}, "error"),
        ({"evaluation.split": "val"}, "error"),
        ({"scale": "quick"}, "error"),
        ({"evaluation.panels": 1}, "warning"),
    ],
)
def test_rows_that_are_not_evaluated_alike(
    settings: dict[str, Any], level: str, write: Write
) -> None:
    found = only(lint(write(rows=rows({**ETM, **settings}))), "evaluation")
    assert (found.level, found.row) == (level, "row 1")
    assert next(iter(settings)) in found.sentence


def test_studies_that_share_a_run_but_judge_it_differently(write: Write) -> None:
    given = {"datasets": {"other": {"overrides": {"evaluation.protocol": "synthetic_full"}}}}
    paths = write("one"), write("two", data="other")
    found = lint(*paths, **given)
    assert [(f.level, f.check, f.study) for f in found] == [("error", "evaluation", "two")]
    assert str(paths[0]) in found[0].sentence


# Bad settings and files


def test_each_unknown_setting_of_a_row_is_told(write: Write) -> None:
    wrong = {"loss.apx.wieght": 1, **ETM, "training.epoch": 3, "student.width": -1}
    found = lint(write(rows=rows(wrong)))
    assert brief(found) == [("error", "settings", "row 1")] * 3 + [("warning", "baseline", "plain")]
    told = " ".join(f.sentence for f in found)
    assert "'loss.apx.wieght'" in told
    assert "did you mean 'training.epochs'?" in told
    assert "'student.width'" in told


def test_a_wrong_setting_of_a_factor_is_told_once(write: Write) -> None:
    bad = switch("bad", {"loss.apx.wieght": 1})
    path = factors(write, etm=switch("ETM", ETM), apx=switch("APX", APX), bad=bad)
    found = only(lint(path), "settings")
    assert "(and 3 more rows)" in found.sentence
    assert "did you mean 'loss.apx.weight'?" in found.sentence


def test_settings_that_are_wrong_together_only(write: Write) -> None:
    wrong = {**PYRAMID, "loss.pyramid.kind": "outputs", "loss.pyramid.levels": 4}
    assert (
        "levels must be at most 3" in only(lint(write(rows=rows(ETM, wrong))), "settings").sentence
    )


def test_settings_that_are_wrong_only_without_their_row(write: Write) -> None:
    """With four levels in the preset, `outputs` needs the row's three: that is no mistake."""
    settings = {**PYRAMID, "loss.pyramid.kind": "outputs", "loss.pyramid.levels": 3}
    path = write(rows=rows(ETM, {**settings, "student.width": -1}))
    found = only(lint(path, loss__pyramid__levels=4), "settings")
    assert "'student.width'" in found.sentence


def test_frames_of_another_data_set_are_refused(write: Write) -> None:
    found = only(lint(write(rows=rows(ETM, {"data.root": "elsewhere"}))), "settings")
    assert "varies 'data.root'" in found.sentence


def test_each_wrong_key_of_a_file_is_told(write: Write) -> None:
    found = lint(write(tabel="table_x", name="My Study", seeds=[1, 1]))
    assert brief(found) == [("error", "file", "")] * 3
    assert {f.study for f in found} == {"mine"}
    for key in ("tabel", "name", "seeds"):
        assert any(f"key '{key}'" in f.sentence for f in found)


def test_two_rows_with_one_label(write: Write) -> None:
    found = only(lint(write(rows=[*rows(ETM), {"label": "row 1", "settings": APX}])), "file")
    assert "two rows are called 'row 1'" in found.sentence
    twin = switch("ETM", PYRAMID)
    found = only(lint(factors(write, etm=switch("ETM", ETM), twin=twin)), "label")
    assert (found.level, found.row) == ("error", "+ ETM")


def test_one_broken_study_does_not_hide_the_others(write: Write) -> None:
    found = lint(write("a", tabel=1), write("b", seeds=[1]))
    assert [(f.study, f.level) for f in found] == [("a", "error"), ("b", "warning")]


def test_broken_yaml_is_one_sentence(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("rows: [\n")
    with pytest.raises(FadepthError, match=r"broken\.yaml.* is not readable YAML"):
        lint(write(), path)
    with pytest.raises(FadepthError, match="does not exist"):
        lint(tmp_path / "none.yaml")


def test_a_wrong_preset_is_no_finding(write: Write) -> None:
    with pytest.raises(FadepthError, match="unknown key 'trainning'"):
        lint(write(), trainning=3)
    with pytest.raises(FadepthError, match="choose one of"):
        lint(write(), evaluation__protocol="ddad")


def test_names_of_two_studies(write: Write) -> None:
    found = lint(write("a"), write("b", table="table_a"), write("c", name="a"))
    assert [(f.level, f.check, f.study) for f in found] == [
        ("error", "table", "b"),
        ("warning", "name", "a"),
    ]


# Without data


KITTI = {"data__source": "kitti", "evaluation__protocol": "kitti_eigen_raw"}


def test_data_need_not_be_there(write: Write, tmp_path: Path) -> None:
    """Without split lists a study cannot be run, and everything else is still told."""
    path = write(rows=rows({**ETM, "training.epochs": 9}, ETM, ETM))
    found = lint(path, **KITTI, data__splits=str(tmp_path / "none"))
    assert only(found, "data").level == "note"
    assert "split list" in only(found, "data").sentence
    assert "cannot be run with this preset" in only(found, "data").sentence
    assert {f.check for f in found} == {"data", "budget", "several", "same_run"}


def test_runs_without_data_are_not_taken_for_the_same(write: Write, tmp_path: Path) -> None:
    """Frames that are not there have no identity, in which they could agree."""
    elsewhere = {"data.splits": str(tmp_path / "b"), "evaluation.protocol": "kitti_eigen_raw_z"}
    given = {**KITTI, "datasets": {"other": {"overrides": elsewhere}}}
    found = lint(
        write("one"), write("two", data="other"), **given, data__splits=str(tmp_path / "a")
    )
    assert [f.check for f in found] == ["data", "data"]


def test_a_data_set_that_the_preset_lacks_is_a_note(write: Write) -> None:
    found = lint(write(data="moon"))
    assert brief(found) == [("note", "data", "")]
    assert "has no data set 'moon'" in found[0].sentence


def test_a_benchmark_that_the_preset_lacks_is_a_note(write: Write) -> None:
    found = lint(write(benchmarks=["moon"]))
    assert brief(found) == [("note", "data", "")]
    assert "no benchmark 'moon'" in found[0].sentence


def test_an_ego_mask_that_is_not_there_is_told_of_its_row(write: Write) -> None:
    found = lint(write(rows=rows(ETM, {"loss.ego_mask": "none.png"})))
    assert brief(found) == [("error", "settings", "row 2")]
    assert "ego mask none.png cannot be read" in found[0].sentence


# Agreement with resolution


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"baseline": "none such"},
        {"rows": rows(ETM, ETM)},
        {"rows": rows({"loss.pyramid.weight": 3})},
        {"rows": rows({"training.epochs": 9, "loss.apx.weight": 3})},
        {"rows": rows({"loss.apx.wieght": 3})},
        {"rows": [{"label": "a", "least_side": 999}]},
        {"rows": [{"label": "HQDecv2 (teacher)"}, {"label": "b", "settings": APX}]},
        {"columns": ["parameters"]},
        {"rows": None, "design": "factorial", "factors": {"x": switch("x", {})}},
        {"rows": None, "design": "leave_one_out", "factors": {"x": switch("x", ETM)}},
    ],
    ids=str,
)
def test_an_error_is_told_where_resolution_refuses(changes: dict[str, Any], write: Write) -> None:
    path = write(**changes)
    refused = False
    try:
        resolve_study(path, load_yaml(SMOKE), "p")
    except FadepthError:
        refused = True
    assert refused == any(finding.level == "error" for finding in lint(path))


def test_effort_grows_with_the_rows(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    original = Resolver.resolve

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*arguments)

    monkeypatch.setattr(Resolver, "resolve", counted)
    counts = []
    for count in (20, 40):
        calls = 0
        settings = [{**PYRAMID, "loss.pyramid.weight": 1 + n} for n in range(count)]
        lint(write(rows=rows(*settings)))
        counts.append(calls / count)
    assert counts[1] <= counts[0]


# The command


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["lint", *map(str, arguments), "--preset", str(SMOKE)])


def test_the_command_tells_of_a_file_anywhere(write: Write) -> None:
    sound = command(write())
    assert (sound.exit_code, sound.stdout) == (0, "1 study: no findings\n")
    path = write(seeds=[1], rows=rows({**ETM, "training.epochs": 9}))
    told = command(path)
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert lines[0] == str(path)
    assert lines[1].startswith("  warning  one seed (1)")
    assert lines[2].startswith("  warning  row 1: unequal budgets")
    assert lines[3].startswith("  note     row 1: differs from")
    assert lines[4] == "1 study: 2 warnings, 1 note"


def test_exit_codes(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    doubtful, wrong = write("a", seeds=[1]), write("b", baseline="none such")
    assert command(doubtful).exit_code == 0
    assert command(doubtful, "--strict").exit_code == 1
    assert command(wrong).exit_code == 1
    assert command(write("c"), "--strict").exit_code == 0
    monkeypatch.chdir(ROOT)
    missing = command("none_such")
    assert isinstance(missing.exception, FadepthError)  # main() makes it a sentence and code 2


def test_bad_input_is_one_sentence_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fadepth", "lint", "component"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no study 'component' in ablations/: did you mean components" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["components", "table_ablation", "ablations/components.yaml"])
def test_a_study_by_its_name_its_table_or_its_file(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    found = json.loads(command(name, "--json").stdout)
    assert {finding["file"] for finding in found} == {"ablations/components.yaml"}
    assert {finding["study"] for finding in found} == {"components"}


def test_json_holds_what_is_printed(write: Write) -> None:
    path = write(seeds=[1], baseline="none such")
    result = command(path, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found == [vars(finding) for finding in lint(path)]
    assert [f["level"] for f in found] == ["error", "warning"]
    assert json.loads(command(write("b"), "--json").stdout) == []


def test_all_studies_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = command()
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("11 studies: 11 warnings, ")


def test_overrides_count(write: Write) -> None:
    path = write()
    override = json.dumps({"seeds": [1]})
    assert "one seed (1)" in command(path, "--override", override).stdout


def test_lint_imports_nothing_heavy() -> None:
    code = (
        "import sys; import fadepth.lint, fadepth.cli.studies;"
        "heavy = ('torch', 'mlflow', 'matplotlib', 'pandas', 'scipy.stats', 'rich.console');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
