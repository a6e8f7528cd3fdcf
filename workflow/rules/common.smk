"""Settings, studies and runs, resolved while Snakemake parses; helpers of the rules.

Nothing here reads an image or imports torch: parsing stays under a second or two.
"""

import glob
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from fadepth.cli import load_preset
from fadepth.config import find_benchmark
from fadepth.data.prepare import benchmark_identity, benchmark_place
from fadepth.errors import FadepthError
from fadepth.study import odometry_identity, resolve_all

# `configfile:` would lay --configfile over quick.yaml and mix two presets, so the preset is read
# here: the files of --configfile, or quick.yaml, with the values of --config on top.
PRESETS = [
    os.path.relpath(preset) for preset in workflow.overwrite_configfiles or ["config/quick.yaml"]
]
OVERRIDES = dict(workflow.config_settings.config)

try:
    STUDIES = resolve_all(
        Path("ablations"), *load_preset([Path(preset) for preset in PRESETS], json.dumps(OVERRIDES))
    )
except FadepthError as error:
    raise WorkflowError(str(error))

RUNS = {run.id: run for study in STUDIES.values() for run in study.runs}
CONFIG = next(iter(STUDIES.values())).config
DATA_HASH = next(iter(STUDIES.values())).data_hash
MANIFEST = f"data/{CONFIG.data.name}-{DATA_HASH}/manifest.jsonl"

# The commands resolve the same preset again and check that the run's hash is the same.
FLAGS = shlex.join(
    [flag for preset in PRESETS for flag in ("--preset", preset)]
    + (["--override", json.dumps(OVERRIDES)] if OVERRIDES else [])
)
FADEPTH = shlex.quote(sys.executable) + " -m fadepth"

# `--cores 8` on two cores must not start eight trainings: a training holds one train_slot, and
# there are as many as this process may use cores. `--resources train_slot=N` says otherwise.
if "train_slot" not in workflow.global_resources:
    workflow.register_resource("train_slot", len(os.sched_getaffinity(0)))

# Trainings take the first GPU, one at a time, where there is one.
GPU = int(CONFIG.training.device != "cpu" and bool(glob.glob("/dev/nvidia[0-9]*")))
if GPU and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", 1)

# Jobs inherit these: libgomp's spinning threads ruin each other on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["PYTHONPATH"] = os.pathsep.join(
    [workflow.basedir, *filter(None, [os.environ.get("PYTHONPATH")])]
)


wildcard_constraints:
    teacher=r"hqdecv2-s\d+-[0-9a-f]{10}",
    student=r"(?!hqdecv2-|constant-|row_median-|pixel_median-)[a-z0-9_]+-s\d+-[0-9a-f]{10}",
    network=r"(?!constant-|row_median-|pixel_median-)[a-z0-9_]+-s\d+-[0-9a-f]{10}",
    baseline=r"(constant|row_median|pixel_median)-s\d+-[0-9a-f]{10}",
    table=r"table_[a-z0-9_]+",
    study=r"[a-z0-9_]+",
    benchmark=r"[a-z0-9_]+",
    place=r"[0-9a-f]{6}",
    sequence=r"[0-9]{2}",


def run_of(run_id):
    """The run of that id; a sentence for one that no study asks for."""
    if run_id not in RUNS:
        raise WorkflowError(f"no study in ablations/ gives a run '{run_id}' with {FLAGS}")
    return RUNS[run_id]


def targets_of(wildcards):
    """The teacher's predictions, for students that APX trains."""
    teacher = run_of(wildcards.student).teacher
    return [f"runs/{teacher.id}/targets.npy"] if teacher else []


def study_of(table):
    """The study that feeds a table; a sentence where there is none."""
    if table not in STUDIES:
        raise WorkflowError(f"no study feeds '{table}': there are {', '.join(STUDIES)}")
    return STUDIES[table]


def metrics_of(wildcards):
    """Metrics of all runs of a table."""
    return [f"runs/{run.id}/metrics.json" for run in study_of(wildcards.table).runs]


def measures_of(wildcards):
    """Metrics and robustness of all students of a study."""
    return [
        f"runs/{run.id}/{name}.json"
        for run in study_of(f"table_{wildcards.study}").students
        for name in ("metrics", "robustness")
    ]


def teacher_of(wildcards):
    """The teacher that a student's predictions are compared with, where its study has one."""
    for study in STUDIES.values():
        for run in study.students:
            if run.id == wildcards.student:
                teacher = study.teacher_of(run)
                return [f"runs/{teacher.id}/model.pt"] if teacher else []
    return []


def told(function, *arguments):
    """The function's value; bad input as Snakemake's own error, without a traceback."""
    try:
        return function(*arguments)
    except FadepthError as error:
        raise WorkflowError(str(error))


def benchmark_of(name):
    """Settings of a benchmark; a sentence for one that the preset does not have."""
    return told(find_benchmark, CONFIG, name)


def benchmark_manifest(wildcards):
    """The manifest of a benchmark; presets may call benchmarks of different folders the same."""
    place = benchmark_place(benchmark_of(wildcards.benchmark), Path.cwd())
    return f"data/benchmarks/{wildcards.benchmark}-{place}.jsonl"


def rows_of(study):
    """What a report's rows are made of: a change of these makes it stale."""
    return {"rows": [[row.label, row.kind, [run.id for run in row.runs]] for row in study.rows]}


def mirror_to_mlflow():
    """Replay runs/ into MLflow; tell of a failure, and go on."""
    subprocess.run(f"{FADEPTH} track {FLAGS}", shell=True, check=False)
