"""Effects, intervals and tests against closed forms, least squares, enumeration and simulation."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats as scipy_stats

from fadepth.errors import FadepthError
from fadepth.stats import (
    changes_of,
    contrast_coefficients,
    holm,
    noise_floor,
    paired_difference,
    sample_std,
    seeds_needed,
    sign_flip_p,
    smallest_p,
)

#: KITTI's Eigen test frames: 697 from 28 drives.
EIGEN = [25] * 27 + [22]
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


def by_pairs(runs, factor, level):
    """Main effect of each seed another way: from pairs that differ in one factor alone."""
    values = {(frozenset(levels.items()), seed): value for levels, seed, value in runs}
    found = {}
    for levels, seed, value in runs:
        partner = values.get((frozenset({**levels, factor: PLAIN[factor]}.items()), seed))
        if levels[factor] == level and partner is not None:
            found.setdefault(seed, []).append(value - partner)
    return [float(np.mean(found[seed])) for seed in sorted(found)]


def test_spread_is_the_samples():
    assert sample_std([0.1, 0.4, -0.2]) == pytest.approx(0.3)
    assert sample_std([1.0]) is None


def draws(rng, seeds, sizes, *, seed=0.0, drive=0.0, both=0.0, image=0.0):
    """Differences (seeds, images) with true mean 0 and drives of the given sizes.

    Standard deviations of what belongs to a seed, to a drive, to their combination, to an image.
    """
    drives = np.repeat(np.arange(len(sizes)), sizes)
    values = (
        seed * rng.normal(size=(seeds, 1))
        + drive * rng.normal(size=len(sizes))[drives]
        + both * rng.normal(size=(seeds, len(sizes)))[:, drives]
        + image * rng.normal(size=len(drives))
    )
    return values, drives.tolist()


def coverage(trials, *args, naive=False, **kwargs):
    """Share of intervals of simulated data that hold the true mean."""
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(trials):
        values, drives = draws(rng, *args, **kwargs)
        names = range(len(drives)) if naive else drives
        found = paired_difference(values, names, resamples=500, seed=trial)
        hits += found.low <= 0 <= found.high
    return hits / trials


TWENTY = [10] * 20


@pytest.mark.parametrize(
    ("seeds", "sizes", "spread"),
    [
        pytest.param(3, TWENTY, {"seed": 1, "drive": 0.2, "image": 0.5}, id="seeds dominate"),
        pytest.param(3, TWENTY, {"seed": 0.05, "drive": 1, "image": 0.5}, id="drives dominate"),
        # Equal parts of the variance of the mean: 1 / 3 and (20 / 3) / 20.
        pytest.param(3, TWENTY, {"seed": 1, "drive": 2.58, "image": 0.5}, id="equal parts"),
        pytest.param(5, EIGEN, {"seed": 0.2, "drive": 1, "image": 1}, id="Eigen, five seeds"),
        pytest.param(1, EIGEN, {"drive": 1, "image": 1}, id="one seed, correlation 0.5"),
        pytest.param(3, [40, 60], {"seed": 1, "drive": 0.8, "image": 1}, id="two scenes"),
        pytest.param(4, [100], {"seed": 1}, id="one scene"),
    ],
)
def test_interval_of_a_difference_covers_the_truth(seeds, sizes, spread):
    """95 % intervals hold the true difference in about 95 % of simulated studies."""
    assert 0.93 <= coverage(800, seeds, sizes, **spread) <= 0.98


def test_combined_effects_of_seed_and_drive_only_widen():
    """The pigeonhole bootstrap counts this part three times: more than 95 %, never less."""
    assert coverage(300, 3, TWENTY, both=1) >= 0.97
    rng = np.random.default_rng(0)
    squares = [
        paired_difference(*draws(rng, 4, TWENTY, both=1), resamples=300, seed=trial).standard_error
        ** 2
        for trial in range(400)
    ]
    assert np.mean(squares) == pytest.approx(3 / (4 * 20), rel=0.08)


def test_single_images_as_units_promise_too_much():
    """Frames of one drive err alike: taken one by one, idle changes look significant."""
    spread = {"drive": 1.0, "image": 1.0}
    assert coverage(200, 1, EIGEN, naive=True, **spread) < 0.6
    assert coverage(400, 1, EIGEN, **spread) > 0.92


def test_clusters_matter_only_where_images_are_correlated():
    """As wide as for single images where drives have nothing in common, else far wider."""
    rng = np.random.default_rng(2)

    def ratio(**spread):
        ratios = []
        for _ in range(30):
            values, drives = draws(rng, 1, EIGEN, **spread)
            clustered = paired_difference(values, drives, resamples=1000)
            single = paired_difference(values, range(len(drives)), resamples=1000)
            ratios.append(clustered.standard_error / single.standard_error)
        return np.mean(ratios)

    assert ratio(image=1.0) == pytest.approx(1, abs=0.08)
    # Design effect 1 + (25 - 1) * 0.5 of the variance (Kish).
    assert ratio(image=1.0, drive=1.0) == pytest.approx(np.sqrt(13), rel=0.1)


def test_standard_error_has_its_closed_form_in_balanced_designs():
    """One seed or one cluster: sqrt(s^2 / n) of the units' means, and Student's interval."""
    rng = np.random.default_rng(3)
    values = rng.normal(0.3, 1, (4, 60))
    by_seed = paired_difference(values, ["only"] * 60)
    expected = scipy_stats.ttest_1samp(values.mean(axis=1), 0)
    assert (by_seed.seeds, by_seed.clusters, by_seed.degrees) == (4, 1, 3)
    assert by_seed.standard_error == pytest.approx(values.mean(axis=1).std(ddof=1) / 2, rel=0.02)
    interval = expected.confidence_interval()
    assert (by_seed.low, by_seed.high) == pytest.approx(tuple(interval), rel=0.03, abs=0.01)
    assert by_seed.p == pytest.approx(expected.pvalue, rel=0.1)

    drives = np.repeat(np.arange(12), 5)
    by_drive = paired_difference(values[:1], drives.tolist())
    means = values[0].reshape(12, 5).mean(axis=1)
    assert (by_drive.seeds, by_drive.clusters, by_drive.degrees) == (1, 12, 11)
    assert by_drive.standard_error == pytest.approx(np.sqrt(means.var(ddof=1) / 12), rel=0.02)
    assert by_drive.mean == pytest.approx(values[0].mean(), abs=1e-14)


def test_both_levels_add_up_where_effects_do():
    """Without a combined part: s_a^2 / S + s_b^2 / D, and Satterthwaite's degrees by hand."""
    a, b = np.array([0.5, -0.2, 0.9]), np.array([1.0, -1.5, 0.2, 0.7, 2.2])
    found = paired_difference(np.repeat(a[:, None] + b, 4, axis=1), np.repeat(range(5), 4).tolist())
    seeds, drives = a.var(ddof=1) / 3, b.var(ddof=1) / 5
    assert found.mean == pytest.approx(a.mean() + b.mean())
    assert found.standard_error == pytest.approx(np.sqrt(seeds + drives), rel=0.02)
    nu = (seeds + drives) ** 2 / (seeds**2 / 2 + drives**2 / 4)
    assert found.degrees == pytest.approx(nu, rel=0.02)
    half = scipy_stats.t.ppf(0.975, found.degrees) * found.standard_error
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    t = found.mean / found.standard_error
    assert found.p == pytest.approx(2 * scipy_stats.t.cdf(-abs(t), found.degrees))
    wider = paired_difference(
        np.repeat(a[:, None] + b, 4, axis=1), np.repeat(range(5), 4).tolist(), confidence=0.99
    )
    assert wider.low < found.low < found.high < wider.high


