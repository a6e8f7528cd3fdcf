"""What the workflow costs beside its work: the start of every rule's command, and Snakemake itself.

A number is CPU seconds of a process, of what it starts and of the system on its behalf: unlike the
clock they stay nearly the same while the machine does other things. Everything is measured in
turns, round after round; a number is the median over the rounds, with the smallest and the largest.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fadepth.bench.spread import Spread
from fadepth.errors import FadepthError
from fadepth.fingerprint import PACKAGE
from fadepth.study import Study

#: Packages that take long to import, as `sys.modules` names them.
HEAVY = ("torch", "numpy", "scipy", "pandas", "matplotlib", "PIL", "jinja2", "mlflow", "snakemake")

_CHECKOUT = PACKAGE.parent

#: A command as its rule runs it (`python -m fadepth ...`), but with a way out where its work is:
#: the function that holds the work is replaced as soon as its module has been imported. What is
#: imported later, inside that function, is not seen.
_UNTIL_WORK = """
import importlib.util, json, sys

place, name, *words = sys.argv[1:]

def end(*_, **__):
    print(json.dumps(sorted({module.partition(".")[0] for module in sys.modules})), flush=True)
    raise SystemExit

class Finder:
    def find_spec(self, module, path=None, target=None):
        if module != place:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(module)
        load = spec.loader.exec_module
        def load_and_replace(loaded):
            load(loaded)
            setattr(loaded, name, end)
        spec.loader.exec_module = load_and_replace
        return spec

