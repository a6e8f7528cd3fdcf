"""What each command imports before its work begins: no clock, only `sys.modules`.

A process that imports torch takes more than a second before it does anything, and a study starts a
hundred. `fadepth bench start-up` has the seconds.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fadepth.bench.workflow import (
    HEAVY,
    RuleCommand,
    packages_until_work,
    rule_commands,
)
from fadepth.cli.common import load_studies

#: What `fadepth --help` must not import either: settings are pydantic's, presets yaml's.
_NOT_FOR_HELP = {*HEAVY, "pydantic", "yaml", "sympy"}

_BASIC = {"numpy", "PIL"}  # images and arrays: known wherever studies are
_NETWORK = {*_BASIC, "torch"}
_EVALUATION = {*_NETWORK, "pandas"}  # tables for each image
_FIGURE = {*_BASIC, "matplotlib"}
_EFFECTS = {*_BASIC, "pandas", "scipy"}  # reads tables; Student's t
#: Rule -> heavy packages that its command may have imported when its work begins.
ALLOWED = {
    "prepare_data": _BASIC,
    "prepare_benchmark": _BASIC,
    "train_student": _NETWORK,
    "train_teacher": _NETWORK,
    "predict_teacher": _NETWORK,
    "evaluate_run": _EVALUATION,
    "evaluate_baseline": _EVALUATION,
    "evaluate_robustness": _EVALUATION,
    "evaluate_grid": _EVALUATION,
    "evaluate_benchmark": _EVALUATION,
    "evaluate_odometry": _EVALUATION,
    "measure_costs": {*_NETWORK, "scipy"},  # intervals of its times
    "render_table": _BASIC,
    "render_effects": _BASIC,
    "compile_tables": _BASIC,
    "draw_masks": {*_FIGURE, "torch", "scipy"},
    "draw_lidar": _FIGURE,
    "draw_qualitative": {*_EVALUATION, *_FIGURE, *_EFFECTS},
    "draw_pareto": {*_FIGURE, *_EFFECTS},
    "draw_effects": {*_FIGURE, *_EFFECTS},
    "draw_report_method_figures": {*_FIGURE, "torch"},
    "draw_method_figures": {*_FIGURE, "torch"},
    "link_runs": _BASIC,
    "render_report": {*_EFFECTS, "jinja2"},
}

_HELP = """
import sys
sys.argv = ["fadepth", "--help"]
from fadepth.cli import main
try:
    main()
finally:
    print("imported", *sorted({name.partition(".")[0] for name in sys.modules}))
"""

#: A training of a few steps, and what evaluations begin with.
_WORK = """
import sys
from pathlib import Path
from fadepth.checkpoint import Identity
from fadepth.models import fold
from fadepth.training import Job, Training, load_depth_network
from tests.tiny import tiny_config, tiny_manifest
root = Path(sys.argv[1])
(root / "run").mkdir()
manifest = tiny_manifest(root)
config = tiny_config(root, training__epochs=1, loss__pyramid__enabled=True)
identity = Identity("config", "data", "code")
Training(Job("tiny", "student", config, 1, identity, root / "run", manifest, root)).run()
fold(load_depth_network(root / "run" / "model.pt")[0])
print("imported", *sorted(name for name in sys.modules if name.count(".") < 2))
"""


@pytest.fixture(scope="module")
def commands(repository: Path) -> dict[str, RuleCommand]:
    """Rule -> its command, on the smoke preset."""
    before = Path.cwd()
    os.chdir(repository)
    try:
        studies = load_studies([Path("config/smoke.yaml")], "{}")
    finally:
        os.chdir(before)
    found = rule_commands(studies, ("--preset", "config/smoke.yaml"))
    return {rule: command for command in found for rule in command.rules}


def imported(repository: Path, source: str, *arguments: str) -> set[str]:
    """The words of the line that a program prints last."""
    told = subprocess.run(
        [sys.executable, "-c", source, *arguments],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = (told.stdout.splitlines() or [""])[-1].split()
    assert told.returncode == 0 and last[:1] == ["imported"], told.stderr[-2000:]
    return set(last[1:])


def test_help_imports_nothing_heavy(repository: Path) -> None:
    found = imported(repository, _HELP)
    assert "fadepth" in found
    assert not found & _NOT_FOR_HELP


def test_every_rule_that_calls_a_command_is_listed(
    repository: Path, commands: dict[str, RuleCommand]
) -> None:
    called = {}
    for file in (repository / "workflow" / "rules").glob("*.smk"):
        for rule in re.split(r"^rule ", file.read_text(), flags=re.MULTILINE)[1:]:
            if call := re.search(r'"python -m fadepth ((data )?[a-z-]+) ', rule):
                called[rule.partition(":")[0]] = call[1]
    assert called.keys() == commands.keys() == ALLOWED.keys()
    for rule, command in called.items():
        assert " ".join(commands[rule].words).startswith(f"{command} "), rule


#: The first rule of each command; others of the same command start in the same way.
_FIRST = [rule for rule in ALLOWED if rule not in ("train_teacher", "evaluate_baseline")]


@pytest.mark.parametrize("rule", [r for r in _FIRST if r != "draw_method_figures"])
def test_rule_imports_only_what_it_needs(
    repository: Path, commands: dict[str, RuleCommand], rule: str
) -> None:
    found = packages_until_work(commands[rule], repository)
    assert "fadepth" in found
    assert found & set(HEAVY) <= ALLOWED[rule]


def test_trainings_and_evaluations_do_not_import_the_compiler(
    repository: Path, tmp_path: Path
) -> None:
    """Torch imports it with sympy, a second of CPU, where one takes its usual ways."""
    found = imported(repository, _WORK, str(tmp_path))
    assert "torch.nn" in found
    assert not found & {"torch._dynamo", "torch._inductor", "sympy", "scipy", "pandas"}
