"""How far rows differ from the baseline row, and whether a repetition would show it again.

Each difference is paired, by seed and by image, and its interval comes from a bootstrap over drives
(scenes) and seeds (`fadepth.stats`). A claim of significance comes from the seeds alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fadepth.errors import FadepthError
from fadepth.report.measures import Measure, PerImage
from fadepth.report.results import Results, RowResult
from fadepth.report.table import Noise
from fadepth.stats import (
    MOST_SEEDS_FOR_ENUMERATION,
    Difference,
    holm,
    noise_floor,
    paired_difference,
    seeds_needed,
    sign_flip_p,
    smallest_p,
)

#: A smaller p than this, after Holm's correction within the table, is called significant.
ALPHA = 0.05

#: Fewer drives than this make intervals that readers wonder about.
FEW = 6


@dataclass(frozen=True)
class RowDifference:
    """A row minus the baseline row, in one measure.

    Attributes:
        by_seed: seed -> difference of the means over images.
        interval: mean and 95 % interval; None where there are no images in common, or only one
            drive and one seed.
        p: of the exact sign-flip test over seeds; 1 with one seed.
        p_holm: corrected for the number of rows of the table.
        floor: what seeds alone would do (`noise_floor`); None with one seed of the baseline.
        lower_is_better: as the measure says.
    """

    by_seed: Mapping[int, float]
    interval: Difference | None
    p: float
    p_holm: float
    floor: float | None
    lower_is_better: bool

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(list(self.by_seed.values())))

    @property
    def verdict(self) -> str:
        """What the seeds at hand support, in a few words."""
        if self.floor is None:
            return "one seed"
        if abs(self.mean) <= self.floor:
            return "within noise"
        word = "better" if (self.mean < 0) == self.lower_is_better else "worse"
        return f"{word}, p < {ALPHA}" if self.p_holm < ALPHA else word


def per_image(runs: Path, run_id: str, where: PerImage) -> pd.Series:
    """A measure image by image, indexed by (drive, frame, side).

    Raises:
        FadepthError: the file is absent or lacks a column, or names an image twice.
    """
    path = runs / run_id / where.file
    keys = ["drive", "frame", "side"]
    try:
        table = pd.read_csv(path, dtype={"drive": str, "frame": str, "side": str})
    except (OSError, ValueError):
        raise FadepthError(
            f"{path} cannot be read: evaluate {run_id} again (delete its metrics.json)"
        ) from None
    if where.condition is not None and "condition" in table:
        table = table[table["condition"] == where.condition]
    if lacking := [name for name in (*keys, where.column) if name not in table]:
        raise FadepthError(f"{path} has no column '{lacking[0]}': evaluate {run_id} again")
    series = table.set_index(keys)[where.column]
    if not series.index.is_unique:
        raise FadepthError(f"{path} names an image twice: evaluate {run_id} again")
    return series


def images_of(
    rows: Sequence[RowResult], measure: Measure, runs: Path
) -> tuple[list[int], NDArray[np.float64], list[str]] | None:
    """A measure of several rows on the images and seeds that they share.

    Returns:
        seeds; values (rows, seeds, images); drive of each image. None where nothing is shared or
        the measure is not one of images.
    """
    if measure.per_image is None or not rows:
        return None
    runs_of = [{r.run.seed: r.run.id for r in row.runs if measure.key in r.values} for row in rows]
    seeds = sorted(set.intersection(*(set(ids) for ids in runs_of)))
    if not seeds:
        return None
    series = [[per_image(runs, ids[seed], measure.per_image) for seed in seeds] for ids in runs_of]
    index = series[0][0].index
    for of_row in series:
        for of_seed in of_row:
            if len(of_seed) != len(index) or not of_seed.index.equals(index):
                return None
    values = np.array([[s.to_numpy(np.float64) for s in of_row] for of_row in series])
    return seeds, values, [str(drive) for drive, _, _ in index]


def differences(results: Results, measure: Measure, runs: Path) -> dict[str, RowDifference]:
    """Each variant minus the baseline row, by label; corrected for their number (Holm)."""
    base = results.row(results.study.baseline.label)
    rows = [r for r in results.rows if r.row.kind == "variant" and r.label != base.label]
    found: dict[str, tuple[dict[int, float], Difference | None]] = {}
    for row in rows:
        own, plain = row.values(measure.key), base.values(measure.key)
        by_seed = {seed: own[seed] - plain[seed] for seed in sorted(own.keys() & plain.keys())}
        if by_seed:
            found[row.label] = by_seed, _interval_if_there(results, base, row, measure, runs)
    ps = [_p(list(by_seed.values()), interval) for by_seed, interval in found.values()]
    corrected = holm(ps)
    floors = floors_of(results, measure)
    return {
        label: RowDifference(
            by_seed, interval, p, p_holm, floors.get(label), measure.column.direction == "lower"
        )
        for (label, (by_seed, interval)), p, p_holm in zip(
            found.items(), ps, corrected, strict=True
        )
    }


def _p(by_seed: Sequence[float], interval: Difference | None) -> float:
    # Enumeration doubles with each seed; with so many, Student's t is as good.
    if len(by_seed) > MOST_SEEDS_FOR_ENUMERATION and interval is not None:
        return interval.p
    return sign_flip_p(by_seed[:MOST_SEEDS_FOR_ENUMERATION])


def _interval(base: RowResult, row: RowResult, measure: Measure, runs: Path) -> Difference | None:
    shared = images_of([base, row], measure, runs)
    if shared is None:
        return None
    _, values, drives = shared
    return paired_difference(values[1] - values[0], drives)


def _interval_if_there(
    results: Results, base: RowResult, row: RowResult, measure: Measure, runs: Path
) -> Difference | None:
    try:
        return _interval(base, row, measure, runs)
    except FadepthError:
        if not results.partial:
            raise
        return None


def floors_of(results: Results, measure: Measure) -> dict[str, float]:
    """Noise floor of each variant's difference to the baseline row, where seeds tell one."""
    plain = results.row(results.study.baseline.label).values(measure.key)
    base = list(plain.values())
    found = {}
    for row in results.rows:
        # As many as are paired, which is what a difference rests on.
        seeds = len(row.values(measure.key).keys() & plain.keys())
        if row.row.kind == "variant" and seeds:
            floor = noise_floor(base, seeds) if len(base) > 1 else None
            if floor is not None:
                found[row.label] = floor
    return found