sys.meta_path.insert(0, Finder())
sys.argv = ["fadepth", *words]
from fadepth.cli import main
main()
"""

#: Rules, their command, and the function that does its work.
_COMMANDS = (
    ("prepare_data", "data manifest --output {out}", "execution.data:prepare_data_of"),
    (
        "prepare_benchmark",
        "data benchmark any --output {out}",
        "execution.data:prepare_benchmark_of",
    ),
    (
        "train_student train_teacher",
        "train {student} --manifest {out}",
        "execution.train:train_run",
    ),
    (
        "predict_teacher",
        "predict-targets {teacher} --manifest {out} --output {out}",
        "execution.train:predict_teacher",
    ),
    (
        "evaluate_run evaluate_baseline",
        "evaluate {student} --manifest {out}",
        "execution.evaluate:evaluate_run",
    ),
    (
        "evaluate_robustness",
        "robustness {student} --manifest {out}",
        "execution.evaluate:measure_robustness",
    ),
    ("evaluate_grid", "grid {student}", "execution.evaluate:evaluate_grid"),
    (
        "evaluate_benchmark",
        "benchmark {student} any --manifest {out} --trained-on {out}",
        "execution.evaluate:evaluate_benchmark",
    ),
    (
        "evaluate_odometry",
        "odometry {student} 09 --trained-on {out}",
        "execution.evaluate:evaluate_odometry",
    ),
    ("measure_costs", "costs {table} --output {out}", "execution.costs:measure_costs"),
    ("render_table", "table {table} --output {out}", "execution.tables:render_table"),
    ("render_effects", "effects {table} --output {out}", "execution.tables:render_effects"),
    ("compile_tables", "pdf {out} --output {out}", "execution.tables:compile_tables"),
    ("draw_masks", "masks street --output {out}", "report.mask_figure:draw_masks"),
    ("draw_lidar", "lidar street --output {out}", "report.lidar_figure:draw_lidar"),
    (
        "draw_qualitative",
        "qualitative {student} --manifest {out} --output {out}",
        "execution.qualitative:draw_comparison",
    ),
    ("draw_pareto", "pareto {table} --output {out}", "execution.figures:draw_costs"),
    ("draw_effects", "forest {table} --output {out}", "execution.figures:draw_effects"),
    (
        "draw_report_method_figures draw_method_figures",
        "figures --output {out}",
        "report.method:draw_method_figures",
    ),
    ("link_runs", "track --links {out}", "execution.track:track_and_link"),
    ("render_report", "report --output {out}", "execution.report:render_report"),
)
#: Commands without settings.
_PLAIN = {"pdf", "masks", "lidar", "figures"}


@dataclass(frozen=True)
class RuleCommand:
    """What some rules run.

    Attributes:
        rules: names of the rules.
        words: the command, after `fadepth`.
        work: where its work is: the module and the name of a function.
    """

    rules: tuple[str, ...]
    words: tuple[str, ...]
    work: tuple[str, str]


class Way(NamedTuple):
    """What is started: a name for people, arguments of Python, and where."""

    name: str
    arguments: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class StartUp:
    """A command from its start until its work would begin, and its end.

    Attributes:
        rules: names of the rules that run it.
        command: its first word or two.
        seconds: CPU seconds.
        heavy: which of `HEAVY` it has imported by then.
    """

    rules: tuple[str, ...]
    command: str
    seconds: Spread
    heavy: tuple[str, ...]


@dataclass(frozen=True)
class SnakemakeCost:
    """CPU seconds of Snakemake itself.

    Attributes:
        target: what was planned.
        jobs: as many jobs has it.
        start: `snakemake --version`.
        plan: `snakemake --dry-run TARGET`: start, studies, DAG, and what each job would be.
        each_job: a job whose shell does nothing, that shell included, where there are `jobs_tried`.
        jobs_tried: of that trial.
    """

    target: str
    jobs: int
    start: Spread
    plan: Spread
    each_job: Spread
    jobs_tried: int


@dataclass(frozen=True)
class WorkflowReport:
    """What was measured, on what.

    Attributes:
        machine: processor, cores, threads and versions.
        rounds: turns of everything.
        python: `python -c pass`.
        torch: `python -c "import torch"`.
        help: `fadepth --help`.
        commands: the rules' commands.
        snakemake: Snakemake itself.
    """

    machine: dict[str, Any]
    rounds: int
    python: Spread
    torch: Spread
    help: Spread
    commands: list[StartUp]
    snakemake: SnakemakeCost

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def rule_commands(studies: Mapping[str, Study], flags: Sequence[str]) -> list[RuleCommand]:
    """The commands of all rules, on runs and a table of these studies.

    Args:
        studies: a student and a teacher are looked for in them.
        flags: `--preset` and `--override`, as the workflow passes them.

    Raises:
        FadepthError: the studies have no student or no teacher.
    """
    runs = [run for study in studies.values() for row in study.rows for run in row.runs]
    names = {"table": next(iter(studies), ""), "out": "absent"}
    for kind in ("student", "teacher"):
        found = next((run.id for run in runs if run.kind == kind), None)
        if found is None:
            raise FadepthError(f"the studies have no {kind} whose commands could be started")
        names[kind] = found
    commands = []
    for rules, command, work in _COMMANDS:
        words = command.format_map(names).split()
        settings = () if words[0] in _PLAIN else flags
        module, _, function = work.partition(":")
        commands.append(
            RuleCommand(tuple(rules.split()), (*words, *settings), (f"fadepth.{module}", function))
        )
    return commands


def packages_until_work(command: RuleCommand, folder: Path) -> set[str]:
    """Top-level packages that a command has imported when its work would begin.

    Args:
        command: a rule's command.
        folder: where it is started: holds the studies and presets.

    Raises:
        FadepthError: the command fails before.
    """
    return _packages(_cpu_seconds(_until_work(command, folder))[1])


def measure_workflow(
    commands: Sequence[RuleCommand],
    folder: Path,
    snakemake: Sequence[str],
    *,
    target: str = "reports/all",
    rounds: int = 5,
    jobs: int = 60,
) -> WorkflowReport:
    """Measure the start of all commands, and Snakemake itself; takes some minutes.

    Args:
        commands: `rule_commands`.
        folder: where they are started: holds the studies and presets.
        snakemake: options that say which workflow with which presets, `--snakefile FILE ...`.
        target: what is planned.
        rounds: turns of everything.
        jobs: how many jobs that do nothing are tried.

    Raises:
        FadepthError: a command fails before its work, or Snakemake cannot plan.
    """
    from fadepth.bench.machine import machine  # imports torch, which the rest does not need

    plan = ("snakemake", target, "--dry-run", "--nolock", "--cores", "1", *snakemake)
    with tempfile.TemporaryDirectory(prefix="fadepth-bench-") as scratch:
        ways = {
            "python": Way("python -c pass", ("-c", "pass"), folder),
            "torch": Way("import torch", ("-c", "import torch"), folder),
            "help": Way("fadepth --help", ("-m", "fadepth", "--help"), folder),
            "start": Way("snakemake --version", ("-m", "snakemake", "--version"), folder),
            "plan": Way(" ".join(plan), ("-m", *plan), folder),
            "few": _idle_workflow(Path(scratch) / "few", 1),
            "many": _idle_workflow(Path(scratch) / "many", 1 + jobs),
        } | {command.rules[0]: _until_work(command, folder) for command in commands}
        seconds, told = _in_rounds(ways, rounds)
    return WorkflowReport(
        machine=machine(),
        rounds=rounds,
        python=Spread.of(seconds["python"]),
        torch=Spread.of(seconds["torch"]),
        help=Spread.of(seconds["help"]),
        commands=[
            StartUp(
                command.rules,
                _name(command),
                Spread.of(seconds[command.rules[0]]),
                tuple(name for name in HEAVY if name in _packages(told[command.rules[0]])),
            )
            for command in commands
        ],
        snakemake=SnakemakeCost(
            target=target,
            jobs=_planned_jobs(told["plan"]),
            start=Spread.of(seconds["start"]),
            plan=Spread.of(seconds["plan"]),
            each_job=Spread.of(
                [(m - f) / jobs for m, f in zip(seconds["many"], seconds["few"], strict=True)]
            ),
            jobs_tried=jobs,
        ),
    )


def _name(command: RuleCommand) -> str:
    """`data manifest`, `train`: what no argument is."""
    return " ".join(command.words[: 2 if command.words[0] == "data" else 1])


def _until_work(command: RuleCommand, folder: Path) -> Way:
    words = ("-c", _UNTIL_WORK, *command.work, *command.words)
    return Way(f"fadepth {' '.join(command.words)}", words, folder)


def _packages(told: str) -> set[str]:
    return set(json.loads(told.splitlines()[-1]))


def _in_rounds(
    ways: Mapping[str, Way], rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """CPU seconds of every way in every round, and what each printed."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    told = {}
    for _ in range(rounds):
        for name, way in ways.items():
            spent, told[name] = _cpu_seconds(way)
            seconds[name].append(spent)
    return seconds, told


