"""Statistics of repeated trainings: what a factor changes, and how far seeds move that.

Small functions on plain numbers; what they are applied to is `fadepth.report`'s business.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

#: One training of a factorial study: level of each factor, seed, and the measured value.
Observation = tuple[Mapping[str, str], int, float]


@dataclass(frozen=True)
class Effect:
    """Change of a measure when one factor goes from its plain level to another.

    Attributes:
        mean: over seeds and over all levels of the other factors (the main effect of a factorial
            design; Box, Hunter and Hunter, "Statistics for Experimenters", chapter 5).
        by_seed: the same for each seed.
        alone: mean over seeds with all other factors plain; None where that pair was not run.
        alone_by_seed: the same for each seed.
    """

    mean: float
    by_seed: tuple[float, ...]
    alone: float | None
    alone_by_seed: tuple[float, ...]

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the effect over seeds; None with one seed."""
        return sample_std(self.by_seed)

    @property
    def alone_std(self) -> float | None:
        """Sample standard deviation of `alone` over seeds; None with one seed."""
        return sample_std(self.alone_by_seed)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of `mean`; None with one seed."""
        return t_interval(self.by_seed)


def sample_std(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean, mean -+ t_(n-1) s / sqrt(n); None for fewer than two.

    It takes the values for draws of a normal distribution. With three seeds t is 4.3: wide, as it
    should be.
    """
    spread = sample_std(values)
    if spread is None:
        return None
    mean, n = float(np.mean(values)), len(values)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * spread / math.sqrt(n)
    return mean - half, mean + half


def factor_effect(
    observations: Sequence[Observation], factor: str, level: str, plain: Mapping[str, str]
) -> Effect | None:
    """Effect of `factor` at `level` against its plain level.

    Trainings are compared in pairs that agree in seed and in every other factor, so that what a
    seed or another factor does to both cancels. A seed counts with the mean of its pairs.

    Args:
        observations: one entry a training.
        factor: name of the factor.
        level: the level of interest.
        plain: the plain level of every factor.

    Returns:
        the effect, or None where no pair was run.
    """
    values = {(frozenset(levels.items()), seed): value for levels, seed, value in observations}
    differences: dict[int, list[float]] = {}
    alone: dict[int, float] = {}
    for levels, seed, value in observations:
        if levels[factor] != level:
            continue
        partner = values.get((frozenset({**levels, factor: plain[factor]}.items()), seed))
        if partner is None:
            continue
        differences.setdefault(seed, []).append(value - partner)
        if all(levels[name] == plain[name] for name in plain if name != factor):
            alone[seed] = value - partner
    if not differences:
        return None
    by_seed = tuple(float(np.mean(differences[seed])) for seed in sorted(differences))
    alone_by_seed = tuple(alone[seed] for seed in sorted(alone))
    return Effect(
        mean=float(np.mean(by_seed)),
        by_seed=by_seed,
        alone=float(np.mean(alone_by_seed)) if alone_by_seed else None,
        alone_by_seed=alone_by_seed,
    )
