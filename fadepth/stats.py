"""Statistics of repeated trainings: what a factor changes, and how far seeds and scenes move that.

Small functions on plain numbers; what they are applied to is `fadepth.report`'s business.
docs/decisions/013-differences.md has the reasons.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes half a second

from fadepth.errors import FadepthError

#: Enumerating 2^n sign flips takes a third of a second at 16, and doubles with each more.
MOST_SEEDS_FOR_ENUMERATION = 16


def sample_std(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """Mean paired difference between two trained rows (row - baseline), with its uncertainty.

    Attributes:
        mean: over seeds and images, each image weighing the same.
        low, high: ends of the confidence interval of `mean`.
        standard_error: of `mean`, from the bootstrap.
        degrees: Satterthwaite's degrees of freedom of `standard_error`.
        p: two-sided, of the same t statistic. It describes; to claim there is `sign_flip_p`.
        seeds: trainings of each row. With 1 the interval speaks of these two trainings only.
        clusters: groups of images (drives, scenes). With 1 it speaks of these images only.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    degrees: float
    p: float
    seeds: int
    clusters: int


def paired_difference(
    differences: NDArray[np.floating],
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference | None:
    """Mean difference of two rows and its interval, over other seeds and other drives.

    Seeds and clusters are resampled independently of each other, and a resample weighs each image
    of each training with the product of the two counts (Owen, "The pigeonhole bootstrap",
    https://arxiv.org/abs/0712.1111). n - 1 of n units are drawn, which makes the variance of a mean
    unbiased however few they are (Rao and Wu 1988, JASA 83). The interval is
    mean -+ t_nu * standard error, with nu of Satterthwaite (1946, Biometrics Bulletin 2):

        nu = (V_seeds + V_clusters)^2 / (V_seeds^2 / (S - 1) + V_clusters^2 / (D - 1))

    where V is the variance when only that one is resampled: percentiles of three seeds would be far
    too close. The part of the variance that is neither the seed's nor the drive's own, but of their
    combination, is counted three times [derived] (known as mildly conservative: Owen and Eckles,
    https://arxiv.org/abs/1106.2125): the interval is too wide there, never too short.

    Args:
        differences: (seeds, images), row - baseline, paired by seed and image.
        clusters: (images,), the drive or scene of each image. Neighbouring frames err alike, so
            that images of one drive are far fewer than they look.
        confidence: of the interval.
        resamples: how many; the standard error is good to 1 / sqrt(2 * resamples) of itself.
        seed: of the resampling. The result does not depend on the order of images and of seeds.

    Returns:
        the difference; None with one seed and one cluster, which say nothing about others.

    Raises:
        FadepthError: shapes do not fit, there is no image, or a difference is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    _check_differences(values, clusters, confidence, resamples)
    sums, counts = _cluster_sums(values, clusters)
    n_seeds, n_clusters = sums.shape
    if n_seeds == n_clusters == 1:
        return None
    mean = math.fsum(sums.flat) / values.size
    generator = np.random.default_rng(seed)
    seed_weights = _weights(generator, n_seeds, resamples)
    cluster_weights = _weights(generator, n_clusters, resamples)
    residuals = sums - counts * mean

    def variance(by_seed: NDArray[np.int64], by_cluster: NDArray[np.int64]) -> float:
        # einsum, not matmul: BLAS may add up in another order with another number of threads.
        moved = np.einsum("rs,sd,rd->r", by_seed, residuals, by_cluster)
        images = by_seed.sum(axis=1) * np.einsum("rd,d->r", by_cluster, counts)
        # About the estimate, not about the resamples' own mean: for two scenes of unequal length
        # only this one has the true variance as its expectation.
        return float(np.mean((moved / images) ** 2))

    all_seeds, all_clusters = np.ones_like(seed_weights), np.ones_like(cluster_weights)
    error = math.sqrt(variance(seed_weights, cluster_weights))
    degrees = _satterthwaite(
        (variance(seed_weights, all_clusters), n_seeds - 1),
        (variance(all_seeds, cluster_weights), n_clusters - 1),
    )
    half = float(stdtrit(degrees, (1 + confidence) / 2)) * error
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        standard_error=error,
        degrees=degrees,
        p=_two_sided_p(mean, error, degrees),
        seeds=n_seeds,
        clusters=n_clusters,
    )


def _check_differences(
    values: NDArray[np.float64], clusters: Sequence[Hashable], confidence: float, resamples: int
) -> None:
    if values.ndim != 2 or values.size == 0 or values.shape[1] != len(clusters):
        raise FadepthError(
            f"paired differences have shape {values.shape} for {len(clusters)} cluster names: "
            "expected (seeds, images) with one name for each image"
        )
    if not np.isfinite(values).all():
        raise FadepthError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} paired differences are not "
            "finite: leave out images that one of the two rows has no value for"
        )
    if not 0 < confidence < 1 or resamples < 1:
        raise FadepthError(
            f"confidence {confidence} and {resamples} resamples: expected a confidence between 0 "
            "and 1 and at least one resample"
        )


def _cluster_sums(
    values: NDArray[np.float64], clusters: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums (seeds, clusters) and numbers of images (clusters,), whatever order they came in.

    `fsum` rounds once, so that the order within a cluster cannot show; clusters are sorted by name
    and seeds by their sums, so that each always meets the same random numbers.
    """
    columns: dict[Hashable, list[int]] = {}
    for index, cluster in enumerate(clusters):
        columns.setdefault(cluster, []).append(index)
    groups = [columns[name] for name in sorted(columns, key=repr)]
    sums = sorted([math.fsum(row[group]) for group in groups] for row in values)
    return np.array(sums), np.array([len(group) for group in groups])


def _weights(generator: np.random.Generator, units: int, resamples: int) -> NDArray[np.int64]:
    """How often each unit is drawn, (resamples, units); a single unit is always there."""
    if units == 1:
        return np.ones((resamples, 1), dtype=np.int64)
    return generator.multinomial(units - 1, np.full(units, 1 / units), size=resamples)


def _satterthwaite(*components: tuple[float, int]) -> float:
    """Degrees of freedom of a sum of variances, each with its own.

    A component with 0 degrees is that of a single unit and is left out. Without any variance the
    fewest degrees stay.
    """
    known = [(variance, degrees) for variance, degrees in components if degrees > 0]
    total = math.fsum(variance for variance, _ in known)
    if total == 0:
        return float(min(degrees for _, degrees in known))
    return 1 / math.fsum((variance / total) ** 2 / degrees for variance, degrees in known)


def _two_sided_p(mean: float, error: float, degrees: float) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(degrees, -abs(mean) / error))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Exact two-sided p of the mean of paired differences, one a seed.

    If the change does nothing, the sign of each seed's difference is a coin toss: p is the share of
    all 2^n patterns of signs whose mean is at least as far from zero. It takes nothing for granted
    about the distribution, and with n seeds cannot be below `smallest_p(n)`.

    Raises:
        FadepthError: no difference, more than 16, or one that is not finite.
    """
    n = len(differences)
    if not 1 <= n <= MOST_SEEDS_FOR_ENUMERATION or not np.isfinite(differences).all():
        raise FadepthError(
            f"exact sign-flip test of {n} seeds: expected 1 to {MOST_SEEDS_FOR_ENUMERATION} "
            "finite differences, one a seed"
        )
    if n == 1:
        return 1.0  # scipy wants two
    from scipy.stats import permutation_test

    result = permutation_test(
        (np.asarray(differences, dtype=np.float64),),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**n,  # as many as there are: scipy then enumerates
    )
    return float(result.pvalue)


def smallest_p(seeds: int) -> float:
    """Smallest p that `sign_flip_p` can give: all signs equal, 2 of 2^n patterns.

    0.25 for three seeds, 0.03125 for six.
    """
    if seeds < 1:
        raise FadepthError(f"smallest p of {seeds} seeds: expected at least one")
    return 2.0 ** (1 - seeds)


def seeds_needed(rows: int, alpha: float = 0.05) -> int:
    """Fewest seeds with which one of `rows` comparisons can reach `alpha` after Holm's correction.

    Holm multiplies the smallest p by the number of rows: rows * smallest_p(n) <= alpha. Six seeds
    for one row, nine for seven.
    """
    if rows < 1 or not 0 < alpha < 1:
        raise FadepthError(
            f"seeds needed for {rows} rows at alpha {alpha}: expected at least one row and an "
            "alpha between 0 and 1"
        )
    seeds = 1
    while rows * smallest_p(seeds) > alpha:
        seeds += 1
    return seeds


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of several comparisons, in the order given.

    The k-th smallest of m is multiplied by m - k + 1, is never less than the one before it, and
    never more than 1 (Holm 1979, Scandinavian Journal of Statistics 6). Rejecting what is at most
    alpha makes a false claim in at most alpha of all families, however the p depend on each other.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise FadepthError("Holm's correction: expected p values between 0 and 1")
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = reached
    return adjusted


def noise_floor(baseline: Sequence[float], seeds: int, confidence: float = 0.95) -> float | None:
    """How far a row's mean may be from the baseline's by seeds alone.

    t_(n-1) * s * sqrt(1 / n + 1 / seeds), with s of the n trainings of the baseline: another row
    that the change does nothing to is farther away in 5 % of cases. [derived] It takes the row's
    seeds for as noisy as the baseline's, and for independent of them; pairing by seed can only make
    the true floor lower.

    Args:
        baseline: one value for each repeated training of the baseline.
        seeds: trainings of the row.
        confidence: share of idle rows that stay below the floor.

    Returns:
        the floor, or None for fewer than two trainings of the baseline.
    """
    if seeds < 1:
        raise FadepthError(f"noise floor of a row with {seeds} seeds: expected at least one")
    spread = sample_std(baseline)
    if spread is None:
        return None
    n = len(baseline)
    return float(stdtrit(n - 1, (1 + confidence) / 2)) * spread * math.sqrt(1 / n + 1 / seeds)


def contrast_coefficients(
    rows: Sequence[Mapping[str, str]], plain: Mapping[str, str], changes: Mapping[str, str]
) -> list[float] | None:
    """Coefficients c over the rows of a factorial: sum(c[row] * value[row]) is the effect.

    With y(A, B) the value at levels A and B (1: changed, 0: plain), for every combination of the
    other factors of which all corners were run, and averaged over those combinations:

        one change      y(1) - y(0)                                  main effect
        two changes     [y(1, 1) - y(0, 1)] - [y(1, 0) - y(0, 0)]    interaction
        k changes       sum over all 2^k corners of (-1)^(number of plain ones) * y

    The interaction is *not* halved as in some textbooks (Box, Hunter and Hunter): it is what A
    gains beside B more than without B, which is also the coefficient of the product of 0/1 dummies
    in a regression.

    Args:
        rows: level of each factor, one entry a row; not every combination need be there.
        plain: the plain level of every factor.
        changes: factor -> the level that is compared with its plain one.

    Returns:
        one coefficient a row, 0 for rows that take no part; None where no complete set was run.

    Raises:
        FadepthError: a changed factor is unknown or at its plain level, or a row is there twice.
    """
    _check_contrast(rows, plain, changes)
    where = {_levels(row, plain): index for index, row in enumerate(rows)}
    factors = list(changes)
    corners = list(product((False, True), repeat=len(factors)))
    sets = []
    for row in rows:
        if any(row[factor] != changes[factor] for factor in factors):
            continue  # every set has one corner with all changes: start from that
        wanted = [_levels({**row, **_corner(corner, changes, plain)}, plain) for corner in corners]
        if all(levels in where for levels in wanted):
            sets.append([where[levels] for levels in wanted])
    if not sets:
        return None
    coefficients = [0.0] * len(rows)
    for members in sets:
        for index, corner in zip(members, corners, strict=True):
            coefficients[index] = (-1) ** corner.count(False) / len(sets)
    return coefficients


def _check_contrast(
    rows: Sequence[Mapping[str, str]], plain: Mapping[str, str], changes: Mapping[str, str]
) -> None:
    if not changes or any(plain.get(factor, level) == level for factor, level in changes.items()):
        raise FadepthError(
            f"contrast of {dict(changes)}: expected factors of the study at a level other than "
            f"their plain one in {dict(plain)}"
        )
    if len({_levels(row, plain) for row in rows}) != len(rows):
        raise FadepthError(
            f"contrast of {dict(changes)}: two rows have the same levels; give each once"
        )


def _levels(row: Mapping[str, str], plain: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[factor] for factor in plain)


def _corner(
    corner: Sequence[bool], changes: Mapping[str, str], plain: Mapping[str, str]
) -> dict[str, str]:
    return {
        factor: changes[factor] if changed else plain[factor]
        for factor, changed in zip(changes, corner, strict=True)
    }


def changes_of(
    rows: Sequence[Mapping[str, str]], plain: Mapping[str, str], order: int
) -> list[dict[str, str]]:
    """All combinations of up to `order` factors that are not plain, for `contrast_coefficients`.

    Single changes come first, in the order of `plain` and, within a factor, of `rows`; then pairs,
    and so on. Not every one need have been run.
    """
    single = {
        (factor, row[factor]): None
        for factor in plain
        for row in rows
        if row[factor] != plain[factor]
    }
    return [
        dict(chosen)
        for size in range(1, order + 1)
        for chosen in combinations(single, size)
        if len({factor for factor, _ in chosen}) == size
    ]