def test_two_scenes_of_unequal_length_have_the_true_variance():
    """Of 90 and 10 images: Var(mean) = (0.9^2 + 0.1^2) sigma^2, not that of halves."""
    rng = np.random.default_rng(4)
    squares = [
        paired_difference(
            *draws(rng, 1, [90, 10], drive=1), resamples=100, seed=trial
        ).standard_error
        ** 2
        for trial in range(3000)
    ]
    # About the resamples' own mean it would be 0.5.
    assert np.mean(squares) == pytest.approx(0.82, rel=0.08)


def test_every_image_weighs_the_same():
    """The mean is that of the images, as in the paper's tables, not that of the drives."""
    found = paired_difference(np.array([[1.0, 1.0, 1.0, 5.0]]), ["long"] * 3 + ["short"])
    assert found.mean == 2.0


def test_order_of_images_and_seeds_does_not_matter():
    """Bit for bit the same difference, so that tables do not depend on the order of files."""
    rng = np.random.default_rng(6)
    values, drives = draws(rng, 3, [3, 5, 8, 2, 9], seed=1, drive=1, both=1, image=1)
    names = np.array([f"drive_{drive}" for drive in drives])
    expected = paired_difference(values, names.tolist())
    for _ in range(5):
        images, seeds = rng.permutation(len(names)), rng.permutation(3)
        shuffled = values[seeds][:, images]
        assert paired_difference(shuffled, names[images].tolist()) == expected
    # ... while which image belongs to which drive does matter.
    other = paired_difference(values, names[::-1].tolist())
    assert other.standard_error != expected.standard_error


