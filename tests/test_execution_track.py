"""Which runs are shown in which MLflow experiment, and what a failing store may stop: nothing."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fadepth.execution.track import experiments_of, track_and_link, track_runs
from fadepth.tracking import open_store
from fadepth.tracking.folders import InStudy
from tests.report.fakes import study_of, write_run, write_runs
from tests.tracking.fakes import logged
from tests.tracking.fakes import write_run as write_other_run
from tests.tracking.servers import free_port

COMPONENTS = "components-synthetic_street-full"


def labels(study) -> dict[str, InStudy]:
    """What a study says of its runs: its own words, factors and baseline, the first row."""
    return {
        run.id: InStudy(row.label, row.factors, number == 0)
        for number, row in enumerate(study.rows)
        for run in row.runs
    }


def test_a_study_is_shown_in_the_order_of_its_table_and_older_runs_after_it(tmp_path: Path):
    study = study_of("components")
    write_runs(study, tmp_path, lambda run: 0.1)
    older = study_of("components", loss__smoothness_weight=0.5)
    write_runs(older, tmp_path, lambda run: 0.2)
    shown = experiments_of([study], tmp_path, everything=False)
    assert list(shown) == [COMPONENTS]
    assert dict(list(shown[COMPONENTS].items())[:12]) == labels(study)
    extra = set(labels(older)) - set(labels(study))
    assert len(extra) > 3
    # They keep the name that their own manifest tells.
    assert dict(list(shown[COMPONENTS].items())[12:]) == dict.fromkeys(sorted(extra))
    assert experiments_of([study], tmp_path, everything=True) == shown


def test_a_shared_run_is_shown_in_each_of_its_studies(tmp_path: Path):
    components, apx = study_of("components"), study_of("apx")
    for study in (components, apx):
        write_runs(study, tmp_path, lambda run: 0.1)
    shown = experiments_of([components, apx], tmp_path, everything=True)
    shared = set(labels(components)) & set(labels(apx))
    assert shared
    for study, experiment in zip((components, apx), shown.values(), strict=True):
        assert {i: experiment[i] for i in labels(study)} == labels(study)


def test_studies_of_one_name_do_not_share_an_experiment(tmp_path: Path):
    one = study_of("components")
    file = one.file.model_copy(update={"table": "table_other"})
    other = dataclasses.replace(one, file=file, rows=one.rows[:2])
    write_runs(one, tmp_path, lambda run: 0.1)
    shown = experiments_of([one, other], tmp_path, everything=False)
    assert {name: len(runs) for name, runs in shown.items()} == {
        "components (table_ablation)-synthetic_street-full": 12,
        "components (table_other)-synthetic_street-full": 2,
    }


def test_runs_of_no_study_are_shown_where_everything_is_asked_for(tmp_path: Path):
    study = study_of("components")
    write_runs(study, tmp_path, lambda run: 0.1)
    other = write_other_run(tmp_path, 1, "A", "student", {})
    assert list(experiments_of([study], tmp_path, everything=False)) == [COMPONENTS]
    shown = experiments_of([study], tmp_path, everything=True)
    assert shown["ablation-street-quick"] == {other: None}
    assert experiments_of([], tmp_path, everything=False) == {}
    assert set(experiments_of([], tmp_path, everything=True)) == set(shown)


def test_a_damaged_run_stops_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    study = study_of("components")
    write_runs(study, tmp_path, lambda run: 0.1)
    first = next(study.runs).id
    (tmp_path / first / "manifest.json").write_text('{"study": ')
    shown = experiments_of([study], tmp_path, everything=False)
    assert set(shown[COMPONENTS]) == set(labels(study)) - {first}
    assert f"{first}/manifest.json is damaged and left out" in caplog.text


def test_the_same_is_shown_by_whichever_command(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    runs, store = tmp_path / "runs", "sqlite:///mlflow.db"
    study = study_of("components")
    for run in list(study.runs)[:4]:
        write_run(run, runs, 0.1)
    older = list(study_of("components", loss__smoothness_weight=0.5).runs)
    write_run(next(run for run in older if run.kind == "student"), runs, 0.2)
    caplog.set_level(logging.INFO)
    track_runs([study], runs, store)
    assert "1 experiments: 5 created" in caplog.text
    before = _shown(store)
    for everything in (True, False):
        caplog.clear()
        track_runs([study], runs, store, everything=everything)
        assert "1 experiments: 5 unchanged" in caplog.text
        assert _shown(store) == before
    track_and_link([study], runs, store, tmp_path / "links.json")
    links = json.loads((tmp_path / "links.json").read_text())
    assert set(links) == set(before)
    for run_id, link in links.items():
        assert link.startswith("http://127.0.0.1:5000/#/experiments/")
        assert link.endswith("/runs/" + before[run_id]["mlflow_id"])


def _shown(store: str) -> dict[str, dict]:
    experiment = open_store(store).get_experiment_by_name(COMPONENTS)
    assert experiment is not None
    return logged(store, experiment.experiment_id)


def test_a_store_that_is_down_costs_a_report_its_links_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    study = study_of("components")
    write_run(next(study.runs), tmp_path / "runs", 0.1)
    store = f"http://me:secret@127.0.0.1:{free_port()}"
    track_and_link([study], tmp_path / "runs", store, tmp_path / "links.json")
    assert json.loads((tmp_path / "links.json").read_text()) == {}
    assert "the report has no links to MLflow" in caplog.text
    assert "Connection refused" in caplog.text
    assert "secret" not in caplog.text


def test_track_tells_of_a_store_that_is_down_in_one_sentence(tmp_path: Path, repository: Path):
    """The store is the one that MLflow's own variable names."""
    for name in ("config", "ablations"):
        (tmp_path / name).symlink_to(repository / name)
    write_other_run(tmp_path / "runs", 1, "A", "student", {})
    store = f"http://127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-m", "fadepth", "track", "--all"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository), "MLFLOW_TRACKING_URI": store},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"fadepth: the MLflow store {store} cannot be opened (Connection refused)" in done.stderr
