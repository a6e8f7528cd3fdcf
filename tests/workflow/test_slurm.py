"""A study on a real Slurm of one node, one of its jobs cancelled: the same as a study at home.

`slurm_node.sh` starts the node, as root on Debian with slurm-wlm and munge (`make services`).
Elsewhere only what a dry run shows is tested.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from project import Project
from studies import EARLY, EPOCH, PRESET, TABLE, make_two_rows, planned, weights

pytest.importorskip("snakemake_executor_plugin_slurm")


def profile(repository: Path) -> tuple[str, ...]:
    """profiles/slurm, and what a node without accounting needs."""
    options = {"--workflow-profile": str(repository / "profiles" / "slurm")}
    options |= {"--slurm-status-command": "squeue"}
    options |= {"--slurm-init-seconds-before-status-checks": "3"}
    return tuple(word for option in options.items() for word in option)


# What a dry run shows


def test_profile_asks_slurm_for_what_this_machine_lacks(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FADEPTH_DEVICES", "")
    project = make_two_rows(tmp_path / "study", repository, columns="costs")
    plan = project.snakemake(TABLE, *PRESET, *profile(repository), "--dry-run").stdout

    trainings = planned(plan, "train_student")
    assert len(trainings) == 2, plan
    assert all("gpu=1" in job and "cpus_per_task=9" in job for job in trainings)
    (evaluation, _) = planned(plan, "evaluate_run")
    assert "gpu=1" not in evaluation and "runtime=120" in evaluation
    # By itself it takes all cores and slots of the submitting machine.
    (costs,) = planned(plan, "measure_costs")
    assert "train_slot=1," in costs and "threads" not in costs and "--exclusive" in costs


@pytest.mark.parametrize("value", ["$(touch it)", "`touch it`", '"two words"', "it\\'s"])
def test_settings_in_which_a_shell_would_act_are_refused(
    tmp_path: Path, repository: Path, value: str
) -> None:
    """They would reach the job changed, or be carried out by `sbatch --wrap`."""
    project = make_two_rows(tmp_path / "study", repository)
    overrides = ("--config", f"data={{name: {value}}}")
    answer = project.snakemake(TABLE, *overrides, *profile(repository), "--dry-run")
    assert answer.returncode != 0
    assert "on a cluster --config must be free of quotes" in answer.stdout
    assert "--config must be" not in project.snakemake(TABLE, *overrides, "--dry-run").stdout


# What a real one does


@pytest.fixture(scope="module")
def slurm(repository: Path) -> Iterator[None]:
    """A running Slurm; left as it was found."""

    def node(verb: str) -> subprocess.CompletedProcess[str]:
        script = repository / "tests" / "workflow" / "slurm_node.sh"
        command = ["bash", str(script), verb]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    # There is one Slurm a machine, and other checkouts may be tested at the same time.
    with FileLock("/var/tmp/fadepth-slurm.lock"):
        ran_before = node("status").returncode == 0
        started = node("start")
        if started.returncode == 77:
            pytest.skip(started.stderr.strip())
        assert started.returncode == 0, started.stderr
        yield
        if not ran_before:
            stopped = node("stop")
            assert stopped.returncode == 0, stopped.stderr


@dataclass(frozen=True)
class SlurmJob:
    """What squeue knows of a job: `rule` and `wildcards` are the plugin's comment."""

    number: str
    state: str
    rule: str
    wildcards: str
    tres: str