def test_resampling_is_repeatable_and_has_its_own_seed():
    """Numpy's global state has no say; another seed draws other resamples."""
    values, drives = draws(np.random.default_rng(7), 3, TWENTY, seed=1, drive=1)
    first = paired_difference(values, drives)
    np.random.seed(0)  # noqa: NPY002
    assert paired_difference(values, drives) == first
    other = paired_difference(values, drives, seed=1)
    assert other.standard_error != first.standard_error
    assert other.standard_error == pytest.approx(first.standard_error, rel=0.03)


def test_differences_without_spread():
    """Equal rows differ by nothing; a constant difference has no error."""
    drives = ["a"] * 3 + ["b"] * 4
    same = paired_difference(np.zeros((2, 7)), drives)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    constant = paired_difference(np.full((2, 7), 0.5), drives)
    assert (constant.low, constant.high, constant.p) == (0.5, 0.5, 0)


def test_one_seed_and_one_cluster_say_nothing():
    assert paired_difference(np.ones((1, 5)), ["a"] * 5) is None


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        (np.ones((2, 3)), ["a", "b"], "one name for each image"),
        (np.ones(3), ["a", "b", "c"], r"expected \(seeds, images\)"),
        (np.ones((2, 0)), [], r"expected \(seeds, images\)"),
        (np.array([[1.0, np.nan], [np.inf, 1.0]]), ["a", "b"], "2 of 4 paired differences"),
    ],
)
def test_unusable_differences_are_refused(values, clusters, message):
    with pytest.raises(FadepthError, match=message):
        paired_difference(values, clusters)


def test_unusable_settings_are_refused():
    for bad in ({"confidence": 95}, {"confidence": 0}, {"resamples": 0}):
        with pytest.raises(FadepthError, match="resample"):
            paired_difference(np.ones((2, 2)), ["a", "b"], **bad)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_sign_flip_is_the_enumeration(n):
    """Counted one by one; small whole numbers have ties, which rounding must not part."""
    rng = np.random.default_rng(n)
    for values in (rng.normal(0.5, 1, n), rng.integers(-2, 4, n), 0.1 * rng.integers(-2, 4, n)):
        sums = [
            sum(sign * round(float(value), 9) for sign, value in zip(signs, values, strict=True))
            for signs in product((1, -1), repeat=n)
        ]
        extreme = [abs(total) >= abs(sums[0]) - 1e-9 for total in sums]
        assert sign_flip_p(values.tolist()) == pytest.approx(np.mean(extreme), abs=1e-12)


def test_sign_flip_cannot_be_below_its_smallest():
    """Three seeds never reach 5 %, however large the difference."""
    for n, least in ((1, 1.0), (3, 0.25), (5, 0.0625), (6, 0.03125)):
        assert smallest_p(n) == least
        assert sign_flip_p([-100.0 - k for k in range(n)]) == least
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0
    assert sign_flip_p([1.0] * 16) == smallest_p(16)
    for bad in ([], [1.0] * 17, [1.0, float("nan")]):
        with pytest.raises(FadepthError, match="exact sign-flip"):
            sign_flip_p(bad)


def test_sign_flip_keeps_its_level_without_normality():
    """Idle changes with heavy tails: p <= 1/16 in one of 16 studies of six seeds (exact level)."""
    rng = np.random.default_rng(8)
    p = [sign_flip_p(list(row)) for row in rng.standard_t(2, (2000, 6))]
    assert np.mean(np.array(p) <= 0.0625 + 1e-12) == pytest.approx(0.0625, abs=0.015)


