"""profiles/kubernetes, with a stand-in for kubectl whose pods are processes of this machine.

What only a real cluster can show is not tested: docs/cluster.md says what that is.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from project import Project
from studies import EARLY, EPOCH, PRESET, TABLE, make_two_rows, planned

pytest.importorskip("snakemake_executor_plugin_cluster_generic")

# Pods inherit nothing of who asks for them. As kubelet does, only the first process is known.
KUBECTL = """\
#!{python}
import json, os, subprocess, sys
from pathlib import Path

jobs = Path(__file__).parent / "jobs"
verb, *arguments = sys.argv[1:]
if verb == "create":
    manifest = json.load(sys.stdin)
    name = manifest["metadata"]["generateName"] + str(len(list(jobs.iterdir())))
    folder = jobs / name
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    keep = '"$@" & echo $! > pid; wait $!; echo $? > exit'
    with (folder / "log").open("w") as log:
        subprocess.Popen(
            ["sh", "-c", keep, "sh", *container["command"]], cwd=folder, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, env={{"PATH": "/usr/bin:/bin"}}, start_new_session=True,
        )
    print(name)
elif verb == "get":
    code = jobs / arguments[1] / "exit"
    text = code.read_text().strip() if code.exists() else ""
    print(arguments[1], "1" if text == "0" else "", "1" if text not in ("", "0") else "", sep="/")
else:
    sys.exit(f"kubectl {{verb}} is not expected")
"""


def profile(repository: Path) -> tuple[str, str]:
    return "--workflow-profile", str(repository / "profiles" / "kubernetes")


def test_profile_plans_jobs_that_ask_for_gpus(tmp_path: Path, repository: Path) -> None:
    project = make_two_rows(tmp_path / "study", repository)
    plan = project.snakemake(TABLE, *PRESET, *profile(repository), "--dry-run").stdout
    trainings = planned(plan, "train_student")
    assert len(trainings) == 2, plan
    assert all("gpu=1" in job for job in trainings)


@dataclass(frozen=True)
class Cluster:
    """The study in pods: the run whose first pod was evicted, and what kubectl was asked for."""

    project: Project
    evicted: Path
    jobs: Path


@pytest.fixture(scope="module")
def cluster(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Make the table in pods, with that of one training evicted."""
    if not os.environ.get("FADEPTH_PODS"):
        pytest.skip("pods take a minute: set FADEPTH_PODS=1 to run them against a stand-in")
    folder = tmp_path_factory.mktemp("kubernetes")
    kubectl = folder / "bin" / "kubectl"
    jobs = folder / "bin" / "jobs"
    jobs.mkdir(parents=True)
    kubectl.write_text(KUBECTL.format(python=sys.executable), encoding="utf-8")
    kubectl.chmod(0o755)

    project = make_two_rows(folder / "cluster", repository)
    path = os.pathsep.join([str(kubectl.parent), project.environment["PATH"]])
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "Snakefile")]
    command += [TABLE, *PRESET, *profile(repository)]
    log = folder / "snakemake.log"
    with log.open("wb") as file:
        snakemake = subprocess.Popen(
            command,
            cwd=project.folder,
            env=project.environment | {"PATH": path},
            stdout=file,
            stderr=file,
        )
        try:
            evicted = evict_in_the_middle(project, jobs, snakemake)
        finally:
            status = snakemake.wait()
    assert status == 0, log.read_text(encoding="utf-8")
    return Cluster(project, evicted, jobs)


def evict_in_the_middle(project: Project, jobs: Path, snakemake: subprocess.Popen[bytes]) -> Path:
    """SIGTERM to the first process of the second row's pod, in its first epoch; its run folder."""
    while snakemake.poll() is None:
        for log in project.folder.glob("runs/border*/train.log"):
            steps = re.findall(r"step (\d+)/", log.read_text(encoding="utf-8"))
            if steps and int(steps[-1]) >= EARLY:
                (pod,) = (job for job in jobs.iterdir() if log.parent.name in script_of(job))
                os.kill(int((pod / "pid").read_text()), signal.SIGTERM)
                return log.parent
        time.sleep(0.1)
    raise AssertionError("Snakemake ended before a pod could be evicted")


def manifest_of(job: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((job / "manifest.json").read_text(encoding="utf-8"))
    return content


def script_of(job: Path) -> str:
    """The script of a job, which Snakemake removes once it has ended."""
    (container,) = manifest_of(job)["spec"]["template"]["spec"]["containers"]
    script = Path(container["command"][-1])
    return script.read_text(encoding="utf-8") if script.exists() else ""


@pytest.mark.slow
def test_trainings_ask_kubernetes_for_a_gpu_and_a_day(cluster: Cluster) -> None:
    asked = {}
    for job in cluster.jobs.iterdir():
        spec = manifest_of(job)["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        rule = job.name.rstrip("0123456789")
        limits = container["resources"]["limits"]
        asked[rule] = (limits.get("nvidia.com/gpu"), spec["activeDeadlineSeconds"])
    assert asked == {
        "fadepth-prepare-data-": (None, 2 * 3600),
        "fadepth-train-student-": ("1", 24 * 3600),
        "fadepth-evaluate-run-": (None, 2 * 3600),
    }


@pytest.mark.slow
def test_evicted_training_saves_its_state_and_is_retried_from_there(cluster: Cluster) -> None:
    trainings = list(cluster.jobs.glob("fadepth-train-student-*"))
    failed = sorted((job / "exit").read_text().strip() != "0" for job in trainings)
    assert failed == [False, False, True]
    assert (cluster.project.folder / TABLE).exists()
    log = (cluster.evicted / "train.log").read_text(encoding="utf-8")
    resumed = re.search(r"resuming at step (\d+)", log)
    assert resumed and EARLY <= int(resumed[1]) < EPOCH, log
