"""Settings, studies and runs, resolved while Snakemake parses; helpers of the rules.

Nothing here reads an image or imports torch: parsing stays under a second or two.
"""

import glob
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from fadepth.cli import load_preset
from fadepth.config import find_benchmark, parse_config
from fadepth.data.prepare import benchmark_identity, benchmark_place
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import find_protocol
from fadepth.fingerprint import code_fingerprint
from fadepth.report import NO_LATEX, REPORT_CODE, in_order, template_digest
from fadepth.report.measures import costs_file, files_of
from fadepth.run import TRAINED, odometry_identity
from fadepth.study import (
    config_with_benchmark,
    missing_benchmark,
    resolve_and_leave_out,
    unique_runs,
)

# `configfile:` would lay --configfile over quick.yaml and mix two presets, so the preset is read
# here: the files of --configfile, or quick.yaml, with the values of --config on top.
PRESETS = [
    os.path.relpath(preset) for preset in workflow.overwrite_configfiles or ["config/quick.yaml"]
]
OVERRIDES = dict(workflow.config_settings.config)

try:
    PRESET = load_preset([Path(preset) for preset in PRESETS], json.dumps(OVERRIDES))
    CONFIG = parse_config(*PRESET)
    # Tables whose data the preset lacks, with the reason.
    STUDIES, LEFT_OUT = resolve_and_leave_out(Path("ablations"), *PRESET, OVERRIDES)
except FadepthError as error:
    raise WorkflowError(str(error))

RUNS = unique_runs(STUDIES.values())

# What `reports/all` makes: tables whose data are there; a PDF where there is LaTeX.
for table, study in STUDIES.items():
    if reason := missing_benchmark(study, Path.cwd()):
        LEFT_OUT[table] = reason
ALL_TABLES = in_order(table for table in STUDIES if table not in LEFT_OUT)
FACTORIAL_STUDIES = [t.removeprefix("table_") for t in ALL_TABLES if STUDIES[t].file.factors]
LATEX = shutil.which("pdflatex")

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
# What has to run alone takes all of them.
TRAIN_SLOTS = workflow.global_resources["train_slot"].value

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
    dataset=r"[^/]+-[0-9a-f]{10}",
    teacher=r"hqdec[a-z0-9_]*-s\d+-[0-9a-f]{10}",
    student=r"(?!hqdec|official_|constant-|row_median-|pixel_median-)[a-z0-9_]+-s\d+-[0-9a-f]{10}",
    network=r"(?!official_|constant-|row_median-|pixel_median-)[a-z0-9_]+-s\d+-[0-9a-f]{10}",
    baseline=r"(constant|row_median|pixel_median|official_[a-z0-9_]+)-s\d+-[0-9a-f]{10}",
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


def data_of(run_id):
    """The manifest of the frames that a run is trained and evaluated on."""
    return f"data/{run_of(run_id).data_folder}/manifest.jsonl"


def targets_of(wildcards):
    """The teacher's predictions, for students that APX trains."""
    teacher = run_of(wildcards.student).teacher
    return [f"runs/{teacher.id}/targets.npy"] if teacher else []


def study_of(table):
    """The study that feeds a table; a sentence where there is none, or no data for it."""
    if table in LEFT_OUT:
        raise WorkflowError(LEFT_OUT[table])
    if table not in STUDIES:
        raise WorkflowError(f"no study feeds '{table}': there are {', '.join(STUDIES)}")
    return STUDIES[table]


def results_of(table):
    """All that a table shows: results of its runs, costs, and published values."""
    study = study_of(table)
    files = [f"runs/{run.id}/{name}" for run in study.runs for name in files_of(study, run)]
    if "costs" in study.file.columns:
        files.append(str(costs_file(study.file.table)))
    files += glob.glob(f"ablations/paper/{study.file.table}.csv")
    return files


def models_of(wildcards):
    """The networks of a table: one run a row, since seeds share their network."""
    rows = [row for row in study_of(wildcards.table).rows if row.runs[0].kind in TRAINED]
    return [f"runs/{row.runs[0].id}/model.pt" for row in rows]


def measures_of(table):
    """Metrics and robustness of all students of a study."""
    return [
        f"runs/{run.id}/{name}"
        for run in study_of(table).students
        for name in ("metrics.json", "robustness.json", "robustness_per_image.csv")
    ]


def teacher_of(wildcards):
    """The teacher that a student's predictions are compared with, where a study has one."""
    for study in STUDIES.values():
        for run in study.students:
            if run.id == wildcards.student:
                if teacher := study.teacher_of(run):
                    return [f"runs/{teacher.id}/model.pt"]
    return []


def told(function, *arguments):
    """The function's value; bad input as Snakemake's own error, without a traceback."""
    try:
        return function(*arguments)
    except FadepthError as error:
        raise WorkflowError(str(error))


def benchmark_of(run_id, name):
    """Settings of a benchmark for a run; a sentence for one that the preset does not have."""
    return told(find_benchmark, run_of(run_id).config, name)


def benchmark_manifest(wildcards):
    """The manifest of a benchmark; presets may call benchmarks of different folders the same."""
    place = benchmark_place(benchmark_of(wildcards.network, wildcards.benchmark), Path.cwd())
    return f"data/benchmarks/{wildcards.benchmark}-{place}.jsonl"


def benchmark_at(name, place):
    """Identity of the benchmark of that name whose manifest's name ends in `place`."""
    config = config_with_benchmark(STUDIES.values(), name, place, Path.cwd())
    if config is None:
        raise WorkflowError(f"no preset has a benchmark '{name}' at {place}")
    return told(benchmark_identity, config.benchmarks[name], Path.cwd())


def real_frames(name):
    """Whether the small set of real frames of that name is there, for pictures."""
    return (Path(os.environ.get("FADEPTH_TEST_DATA") or "../shared") / f"{name}_mini").is_dir()


def own_networks():
    """Networks trained on the preset's own frames, at its own size."""
    return [run for run in RUNS.values() if run.kind in TRAINED and run.config.data == CONFIG.data]


def rows_of(study):
    """What a report is made of beside its inputs: a change of these makes it stale."""
    return {
        "study": study.file.model_dump(mode="json"),
        "rows": [[row.label, row.kind, [run.id for run in row.runs]] for row in study.rows],
        "code": code_fingerprint(REPORT_CODE),
        "templates": template_digest(),
        # Words of the preset and of protocols that tables print.
        "titles": [
            [name, settings.title, find_protocol(settings.protocol).title]
            for name, settings in study.config.benchmarks.items()
        ],
    }


def tell_what_was_left_out():
    """Say which reports this preset or machine cannot make, and why."""
    for table, reason in LEFT_OUT.items():
        print(f"{table} is not part of reports/all: {reason}", file=sys.stderr)
    if not LATEX:
        print(f"reports/tables.pdf is not part of reports/all: {NO_LATEX}", file=sys.stderr)


def mirror_to_mlflow():
    """Replay runs/ into MLflow; tell of a failure, and go on."""
    subprocess.run(f"{FADEPTH} track {FLAGS}", shell=True, check=False)
