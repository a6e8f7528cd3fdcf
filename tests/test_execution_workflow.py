"""What the package asks of Snakemake, and what it changes in it."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.scheduling.job_scheduler import JobRateLimiter, JobScheduler
from snakemake.settings.types import MaxJobsPerTimespan

from fadepth.execution.workflow import calm_scheduler, mirrored_since


def test_scheduler_looks_again_only_where_the_limit_holds_jobs_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[float] = []
    monkeypatch.setattr(
        JobScheduler, "_schedule_reevalutation", lambda _, delay: looks.append(delay)
    )
    calm_scheduler()
    limiter = JobRateLimiter(MaxJobsPerTimespan(2, "1h"))
    scheduler = SimpleNamespace(job_rate_limiter=limiter)
    look_later = JobScheduler._schedule_reevalutation
    limiter.register_jobs(1)
    look_later(scheduler, limiter.timespan)
    assert not looks  # one more may start at once: the end of a job is when to look
    limiter.register_jobs(1)
    look_later(scheduler, limiter.timespan)
    assert looks == [3600]
    look_later(scheduler, 10)  # waits for a queue of input files
    look_later(SimpleNamespace(job_rate_limiter=None), 1)
    assert looks == [3600, 10, 1]


def test_snakemake_still_has_what_is_calmed() -> None:
    """Else `calm_scheduler` does nothing: look whether Snakemake has become calm by itself."""
    assert callable(JobScheduler._schedule_reevalutation)


def test_runs_are_mirrored_where_links_are_of_this_call_and_newer(tmp_path: Path) -> None:
    links, runs = tmp_path / "mlflow.json", tmp_path / "runs"
    metrics = runs / "a" / "metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text("{}")
    os.utime(metrics, (100, 100))
    assert not mirrored_since(links, runs, 50)  # absent
    links.write_text(json.dumps({"a": "http://127.0.0.1:5000/#/experiments/1/runs/2"}))
    os.utime(links, (110, 110))
    assert mirrored_since(links, runs, 50)
    assert not mirrored_since(links, runs, 111)  # of another call, perhaps into another store
    os.utime(metrics, (120, 120))
    assert not mirrored_since(links, runs, 50)  # a run went on after that
    os.utime(metrics, (100, 100))
    links.write_text("{}")
    os.utime(links, (110, 110))
    assert not mirrored_since(links, runs, 50)  # MLflow had failed
    links.write_text("[")
    assert not mirrored_since(links, runs, 50)
