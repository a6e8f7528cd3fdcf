"""What MLflow's pages show of an experiment, and the addresses of these pages."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fadepth.report.results import METRICS
from fadepth.report.table import scale_warning
from fadepth.tracking.folders import RUN_ID, RunFolder
from fadepth.tracking.store import open_store

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

_VIEW = "mlflow.sharedViewState."
#: MLflow answers in pages.
_PAGE = 1000
#: More runs side by side nobody can read, and no browser opens the address.
_COMPARED = 100


@dataclass(frozen=True)
class CompareLinks:
    """Addresses in the MLflow UI that show a study."""

    charts: str
    table: str
    compare: str | None


# -------------------------------------------------------------------------------------- pages


def runs_of(client: "MlflowClient", experiment_ids: Sequence[str]) -> Iterator["Run"]:
    """All active runs of experiments, however many there are."""
    token = None
    while experiment_ids:
        page = client.search_runs(list(experiment_ids), max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _our_experiments(client: "MlflowClient") -> Iterator["Experiment"]:
    """Experiments that `track` has made, by name."""
    token = None
    while True:
        page = client.search_experiments(order_by=["name ASC"], max_results=_PAGE, page_token=token)
        yield from (found for found in page if f"{_VIEW}variants" in found.tags)
        token = page.token
        if not token:
            return


# -------------------------------------------------------------------------------------- links


def compare_url(
    base_url: str, experiment_id: str, run_ids: Sequence[str] | None = None
) -> CompareLinks:
    """Address the prepared views of an experiment; `run_ids` are MLflow's, for side by side.

    The views are those that `track` stores as experiment tags; MLflow does not document them
    (read off the UI of 3.17.2). An MLflow without them shows its plain list of runs.
    """
    base = f"{base_url.rstrip('/')}/#"
    page = f"{base}/experiments/{experiment_id}/runs"
    compare = None
    if run_ids and len(run_ids) <= _COMPARED:
        ids, experiments = (
            quote(json.dumps(x, separators=(",", ":"))) for x in (list(run_ids), [experiment_id])
        )
        compare = f"{base}/compare-runs?runs={ids}&experiments={experiments}"
    return CompareLinks(
        charts=f"{page}?viewStateShareKey=all&compareRunsMode=CHART",
        table=f"{page}?viewStateShareKey=variants",
        compare=compare,
    )


def run_links(store: str, base_url: str) -> dict[str, str]:
    """Run id -> address of its page in the MLflow UI; of a run in several studies the first."""
    client = open_store(store)
    names = {found.experiment_id: found.name for found in _our_experiments(client)}
    found: dict[str, tuple[str, str]] = {}
    for run in runs_of(client, list(names)):
        if run_id := run.data.tags.get(RUN_ID):
            experiment = run.info.experiment_id
            page = f"{base_url.rstrip('/')}/#/experiments/{experiment}/runs/{run.info.run_id}"
            found[run_id] = min(
                found.get(run_id, (names[experiment], page)), (names[experiment], page)
            )
    return {run_id: page for run_id, (_, page) in sorted(found.items())}


def study_links(store: str, base_url: str) -> dict[str, CompareLinks]:
    """Links of every experiment that `track` has made, largest first; variants as in the table."""
    client = open_store(store)
    experiments = list(_our_experiments(client))
    variants: dict[str, list[Run]] = {found.experiment_id: [] for found in experiments}
    for run in runs_of(client, list(variants)):
        if run.data.params.get("kind") == "variant":
            variants[run.info.experiment_id].append(run)
    result = {}
    # Shared runs make an experiment of every study; the one that was asked for is seldom small.
    for found in sorted(experiments, key=lambda found: -len(variants[found.experiment_id])):
        logged = variants[found.experiment_id]
        logged.sort(key=lambda run: int(run.data.tags.get("order", "0")))
        ids = [run.info.run_id for run in logged]
        result[found.name] = compare_url(base_url, found.experiment_id, ids)
    return result


# -------------------------------------------------------------------------------------- views


def describe(
    client: "MlflowClient", experiment: "Experiment", folders: Sequence[RunFolder]
) -> None:
    """Write an experiment's description and its prepared views, where they have changed."""
    factors = list(dict.fromkeys(key for folder in folders for key in folder.manifest["factors"]))
    tags = {"mlflow.note.content": _description(experiment.name, folders)}
    charts = _charts(folders)
    for key, only in (("all", ""), ("variants", "params.kind = 'variant'")):
        tags[_VIEW + key] = json.dumps(_view_state(factors, only) | charts)
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            _set_experiment_tag(client, experiment.experiment_id, key, value)


