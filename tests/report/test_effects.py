"""The effects table against values computed by hand from fake run folders."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fadepth.errors import FadepthError
from fadepth.report.effects import effect_lines, effects_table
from fadepth.report.table import Table
from fadepth.report.writers import csv_text, latex_text, markdown_text
from fadepth.run import Run
from fadepth.stats import paired_difference
from fadepth.study import Study
from tests.report.fakes import DRIVES, FRAMES, study_of, write_runs

DRIVE = np.repeat(np.linspace(-1, 1, len(DRIVES)), FRAMES)
NOISE = {1: 0.0, 2: 0.003, 3: -0.003}


def abs_rel(run: Run) -> Any:
    """ETM -0.02 with noise by seed; APX -0.01, and another -0.03 beside ETM; pyramid nothing."""
    on = {name: run.factors.get(name) == "on" for name in ("etm", "pyramid", "apx")}
    noise = NOISE.get(run.seed, 0.0)
    effect = on["etm"] * (-0.02 + noise + 0.004 * DRIVE) - 0.01 * on["apx"]
    return 0.3 + 0.1 * DRIVE + effect - 0.03 * (on["etm"] and on["apx"])


@pytest.fixture
def made(tmp_path: Path) -> tuple[Study, Path]:
    study = study_of(seeds=[1, 2, 3])
    write_runs(study, tmp_path, abs_rel)
    return study, tmp_path


def cells(table: Table, factor: str, measure: str = "Abs Rel") -> Any:
    found = [
        row.cells
        for row in table.rows
        if (row.cells["row"], row.cells["measure"]) == (factor, measure)
    ]
    assert len(found) == 1
    return found[0]


def test_effects_by_hand(made: tuple[Study, Path]) -> None:
    """Half of the interaction is in each main effect; alone there is none of it."""
    table = effects_table(*made)
    etm = cells(table, "ETM")
    assert etm["effect"] == pytest.approx(-0.035)
    assert etm["alone"] == pytest.approx(-0.02)
    assert etm["effect_std"] == pytest.approx(statistics.stdev(NOISE.values()))
    by_image = np.array([[-0.035 + NOISE[seed] + 0.004 * d for d in DRIVE] for seed in (1, 2, 3)])
    expected = paired_difference(by_image, np.repeat(DRIVES, FRAMES).tolist())
    assert expected is not None
    assert (etm["low"], etm["high"]) == (
        pytest.approx(expected.low),
        pytest.approx(expected.high),
    )
    assert etm["plain"] == pytest.approx(0.295)
    assert etm["verdict"] == "better"
    together = cells(table, "ETM × APX")
    assert together["effect"] == pytest.approx(-0.03)
    assert together["alone"] is None
    assert cells(table, "pyramid loss")["verdict"] == "unclear"
    assert cells(table, "ETM × pyramid loss × APX")["effect"] == pytest.approx(0, abs=1e-12)
    assert cells(table, "ETM", "change in the dark")["effect"] == pytest.approx(0)


def test_measures_that_no_run_has_are_left_out(made: tuple[Study, Path]) -> None:
    """No run was compared with a teacher here."""
    shown = {row.cells["measure"] for row in effects_table(*made).rows}
    assert "distance to the teacher" not in shown
    assert {"Abs Rel", "Abs Rel, dark input", "change at half size"} <= shown


def test_every_format_carries_scale_and_seeds(made: tuple[Study, Path]) -> None:
    table = effects_table(*made)
    for text in (markdown_text(table), latex_text(table)):
        assert "seeds 1, 2, 3" in text
        assert "scale full" in text
    assert csv_text(table).splitlines()[0].startswith("row,measure,plain,effect,effect_std")


def test_damaged_measurement_is_named(made: tuple[Study, Path]) -> None:
    """A half-written robustness.json is no measurement."""
    study, runs = made
    run = next(study.students).id
    (runs / run / "robustness.json").write_text('{"conditions": ')
    with pytest.raises(FadepthError, match=rf"{run}/robustness\.json is not complete JSON"):
        effects_table(study, runs)


def test_lines_of_the_forest_plot_are_the_tables_numbers(made: tuple[Study, Path]) -> None:
    lines, _ = effect_lines(*made)
    table = effects_table(*made)
    assert [line.group for line in lines] == ["main effects"] * 3 + ["interactions"] * 4
    for line in lines:
        row = cells(table, line.label)
        assert (line.mean, line.low, line.high) == (row["effect"], row["low"], row["high"])
        assert len(line.by_seed) == 3


def test_one_seed_has_no_verdict(tmp_path: Path) -> None:
    study = study_of(seeds=[1])
    write_runs(study, tmp_path, abs_rel)
    table = effects_table(study, tmp_path)
    assert {row.cells["verdict"] for row in table.rows} == {"one seed"}
    lines, _ = effect_lines(study, tmp_path)
    assert {line.note for line in lines} == {"one seed: these trainings only"}


def test_a_study_without_factors_has_no_effects(tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match="table_etm is no factorial"):
        effects_table(study_of("etm"), tmp_path)
