"""The effects table against values computed by hand from fake run folders."""

import json
from itertools import product

import pytest

from fadepth.errors import FadepthError
from fadepth.report.ablation import Row
from fadepth.report.effects import effects_table, verdict
from fadepth.report.writers import csv_text, latex_text, markdown_text
from fadepth.stats import Effect
from tests.report.test_ablation import write_run

PLAIN = {"etm": "off", "apx": "off"}
LABELS = {"etm": "ETM", "apx": "APX"}


def write_robustness(folder, abs_rel, dark):
    conditions = {
        "clean": {"abs_rel": abs_rel, "change": 0.0},
        "dark": {"abs_rel": abs_rel + 0.1, "change": dark},
    }
    (folder / "robustness.json").write_text(json.dumps({"conditions": conditions}))


@pytest.fixture
def study(tmp_path):
    """2 x 2 variants of three seeds: ETM -0.02, APX -0.01 and noise by seed; dark only by APX."""
    noise = {1: 0.0, 2: 0.003, 3: -0.003}
    rows = []
    for etm, apx in product(("off", "on"), repeat=2):
        label = f"{etm}{apx}"
        ids = []
        for seed in noise:
            run_id = f"{label}-s{seed}"
            # The noise stands on ETM alone: its effect spreads, that of APX does not.
            value = 0.3 - 0.01 * (apx == "on") + (-0.02 + noise[seed]) * (etm == "on")
            factors = {"etm": etm, "apx": apx}
            write_run(tmp_path, run_id, row=label, factors=factors, seed=seed, abs_rel=value)
            write_robustness(tmp_path / run_id, value, 0.2 - 0.1 * (apx == "on"))
            ids.append(run_id)
        rows.append(Row(label, "variant", {"etm": etm, "apx": apx}, ids))
    return tmp_path, rows


def table_of(study):
    runs, rows = study
    return effects_table(runs, rows, PLAIN, name="effects_x", title="Two parts", labels=LABELS)


def cells(table, factor, measure):
    found = [
        row.cells
        for row in table.rows
        if row.cells["row"] == factor and row.cells["measure"] == measure
    ]
    assert len(found) == 1
    return found[0]


def test_effects_by_hand(study):
    """Means, spreads and intervals are those of the numbers put in."""
    table = table_of(study)
    etm = cells(table, "ETM", "Abs Rel")
    assert etm["effect"] == pytest.approx(-0.02)
    assert etm["effect_std"] == pytest.approx(0.003)
    # 4.303 is Student's t for two degrees of freedom.
    assert etm["high"] == pytest.approx(-0.02 + 4.3027 * 0.003 / 3**0.5, abs=1e-5)
    assert etm["plain"] == pytest.approx(0.295)
    assert etm["verdict"] == "better"
    apx = cells(table, "APX", "change in the dark")
    assert apx["effect"] == pytest.approx(-0.1)
    assert apx["alone"] == pytest.approx(-0.1)
    assert cells(table, "ETM", "change in the dark")["effect"] == pytest.approx(0)


def test_measures_that_no_run_has_are_left_out(study):
    """No run was compared with a teacher or on mirrored frames here."""
    table = table_of(study)
    shown = {row.cells["measure"] for row in table.rows}
    assert shown == {"Abs Rel", "Abs Rel, dark input", "change in the dark"}


def test_every_format_carries_scale_and_seeds(study):
    """No format without its stamp."""
    table = table_of(study)
    for text in (markdown_text(table), latex_text(table)):
        assert "seeds 1, 2, 3" in text and "scale full" in text
    assert csv_text(table).splitlines()[0].startswith("row,measure,plain,effect,effect_std")


def test_damaged_measurement_is_named(study):
    """A half-written robustness.json is no measurement."""
    runs, _ = study
    path = runs / "onon-s2" / "robustness.json"
    path.write_text('{"conditions": ')
    with pytest.raises(FadepthError, match=r"onon-s2/robustness\.json is not complete JSON"):
        table_of(study)


@pytest.mark.parametrize(
    ("by_seed", "expected"),
    [
        ((0.1,), "one seed"),
        ((-0.1, 0.1, 0.05), "unclear"),
        ((-0.10, -0.11, -0.12), "better"),
        ((0.10, 0.11, 0.12), "worse"),
    ],
)
def test_verdict_says_what_seeds_support(by_seed, expected):
    """Better and worse need an interval without zero."""
    assert verdict(Effect(sum(by_seed) / len(by_seed), by_seed, None, ())) == expected