def _set_experiment_tag(client: "MlflowClient", experiment_id: str, key: str, value: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.set_experiment_tag(experiment_id, key, value)
    except MlflowException:
        # Where another host adds the same tag at the same moment, the server refuses one of both.
        if key not in client.get_experiment(experiment_id).tags:
            raise
        client.set_experiment_tag(experiment_id, key, value)


def _description(name: str, folders: Sequence[RunFolder]) -> str:
    scales = sorted({folder.manifest["scale"] for folder in folders} - {None, ""})
    # The page shows the first line only until it is unfolded.
    warning = scale_warning(", ".join(scales))
    head = f"**{name}**" + (f" (**{warning}**)" if warning else "")
    lines = [f"{head}: one run a row and seed, replayed from `runs/`."]
    lines.append("Metrics on the test frames are under `test/`, losses under `train/`.")
    return "\n\n".join(lines)


def _view_state(factors: list[str], search: str) -> dict[str, Any]:
    """State of the runs page as MLflow 3.17.2 keeps it; its form is not documented."""
    params = [f"params.`{name}`" for name in (*factors, "seed")]
    metrics = [f"metrics.`test/{name}`" for name in METRICS] + ["metrics.`model/parameters_m`"]
    order = ["attributes.`Run Name`", *params, *metrics, "duration", "runDateAndNestInfo"]
    return {
        "searchFilter": search,
        "orderByKey": "metrics.`test/abs_rel`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*params, *metrics],
        "columnOrder": order,
        "columnWidths": {
            **dict.fromkeys(params, 75),
            **dict.fromkeys(metrics, 95),
            "attributes.`Run Name`": 190,
        },
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        # The default shows ten runs; a study with its reference rows has more.
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "autoRefreshEnabled": True,
    }


def _charts(folders: Sequence[RunFolder]) -> dict[str, Any]:
    """Test metrics first, in the table's order, then the panels; the UI adds the curves."""
    panels = sorted({panel_key(path) for folder in folders for path in folder.panels})
    curves = {key for folder in folders for key in folder.first_metrics()}
    curve_sections = sorted({key.rpartition("/")[0] for key in curves if "/" in key})
    names = ["test", *(["panels"] if panels else []), *curve_sections, "model"]
    common = {"isGenerated": True, "deleted": False}
    sections = [
        {"uuid": name, "name": name, "display": True, "isReordered": False, **common}
        for name in dict.fromkeys(names)
    ]
    for section in sections:
        if section["name"] == "panels":
            # One card a line, high enough for the ten runs that MLflow shows in it.
            section |= {"columns": 1, "cardHeight": 1150}
    bars = [
        {
            "type": "BAR",
            "uuid": f"bar-{name}",
            "metricSectionId": "test",
            "metricKey": f"test/{name}",
            "displayName": f"{name} ({'lower' if better == 'lower' else 'higher'} is better)",
            "runsCountToCompare": 100,
            **common,
        }
        for name, better in METRICS.items()
    ]
    images = [
        {
            "type": "IMAGE",
            "uuid": key,
            "metricSectionId": "panels",
            "imageKeys": [key],
            "step": 0,
            "showRunParams": False,
            "runsCountToCompare": 100,
            **common,
        }
        for key in panels
    ]
    return {
        "compareRunCharts": [*bars, *images],
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }


def panel_key(path: Path) -> str:
    """Name under which the chart view grids a panel of all runs."""
    return "panels/" + re.sub(r"[^\w\-. ]", "_", path.stem, flags=re.ASCII)
