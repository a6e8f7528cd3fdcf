"""Settings, studies and runs, resolved while Snakemake parses; helpers of the rules.

Nothing here reads an image or imports torch: parsing stays under a second or two.
"""

import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from fadepth.cli import load_preset
from fadepth.config import expand as from_environment
from fadepth.config import find_benchmark, parse_config
from fadepth.data.prepare import (
    benchmark_identity,
    benchmark_place,
    benchmark_root,
    data_root,
)
from fadepth.data.watch import data_generation
from fadepth.devices import device_count
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import find_protocol
from fadepth.execution.workflow import calm_scheduler, mirrored_since, set_environment
from fadepth.fingerprint import PACKAGE, code_fingerprint
from fadepth.report import NO_LATEX, REPORT_CODE, in_order, template_digest
from fadepth.report.measures import costs_file, files_of
from fadepth.run import TRAINED, odometry_identity
from fadepth.study import (
    config_with_benchmark,
    missing_benchmark,
    resolve_and_leave_out,
    unique_runs,
)
from fadepth.survival import claim_folder, pass_on_termination

# `configfile:` would lay --configfile over quick.yaml and mix two presets, so the preset is read
# here: the files of --configfile, or quick.yaml, with the values of --config on top.
PRESETS = [
    os.path.relpath(preset) for preset in workflow.overwrite_configfiles or ["config/quick.yaml"]
]
OVERRIDES = dict(workflow.config_settings.config)

# Executors of clusters hand --config to jobs through shells, in which some signs act.
if workflow.global_resources["_nodes"].value is not None and re.search(
    r"""["'`$\\\n]""", " ".join(workflow.config_settings.config_args or [])
):
    raise WorkflowError(
        "on a cluster --config must be free of quotes, $, backticks, backslashes and line breaks: "
        "write such settings into a preset and name it with --configfile"
    )

try:
    PRESET = load_preset([Path(preset) for preset in PRESETS], json.dumps(OVERRIDES))
    CONFIG = parse_config(*PRESET)
    # Tables whose data the preset lacks, with the reason.
    STUDIES, LEFT_OUT = resolve_and_leave_out(Path("ablations"), *PRESET, OVERRIDES)
    GPUS = device_count(CONFIG.training.device)
except FadepthError as error:
    raise WorkflowError(str(error))

RUNS = unique_runs(STUDIES.values())

# What `reports/all` makes: tables whose data are there; a PDF where there is LaTeX.
for table, study in STUDIES.items():
    if reason := missing_benchmark(study, Path.cwd()):
        LEFT_OUT[table] = reason
ALL_TABLES = in_order(table for table in STUDIES if table not in LEFT_OUT)
FACTORIAL_STUDIES = [t.removeprefix("table_") for t in ALL_TABLES if STUDIES[t].file.is_factorial]
LATEX = shutil.which("pdflatex")

# The commands resolve the same preset again and check that the run's hash is the same.
FLAGS = shlex.join(
    [flag for preset in PRESETS for flag in ("--preset", preset)]
    + (["--override", json.dumps(OVERRIDES)] if OVERRIDES else [])
)

# `--cores 8` on two cores must not start eight trainings: a training holds one train_slot, and
# there are as many as this process may use cores. `--resources train_slot=N` says otherwise.
if "train_slot" not in workflow.global_resources:
    workflow.register_resource("train_slot", len(os.sched_getaffinity(0)))
# What has to run alone takes all of them.
TRAIN_SLOTS = workflow.global_resources["train_slot"].value

# A training holds one GPU, which it takes by a lock file (fadepth/devices.py), where there is one.
GPU = min(GPUS, 1)
if GPUS and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", GPUS)

BEGAN = time.time()

# A kill leaves no lock behind, and no job that goes on alone (docs/decisions/017).
if workflow.is_main_process:
    ALIVE = claim_folder(Path(".snakemake"))
    pass_on_termination()
    calm_scheduler()
set_environment(Path(workflow.basedir))


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


# Figures 1 to 3 are drawn by the networks, 4 shows masks, 5 to 7 show results.
METHOD_FIGURES = ["overview", "adacoeff_upsampler", "global_map"]
RESULT_FIGURES = {"qualitative": "table_kitti", "pareto": "table_complexity"}
RESULT_FIGURES |= {"effects": f"table_{study}" for study in FACTORIAL_STUDIES[:1]}
RESULT_FIGURES = {n: table for n, table in RESULT_FIGURES.items() if table in ALL_TABLES}


def flags(wildcards, threads):
    """Preset and overrides, for the command line of every job.

    Not compared by Snakemake, which leaves out params that ask for `threads`: what counts of them
    is in each run's identity, and a preset under another name is the same preset.
    """
    return FLAGS