def test_seeds_needed_is_the_first_that_reaches_alpha():
    assert [seeds_needed(rows) for rows in (1, 2, 3, 7)] == [6, 7, 7, 9]
    assert seeds_needed(1, alpha=0.25) == 3
    for rows, alpha in product((1, 4, 7, 20), (0.05, 0.01)):
        n = seeds_needed(rows, alpha)
        best = holm([smallest_p(n)] * rows)
        assert max(best) <= alpha < rows * smallest_p(n - 1)
    with pytest.raises(FadepthError, match="at least one row"):
        seeds_needed(0)
    with pytest.raises(FadepthError, match="at least one"):
        smallest_p(0)


def test_holm_by_hand():
    """0.005 * 4, 0.01 * 3, then 0.03 * 2 = 0.06, and 0.04 * 1 may not fall below it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    for bad in ([0.2, 1.2], [float("nan")]):
        with pytest.raises(FadepthError, match="between 0 and 1"):
            holm(bad)


def test_holm_rejects_what_the_step_down_rejects():
    """The procedure as Holm words it: stop at the first that is not at most alpha / (m - k)."""
    rng = np.random.default_rng(9)
    for _ in range(200):
        p = (rng.integers(1, 12, rng.integers(1, 7)) / 100).tolist()  # with ties
        for alpha in (0.01, 0.05, 0.1, 0.2):
            rejected, left = set(), dict(enumerate(p))
            while left:
                index = min(left, key=lambda i: left[i])
                if left[index] > alpha / len(left) + 1e-12:
                    break
                rejected.add(index)
                del left[index]
            assert {i for i, q in enumerate(holm(p)) if q <= alpha + 1e-12} == rejected


@pytest.mark.parametrize(("baseline", "seeds"), [(3, 3), (5, 3), (3, 1), (2, 4)])
def test_noise_floor_is_exceeded_by_one_idle_row_in_twenty(baseline, seeds):
    rng = np.random.default_rng(10)
    base = rng.normal(0.11, 0.002, (5000, baseline))
    idle = rng.normal(0.11, 0.002, (5000, seeds)).mean(axis=1)
    floors = np.array([noise_floor(list(values), seeds) for values in base])
    assert np.mean(abs(idle - base.mean(axis=1)) > floors) == pytest.approx(0.05, abs=0.01)


def test_noise_floor_needs_a_repeated_baseline():
    assert noise_floor([0.11], 3) is None
    # t_1 = 12.706, s = sqrt(2) / 2 * 0.02, 1 / 2 + 1 / 2.
    assert noise_floor([0.1, 0.12], 2) == pytest.approx(12.7062 * 0.0141421, rel=1e-5)
    with pytest.raises(FadepthError, match="at least one"):
        noise_floor([0.1, 0.2], 0)


def grid(**levels):
    """Every combination of the given levels."""
    return [dict(zip(levels, row, strict=True)) for row in product(*levels.values())]


def contrast(rows, values, changes, plain=PLAIN):
    return float(np.dot(contrast_coefficients(rows, plain, changes), values))


def test_main_contrast_is_the_factor_effect():
    """Coefficients over rows and pairs within seeds are two ways to the same number."""
    rng = np.random.default_rng(11)
    rows = grid(etm=("off", "on"), pyramid=("off", "half", "full"), apx=("off", "on"))
    values = rng.normal(size=(3, len(rows)))
    runs = [(row, s, values[s, i]) for i, row in enumerate(rows) for s in range(3)]
    for change in changes_of(rows, PLAIN, 1):
        ((factor, level),) = change.items()
        by_seed = [contrast(rows, values[s], change) for s in range(3)]
        assert by_seed == pytest.approx(by_pairs(runs, factor, level))


def test_interaction_by_hand():
    """[40 - 12] - [17 - 10] = 21: what A gains beside B more than without it, not halved."""
    rows = grid(etm=("off", "on"), apx=("off", "on"))  # off/off, off/on, on/off, on/on
    plain = {"etm": "off", "apx": "off"}
    values = [10.0, 12.0, 17.0, 40.0]
    both = {"etm": "on", "apx": "on"}
    assert contrast_coefficients(rows, plain, both) == [1, -1, -1, 1]
    assert contrast(rows, values, both, plain) == 21
    assert contrast(rows, values, {"etm": "on"}, plain) == (7 + 28) / 2
    assert contrast(rows, values, {"apx": "on", "etm": "on"}, plain) == 21


def test_contrasts_are_regression_coefficients():
    """Of 0/1 dummies with products: exact where nothing is averaged, and means of them else."""
    rng = np.random.default_rng(12)
    rows = grid(etm=("off", "on"), pyramid=("off", "on"), apx=("off", "on"))
    values = rng.normal(size=8)
    dummies = np.array([[on(row, name) for name in PLAIN] for row in rows])
    products = [np.prod(dummies[:, list(use)], axis=1) for use in ([0, 1], [0, 2], [1, 2])]
    triple = np.prod(dummies, axis=1)
    full = np.column_stack([np.ones(8), dummies, *products, triple])
    *_, ab, ac, bc, abc = np.linalg.lstsq(full, values)[0]
    assert contrast(rows, values, dict.fromkeys(PLAIN, "on")) == pytest.approx(abc)
    pairs = (("etm", "pyramid", ab), ("etm", "apx", ac), ("pyramid", "apx", bc))
    for one, other, coefficient in pairs:
        found = contrast(rows, values, {one: "on", other: "on"})
        # Averaged over the third factor: halfway between without and with it.
        assert found == pytest.approx(coefficient + abc / 2)
    # Without the triple product the fit averages too, and the two agree.
    second = np.linalg.lstsq(full[:, :-1], values)[0][-3:]
    assert [contrast(rows, values, {a: "on", b: "on"}) for a, b, _ in pairs] == pytest.approx(
        list(second)
    )


def test_incomplete_factorials_use_complete_sets_only():
    """The paper's rows: no interaction without its four corners; lone rows weigh nothing."""
    rows = [
        dict(zip(PLAIN, levels, strict=True))
        for levels in (
            ("off", "off", "off"),
            ("on", "off", "off"),
            ("on", "on", "off"),
            ("on", "on", "on"),
            ("off", "on", "on"),
        )
    ]
    assert contrast_coefficients(rows, PLAIN, {"etm": "on"}) == [-0.5, 0.5, 0, 0.5, -0.5]
    assert contrast_coefficients(rows, PLAIN, {"pyramid": "on"}) == [0, -1, 1, 0, 0]
    assert contrast_coefficients(rows, PLAIN, {"etm": "on", "pyramid": "on"}) is None
    assert contrast_coefficients(rows, PLAIN, {"apx": "elsewhere"}) is None


