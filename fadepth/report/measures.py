r"""What a table can show of a run, and in which of its files each number stands.

Light to import: Snakemake asks for the files while it parses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fadepth.evaluation.protocols import find_protocol
from fadepth.report.table import Column, Direction
from fadepth.run import Run
from fadepth.study import Study

#: Header in Markdown and HTML, in LaTeX, which way is better, digits behind the point. The seven
#: metrics of Eigen et al. (arXiv 1406.2283) and Make3D's.
_METRICS: dict[str, tuple[str, str, Direction, int]] = {
    "abs_rel": ("Abs Rel ↓", r"Abs Rel $\downarrow$", "lower", 3),
    "sq_rel": ("Sq Rel ↓", r"Sq Rel $\downarrow$", "lower", 3),
    "rmse": ("RMSE ↓", r"RMSE $\downarrow$", "lower", 3),
    "rmse_log": ("RMSE log ↓", r"RMSE log $\downarrow$", "lower", 3),
    "rmse_log10": ("RMSE log10 ↓", r"RMSE log10 $\downarrow$", "lower", 3),
    "log10": ("log10 ↓", r"log10 $\downarrow$", "lower", 3),
    "delta_1": ("δ₁ ↑", r"$\delta_1$ $\uparrow$", "higher", 3),
    "delta_2": ("δ₂ ↑", r"$\delta_2$ $\uparrow$", "higher", 3),
    "delta_3": ("δ₃ ↑", r"$\delta_3$ $\uparrow$", "higher", 3),
}
_GRID = {
    "harmonics_x": ("across", "grid energy (HQDec's patches)"),
    "harmonics_y": ("down", "grid energy (HQDec's patches)"),
    "top_band": ("top 10 %", "high frequencies"),
}
#: Conditions of `fadepth.evaluation.robustness` that table_pyramid shows.
CONDITIONS = {
    "clean": "clean input",
    "flipped": "mirrored",
    "dark": "dark",
    "bright": "bright",
}


@dataclass(frozen=True)
class PerImage:
    """Where a measure stands image by image, for intervals over drives.

    Attributes:
        file: CSV below the run's folder, with `drive`, `frame` and `side`.
        column: of the values.
        condition: rows that count; None: all.
    """

    file: str
    column: str
    condition: str | None = None


@dataclass(frozen=True)
class Measure:
    """One number of a run.

    Attributes:
        column: how tables show it; its key is the CSV's header.
        file: JSON below the run's folder.
        path: keys that lead to the number.
        scale: factor on it.
        per_image: where it stands image by image; None: it is no mean over images.
        kinds: kinds of runs that have it.
    """

    column: Column
    file: str
    path: tuple[str, ...]
    scale: float = 1.0
    per_image: PerImage | None = None
    kinds: tuple[str, ...] = ("student", "teacher", "baseline", "official")

    @property
    def key(self) -> str:
        """Its column's."""
        return self.column.key


def metric_column(metric: str, prefix: str = "", group: str = "") -> Column:
    """Column of one of the known metrics; `prefix` makes its key another than the metric's."""
    markdown, latex, direction, decimals = _METRICS[metric]
    key = f"{prefix}{metric}"
    return Column(key, markdown, latex, direction, decimals, f"{key}_std", group)


def measures_of(study: Study) -> list[Measure]:
    """What a study's table shows of each run, in the order of its columns."""
    found: list[Measure] = []
    for block in study.file.columns:
        found += {
            "metrics": _metrics,
            "primary": _primary,
            "conditions": _conditions,
            "parameters": _parameters,
            "training_parameters": _training_parameters,
            "costs": _no_own_file,
            "grid": _grid,
        }[block](study)
    for name in study.file.benchmarks:
        found += _benchmark(study, name)
    return found


def primary_of(study: Study) -> Measure:
    """The measure that rows are compared by: the first that is better when lower."""
    return next(m for m in measures_of(study) if m.column.direction == "lower")


def _evaluation(study: Study) -> tuple[str, tuple[str, ...]]:
    """Folder of the evaluation that a table shows, and its metrics."""
    name = study.file.evaluated_on
    if name is None:
        return "", find_protocol(study.config.evaluation.protocol).metrics
    return f"benchmarks/{name}/", find_protocol(study.config.benchmarks[name].protocol).metrics


def _metrics(study: Study) -> list[Measure]:
    folder, metrics = _evaluation(study)
    kinds = ("student", "teacher", "baseline", "official") if not folder else ("student", "teacher")
    return [
        Measure(
            metric_column(metric),
            f"{folder}metrics.json",
            ("metrics", metric),
            per_image=PerImage(f"{folder}per_image.csv", metric),
            kinds=kinds,
        )
        for metric in metrics
    ]


def _primary(study: Study) -> list[Measure]:
    return _metrics(study)[:1]


def _benchmark(study: Study, name: str) -> list[Measure]:
    settings = study.config.benchmarks[name]
    title = settings.title or _spoken(name)
    return [
        Measure(
            metric_column(metric, f"{name}.", title),
            f"benchmarks/{name}/metrics.json",
            ("metrics", metric),
            per_image=PerImage(f"benchmarks/{name}/per_image.csv", metric),
            kinds=("student", "teacher"),
        )
        for metric in find_protocol(settings.protocol).metrics
    ]


def _spoken(name: str) -> str:
    return {"make3d": "Make3D", "cityscapes": "Cityscapes"}.get(name, name)


def _conditions(study: Study) -> list[Measure]:
    return [
        Measure(
            metric_column("abs_rel", f"{name}.", title),
            "robustness.json",
            ("conditions", name, "abs_rel"),
            per_image=PerImage("robustness_per_image.csv", "abs_rel", name),
            kinds=("student",),
        )
        for name, title in CONDITIONS.items()
    ]


def _parameters(study: Study) -> list[Measure]:
    column = Column("params_m", "Params (M)", "Params (M)", decimals=2)
    kinds = ("student", "teacher", "baseline")
    return [Measure(column, "manifest.json", ("parameters_inference",), 1e-6, kinds=kinds)]


def _training_parameters(study: Study) -> list[Measure]:
    title = "Params in training (M)"
    column = Column("training_params_m", title, title, decimals=2)
    return [
        Measure(
            column,
            "manifest.json",
            ("parameters_training",),
            1e-6,
            kinds=("student", "teacher"),
        )
    ]


def _grid(study: Study) -> list[Measure]:
    return [
        Measure(
            Column(f"grid.{key}", f"{title} ↓", rf"{title} $\downarrow$", "lower", 3, group=group),
            "grid.json",
            (key,),
            kinds=("student", "teacher"),
        )
        for key, (title, group) in _GRID.items()
    ]


def _no_own_file(study: Study) -> list[Measure]:
    # Costs are measured for all rows in one go, side by side (`fadepth.execution.costs`).
    return []


def files_of(study: Study, run: Run) -> list[str]:
    """Files below `runs/<id>/` that a table needs of a run, except what training itself writes."""
    return sorted(set(_files(measures_of(study), run)))


def _files(measures: Sequence[Measure], run: Run) -> Iterator[str]:
    for measure in measures:
        if run.kind not in measure.kinds:
            continue
        if measure.file != "manifest.json":
            yield measure.file
        if measure.per_image:
            yield measure.per_image.file


def costs_file(table: str) -> Path:
    """Where the costs of a table's networks are measured to."""
    return Path("reports") / "costs" / f"{table}.json"