def slurm_jobs(project: Project) -> list[SlurmJob]:
    """All jobs that were submitted in a project's folder."""
    columns = "JobID:|,State:|,WorkDir:|,Comment:|,tres-per-job:|"
    command = ["squeue", "--noheader", "--states=all", "--sort=i", f"--Format={columns}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    jobs = []
    for line in listed.splitlines():
        number, state, folder, comment, tres, _ = line.split("|")
        if folder == str(project.folder):
            rule, _, wildcards = comment.removeprefix("rule_").partition("_wildcards_")
            jobs.append(SlurmJob(number, state, rule, wildcards, tres))
    return jobs


def cancel_in_the_middle(project: Project, snakemake: subprocess.Popen[bytes]) -> SlurmJob:
    """Wait until the second row's training is in its first epoch, and cancel its job."""
    while snakemake.poll() is None:
        for log in project.folder.glob("runs/border*/train.log"):
            steps = re.findall(r"step (\d+)/", log.read_text(encoding="utf-8"))
            if steps and int(steps[-1]) >= EARLY:
                (job,) = (job for job in slurm_jobs(project) if job.wildcards == log.parent.name)
                subprocess.run(["scancel", job.number], check=True)
                return job
        time.sleep(0.1)
    raise AssertionError("Snakemake ended before a training could be cancelled")


@dataclass(frozen=True)
class Cluster:
    """The study on Slurm, and the same at home."""

    project: Project
    cancelled: SlurmJob
    jobs: list[SlurmJob]
    output: str
    home: Project


@pytest.fixture(scope="module")
def cluster(slurm: None, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Make the table through sbatch, with one training cancelled; then without Slurm."""
    folder = tmp_path_factory.mktemp("slurm")
    project = make_two_rows(folder / "cluster", repository)
    command = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    command += [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "Snakefile")]
    command += [TABLE, *PRESET, *profile(repository)]
    log = folder / "snakemake.log"
    with log.open("wb") as file:
        snakemake = subprocess.Popen(
            command, cwd=project.folder, env=project.environment, stdout=file, stderr=file
        )
        try:
            cancelled = cancel_in_the_middle(project, snakemake)
        finally:
            status = snakemake.wait()
    output = log.read_text(encoding="utf-8")
    assert status == 0, output
    home = make_two_rows(folder / "home", repository)
    result = home.snakemake(TABLE, *PRESET)
    assert result.returncode == 0, result.stdout
    return Cluster(project, cancelled, slurm_jobs(project), output, home)


@pytest.mark.slow
def test_every_heavy_job_goes_through_slurm(cluster: Cluster) -> None:
    done = sorted(job.rule for job in cluster.jobs if job.state == "COMPLETED")
    # The table is made where Snakemake runs.
    assert done == ["evaluate_run"] * 2 + ["prepare_data"] + ["train_student"] * 2
    assert (cluster.project.folder / TABLE).exists()


@pytest.mark.slow
def test_trainings_and_nothing_else_get_a_gpu(cluster: Cluster) -> None:
    tres = {(job.rule == "train_student", job.tres) for job in cluster.jobs}
    assert tres == {(True, "gres:gpu:1"), (False, "N/A")}


@pytest.mark.slow
def test_the_submitting_machine_does_not_limit_how_many_train_at_once(cluster: Cluster) -> None:
    """It was given one core: at home, one training after the other."""
    assert "Execute 2 jobs..." in cluster.output


@pytest.mark.slow
def test_cancelled_training_saves_its_state_and_is_retried_from_there(cluster: Cluster) -> None:
    project, run = cluster.project, cluster.cancelled.wildcards
    states = [job.state for job in cluster.jobs if job.wildcards == run][:2]
    assert states == ["CANCELLED", "COMPLETED"]
    # Slurm keeps the log of a job that failed.
    place = f"logs/slurm/rule_train_student/{run}/{cluster.cancelled.number}.log"
    assert "CANCELLED" in (project.folder / place).read_text(encoding="utf-8")
    log = (project.folder / "runs" / run / "train.log").read_text(encoding="utf-8")
    resumed = re.search(r"resuming at step (\d+)", log)
    assert resumed and EARLY <= int(resumed[1]) < EPOCH, log


@pytest.mark.slow
def test_results_are_those_of_an_undisturbed_run_at_home(cluster: Cluster) -> None:
    found, expected = weights(cluster.project.folder), weights(cluster.home.folder)
    assert len(expected) == 2 and found == expected
    assert (cluster.project.folder / TABLE).read_text() == (cluster.home.folder / TABLE).read_text()


# The node's script


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_slurm_is_not_started_by_another_than_root(repository: Path) -> None:
    script = (repository / "tests" / "workflow" / "slurm_node.sh").read_text(encoding="utf-8")
    command = ["runuser", "--user", "nobody", "--", "bash", "-s", "start"]
    answer = subprocess.run(
        command, input=script, cwd="/", capture_output=True, text=True, check=False
    )
    assert answer.returncode == 77
    assert len(answer.stderr.splitlines()) == 1