def test_contrasts_do_not_depend_on_the_order_of_rows():
    rows = grid(etm=("off", "on"), apx=("off", "on", "more"))
    plain = {"etm": "off", "apx": "off"}
    change = {"etm": "on", "apx": "more"}
    expected = contrast_coefficients(rows, plain, change)
    assert expected == [1, 0, -1, -1, 0, 1]
    for order in permutations(range(6)):
        shuffled = contrast_coefficients([rows[i] for i in order], plain, change)
        assert shuffled == [expected[i] for i in order]


def test_contrast_of_images_is_a_difference_like_any_other():
    """Coefficients times (seeds, images) of each row give what `paired_difference` takes."""
    rng = np.random.default_rng(13)
    rows = grid(etm=("off", "on"), apx=("off", "on"))
    plain = {"etm": "off", "apx": "off"}
    shared = rng.normal(size=(3, 40))  # what images and seeds do to all rows alike
    images = [shared + 0.5 * on(row, "etm") - 0.3 * on(row, "etm") * on(row, "apx") for row in rows]
    coefficients = contrast_coefficients(rows, plain, {"etm": "on", "apx": "on"})
    found = paired_difference(np.tensordot(coefficients, images, axes=1), list(range(8)) * 5)
    assert found.mean == pytest.approx(-0.3)
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_changes_come_in_the_order_of_the_study():
    rows = grid(etm=("off", "on"), apx=("off", "more", "on"))
    plain = {"etm": "off", "apx": "off"}
    single = [{"etm": "on"}, {"apx": "more"}, {"apx": "on"}]
    assert changes_of(rows, plain, 1) == single
    pairs = [{"etm": "on", "apx": "more"}, {"etm": "on", "apx": "on"}]
    assert changes_of(rows, plain, 2) == single + pairs
    assert changes_of(rows, plain, 3) == single + pairs


def test_contrasts_that_mean_nothing_are_refused():
    rows = grid(etm=("off", "on"), pyramid=("off",), apx=("off",))
    for changes in ({}, {"etm": "off"}, {"unknown": "on"}):
        with pytest.raises(FadepthError, match="other than their plain one"):
            contrast_coefficients(rows, PLAIN, changes)
    with pytest.raises(FadepthError, match="same levels"):
        contrast_coefficients([*rows, rows[0]], PLAIN, {"etm": "on"})