def noise_of(results: Results) -> Noise:
    """The noise of every measure that has a best, for the table's marks."""
    labels = [row.label for row in results.rows]
    floors = {
        measure.key: {labels.index(name): f for name, f in floors_of(results, measure).items()}
        for measure in results.measures
        if measure.column.direction != "none"
    }
    return Noise(labels.index(results.study.baseline.label), floors)


def seed_notes(results: Results, measure: Measure, found: Mapping[str, RowDifference]) -> list[str]:
    """What the seeds at hand can and cannot show, for the foot of a table."""
    base = results.row(results.study.baseline.label)
    values = list(base.values(measure.key).values())
    clusters = [d.interval.clusters for d in found.values() if d.interval]
    few = (
        [f"test images of {max(clusters)} drives: intervals are as wide as so few allow"]
        if clusters and max(clusters) < FEW
        else []
    )
    if len(values) < 2:
        return [
            "one seed: differences may be noise, and nothing is marked as best; an interval speaks "
            "of these trainings on other drives, not of a repetition",
            *few,
        ]
    spread = float(np.std(values, ddof=1))
    notes = [
        *few,
        f"noise floor: '{base.label}' over {len(values)} seeds has standard deviation "
        f"{spread:.4f}; bold and underlined only what is better than it by more than seeds alone "
        "do for one row and measure in 95 of 100 cases; of many, some are bold by chance",
    ]
    seeds = min((len(d.by_seed) for d in found.values()), default=0)
    if seeds and smallest_p(seeds) * len(found) > ALPHA:
        rows = "1 row" if len(found) == 1 else f"{len(found)} rows"
        notes.append(
            f"{seeds} seeds cannot reach p < {ALPHA} for {rows} (smallest possible "
            f"p {smallest_p(seeds):.3g} before Holm's correction); "
            f"{seeds_needed(len(found), ALPHA)} seeds could"
        )
    return notes
