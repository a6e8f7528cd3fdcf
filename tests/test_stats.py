"""Effects and intervals against closed forms, least squares and scipy."""

from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy_stats

from fadepth.stats import factor_effect, sample_std, t_interval

PLAIN = {"etm": "off", "pyramid": "off", "apx": "off"}


def observations(value, seeds=(1, 2, 3)):
    """A full factorial over three switches and the seeds."""
    result = []
    for levels in product(("off", "on"), repeat=3):
        row = dict(zip(PLAIN, levels, strict=True))
        result += [(row, seed, value(row, seed)) for seed in seeds]
    return result


def on(row, name):
    return float(row[name] == "on")


def test_additive_model_gives_back_its_coefficients():
    """Seeds shift everything, factors add up: every effect is exact and has no spread."""

    def value(row, seed):
        return 10 * seed + 0.3 * on(row, "etm") - 0.2 * on(row, "pyramid") + 0.05 * on(row, "apx")

    for name, expected in (("etm", 0.3), ("pyramid", -0.2), ("apx", 0.05)):
        effect = factor_effect(observations(value), name, "on", PLAIN)
        assert effect.mean == pytest.approx(expected)
        assert effect.alone == pytest.approx(expected)
        assert effect.std == pytest.approx(0, abs=1e-12)
        assert len(effect.by_seed) == 3


def test_main_effect_is_the_regression_coefficient():
    """In a balanced two-level design the main effect is the slope of a least-squares fit."""
    rng = np.random.default_rng(0)
    runs = observations(lambda row, seed: rng.normal())
    design = np.array(
        [[1, *(on(row, name) for name in PLAIN), seed == 2, seed == 3] for row, seed, _ in runs],
        dtype=float,
    )
    values = np.array([value for *_, value in runs])
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    for index, name in enumerate(PLAIN, 1):
        effect = factor_effect(runs, name, "on", PLAIN)
        assert effect.mean == pytest.approx(coefficients[index], abs=1e-12)


def test_interaction_separates_mean_from_alone():
    """An effect that exists only beside another factor is halved in the mean, zero alone."""
    runs = observations(lambda row, seed: on(row, "etm") * on(row, "apx"))
    effect = factor_effect(runs, "etm", "on", PLAIN)
    assert effect.mean == pytest.approx(0.5)
    assert effect.alone == pytest.approx(0.0)


def test_only_complete_pairs_count():
    """A training without its partner says nothing about the effect."""
    runs = [
        (PLAIN, 1, 1.0),
        ({**PLAIN, "etm": "on"}, 1, 1.5),
        ({**PLAIN, "etm": "on"}, 2, 99.0),
        ({**PLAIN, "apx": "on"}, 1, 77.0),
    ]
    effect = factor_effect(runs, "etm", "on", PLAIN)
    assert effect.by_seed == (0.5,)
    assert effect.std is None and effect.interval is None
    assert factor_effect(runs, "pyramid", "on", PLAIN) is None


def test_interval_is_scipys():
    """Same interval as scipy's own one-sample confidence interval."""
    values = [0.1, 0.4, -0.2, 0.35]
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx(tuple(expected))
    assert sample_std(values) == pytest.approx(np.std(values, ddof=1))
    assert t_interval([1.0]) is None and sample_std([1.0]) is None


def test_interval_covers_the_true_mean_as_often_as_it_says():
    """Of many triples of normal draws, 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(1)
    draws = rng.normal(0.3, 2.0, (2000, 3))
    hits = [low <= 0.3 <= high for low, high in (t_interval(list(row)) for row in draws)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)