def run_of(run_id):
    """The run of that id; a sentence for one that no study asks for."""
    if run_id not in RUNS:
        raise WorkflowError(f"no study in ablations/ gives a run '{run_id}' with {FLAGS}")
    return RUNS[run_id]


def data_of(run_id):
    """The manifest of the frames that a run is trained and evaluated on."""
    return f"data/{run_of(run_id).data_folder}/manifest.jsonl"


def longest_first(wildcards):
    """Priority of a student: by what makes its steps long, so that no long one is left for last."""
    config = run_of(wildcards.student).config
    etm = config.student.etm.branches != "off"
    return 1 + 4 * config.loss.pyramid.enabled + 2 * config.loss.apx.enabled + etm


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


def compared_teachers():
    """Student -> the teacher that its predictions are compared with, where a study has one."""
    found = {}
    for study in STUDIES.values():
        for run in study.students:
            if teacher := study.teacher_of(run):
                found.setdefault(run.id, teacher.id)
    return found


COMPARED_TEACHERS = compared_teachers()


def teacher_of(wildcards):
    """The weights of that teacher."""
    teacher = COMPARED_TEACHERS.get(wildcards.student)
    return [f"runs/{teacher}/model.pt"] if teacher else []


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
    """Identity and folder of the benchmark of that name whose manifest's name ends in `place`."""
    config = config_with_benchmark(STUDIES.values(), name, place, Path.cwd())
    if config is None:
        raise WorkflowError(f"no preset has a benchmark '{name}' at {place}")
    settings = config.benchmarks[name]
    return told(benchmark_identity, settings, Path.cwd()), benchmark_root(settings, Path.cwd())


def data_state(wildcards):
    """Identity of a data set, and a mark once its files have changed since they were checked."""
    configs = (run.config for run in RUNS.values() if run.data_folder == wildcards.dataset)
    config = next(configs, None)
    if config is None:
        raise WorkflowError(f"no study in ablations/ uses the data '{wildcards.dataset}'")
    identity = wildcards.dataset.rpartition("-")[2]
    manifest = Path("data") / wildcards.dataset / "manifest.jsonl"
    return identity + told(data_generation, manifest, data_root(config.data, Path.cwd()))


def benchmark_state(wildcards):
    """The same of a benchmark."""
    name, place = wildcards.benchmark, wildcards.place
    identity, root = benchmark_at(name, place)
    generation = told(data_generation, Path(f"data/benchmarks/{name}-{place}.jsonl"), root)
    return {"frames": identity, "generation": generation} if generation else identity


def real_frames(name):
    """Whether the small set of real frames of that name is there, for pictures."""
    return (Path(from_environment("${FADEPTH_TEST_DATA:-../shared}")) / f"{name}_mini").is_dir()


def report_figures():
    """Figures of the report page."""
    masked = [name for name in ("kitti", "ddad") if real_frames(name)] or ["street"]
    names = [*METHOD_FIGURES, *(f"masks_{name}" for name in masked), *RESULT_FIGURES]
    return [f"reports/figures/{name}.png" for name in names]


def model_of(wildcards):
    """The network that gives depth and motion, where the figure's name holds a run's id."""
    return [f"runs/{run_of(wildcards.by[1:]).id}/model.pt"] if wildcards.by else []


def modules_in(*folders):
    """Modules that lie in folders of the package, as `code_fingerprint` takes them."""
    return sorted(
        str(module.relative_to(PACKAGE))
        for folder in folders
        for module in (PACKAGE / folder).glob("*.py")
    )


def method_code():
    """Fingerprint of what the method's figures are drawn from.

    A function: to parse these modules takes time that other targets need not spend.
    """
    folders = ("report/method", "models", "losses", "data/synthetic")
    return code_fingerprint(modules_in(*folders) + ["evaluation/grid.py", "geometry.py"])


def compared_runs():
    """Ids of the student with everything on, and of the teacher, of table_kitti."""
    rows = STUDIES[RESULT_FIGURES["qualitative"]].rows
    students = [row for row in rows if row.kind == "variant"]
    teachers = [row for row in rows if row.kind == "teacher"]
    return [row.runs[0].id for row in (students[-1], *teachers[:1])]


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
    """Replay runs/ into MLflow; tell of a failure, and go on.

    Not again where `link_runs` has just done it: MLflow takes seconds to start.
    """
    if mirrored_since(Path("reports/mlflow.json"), Path("runs"), BEGAN):
        return
    subprocess.run([sys.executable, "-m", "fadepth", "track", *shlex.split(FLAGS)], check=False)