def _cpu_seconds(way: Way) -> tuple[float, str]:
    """CPU seconds of a process and of all that it has waited for, and what it prints.

    Raises:
        FadepthError: it fails.
    """
    path = os.pathsep.join(filter(None, (str(_CHECKOUT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, *way.arguments],
            cwd=way.folder,
            env=os.environ | {"PYTHONPATH": path},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        told = output.read()
    if process.returncode:
        said = [line for line in told.splitlines() if line.strip()]
        raise FadepthError(
            f"'{way.name}' fails in {way.folder}, so its start cannot be measured: "
            f"{said[-1] if said else 'it says nothing'}"
        )
    return usage.ru_utime + usage.ru_stime, told


def _planned_jobs(told: str) -> int:
    """Jobs that a dry run has counted; 0 where nothing is to be done."""
    total = re.search(r"^total +(\d+)$", told, re.MULTILINE)
    return int(total[1]) if total else 0


_IDLE = """
rule all:
    input:
        expand("done/{{number}}", number=range({count})),

rule idle:
    output:
        touch("done/{{number}}"),
    log:
        "logs/{{number}}.log",
    threads: 1
    resources:
        train_slot=1,
    params:
        identity=lambda wildcards: {{"config": wildcards.number}},
    shell:
        ": > {{log:q}}"
"""


def _idle_workflow(folder: Path, count: int) -> Way:
    """A Snakemake with jobs like the workflow's, whose shells do nothing; anew every time."""
    folder.mkdir(parents=True)
    (folder / "Snakefile").write_text(_IDLE.format(count=count), encoding="utf-8")
    profile = _CHECKOUT / "profiles" / "default"
    options = ("--cores", "8", "--resources", "train_slot=2", "--forceall", "--nocolor")
    words = ("-m", "snakemake", *options, "--workflow-profile", str(profile))
    return Way(f"snakemake with {count} idle jobs", words, folder)
