"""The command line as its users meet it: helps, JSON, completion, pipes, errors, Ctrl-C."""

import contextlib
import errno
import json
import logging
import os
import pty
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import typer
from project import Project, make_project
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.testing import CliRunner

from fadepth import __version__, cli
from fadepth.cli import app, commands, ending, terminal
from fadepth.errors import FadepthError
from fadepth.files import json_object
from fadepth.models import SmallDepth
from tests.tiny import tiny_config
from tests.tracking.fakes import write_run

#: Only ends a test that would hang; no assertion.
PATIENCE = 300


def walk(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with the words that call it."""
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, (*words, name))


ROOT = typer.main.get_command(app)
EVERY = dict(walk(ROOT))
LEAVES = {words: command for words, command in EVERY.items() if isinstance(command, TyperCommand)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Project:
    """A folder with presets and studies, in which nothing has run."""
    return make_project(tmp_path_factory.mktemp("cli"), repository)


def call(*words: str, **options: Any) -> Any:
    """A command in this process."""
    return CliRunner().invoke(app, list(words), **options)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Commands send logs to this process's stderr, which other tests do not expect."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


# Helps


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
@pytest.mark.parametrize("width", [80, 120])
def test_help_is_in_words(words: tuple[str, ...], width: int) -> None:
    result = call(*words, "--help", env={"COLUMNS": str(width)})
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= width
    # Names of Python's types, of ranges, and what had no room.
    assert not re.search(r"<(bool|str|int|float|path|list)\b|x[<>]=|…", result.output)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_option_is_told_of(words: tuple[str, ...]) -> None:
    command = EVERY[words]
    assert re.match(r"[A-Z].*\.(\n\n|$)", command.help or ""), "a sentence of its own"
    for parameter in command.params:
        if isinstance(parameter, (TyperArgument, TyperOption)) and not parameter.hidden:
            told = parameter.help or ""
            assert told.endswith((".", "...", ".yaml.")) and not told[0].isspace(), parameter.name
    if isinstance(command, TyperGroup):
        assert all(below.help for below in command.commands.values())


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_examples_are_calls_of_the_command(words: tuple[str, ...]) -> None:
    """Every example is taken by the parser of the command, and by no other."""
    title, *lines = (LEAVES[words].epilog or "").splitlines()
    assert title == "Examples:" and lines
    for line in lines:
        start, program, *rest = shlex.split(line.replace("\\[", "["))
        assert (start, program) == ("$", "fadepth")
        assert tuple(rest[: len(words)]) == words
        given = rest[len(words) :]
        given = given[: given.index("|")] if "|" in given else given
        with LEAVES[words].make_context(words[-1], given):
            pass


def test_everyday_commands_come_first() -> None:
    text = call("--help", env={"COLUMNS": "80"}).output
    panels = re.findall(r"╭─ ([\w ]+?) ─", text)
    assert panels == [
        "Options", commands.ASK, commands.NETWORKS, commands.REPORTS, commands.DATA,
        commands.WORKFLOW,
    ]  # fmt: skip
    listed = re.findall(r"^│ ([a-z][\w-]*)  ", text, re.MULTILINE)
    assert sorted(listed) == sorted(name for words in EVERY if len(words) == 1 for name in words)
    assert listed[:2] == ["runs", "status"]


def test_names_of_options_mean_the_same_everywhere() -> None:
    metavars: dict[str, set[str | None]] = {}
    for words, command in LEAVES.items():
        for option in command.params:
            if isinstance(option, TyperOption):
                # A benchmark takes long and prints tables: its JSON goes into a file.
                name = f"bench {option.opts[0]}" if words[0] == "bench" else option.opts[0]
                metavars.setdefault(name, set()).add(option.metavar)
    for name in ("--json", "--preset", "--override", "--threads", "--log", "--size"):
        assert len(metavars[name]) == 1, (name, metavars[name])
    assert metavars["--json"] == {""} and metavars["bench --json"] == {"FILE"}
    assert metavars["--output"] == {"FILE", "FOLDER"}


def test_version_names_package_torch_and_commit(repository: Path) -> None:
    text = call("--version").output
    assert text.startswith(f"fadepth {__version__}") and f"torch {torch.__version__}" in text
    if (repository / ".git").exists():
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True
        )
        assert f"commit {commit.stdout[:10]}" in text


# JSON


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, as the working folder."""
    monkeypatch.chdir(project.folder)
    return project.folder


def as_json(*words: str) -> Any:
    """The JSON that a command prints: all of stdout, nothing else."""
    result = call(*words, "--json")
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def test_runs_as_json_has_each_run_once(here: Path) -> None:
    told = as_json("runs", "--preset", "config/smoke.yaml")
    listed = call("runs", "--preset", "config/smoke.yaml").output
    names = [run["run"] for run in told]
    assert len(names) == len(set(names)) > 10
    assert set(names) == set(re.findall(r"[a-z0-9_]+-s\d+-[0-9a-f]{10}", listed))
    assert {run["state"] for run in told} == {"waiting"}
    # What several tables show is said with each of them.
    assert max(len(run["rows"]) for run in told) > 1


def test_runs_of_one_table(here: Path) -> None:
    told = as_json("runs", "etm")
    assert told and all(row["table"] == "table_etm" for run in told for row in run["rows"])


def test_json_of_what_looks_at_studies(here: Path) -> None:
    assert as_json("status", "etm")["trainings"]["waiting"] > 0
    assert as_json("lint", "etm")[0]["level"] in ("error", "warning", "note")
    assert as_json("diff", "components", "apx")


def test_json_of_a_network_adds_up() -> None:
    told = as_json("describe", "smalldepth", "--depth", "2", "--size", "64x96")
    for network, title in ((SmallDepth("ac"), "in training"), (None, "folded, for inference")):
        parts = told["forms"][title]
        if network:
            expected = sum(p.numel() for p in network.parameters() if p.requires_grad)
            assert sum(part["parameters"] for part in parts) == expected
        assert sum(part["macs"] for part in parts) > 0


def test_gc_as_json_deletes_only_when_told(tmp_path: Path, repository: Path) -> None:
    project = make_project(tmp_path, repository)
    orphan = tmp_path / "runs" / "plain-s1-0123456789"
    orphan.mkdir(parents=True)
    (orphan / "manifest.json").write_text(
        json.dumps({"run_id": orphan.name, "status": "finished", "dataset": "x", "scale": "smoke"})
    )
    (orphan / "model.pt").write_bytes(bytes(1000))
    command = [sys.executable, "-m", "fadepth", "gc", "--json"]
    options: Any = {"cwd": tmp_path, "env": project.environment, "capture_output": True}
    listed = json.loads(subprocess.run([*command, "--dry-run"], check=True, **options).stdout)
    assert [item["paths"] for item in listed["free"]] == [[f"runs/{orphan.name}"]]
    assert listed["bytes"] >= 1000 and listed["freed_bytes"] == 0 and orphan.exists()
    untold = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, **options)
    assert untold.returncode == 2 and b"--yes" in untold.stderr and not untold.stdout
    assert orphan.exists()
    freed = json.loads(subprocess.run([*command, "--yes"], check=True, **options).stdout)
    assert freed["freed_bytes"] == listed["bytes"] and not orphan.exists()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A folder with a table of one cell, whose number comes from two runs."""
    content = {
        "cells": {
            "+ ETM": {
                "abs_rel": {
                    "value": 0.25,
                    "std": 0.05,
                    "from": "metrics.json",
                    "runs": {"etm-s1-0123456789": 0.2, "etm-s2-0123456789": 0.3},
                }
            }
        },
        "headers": {"Abs Rel ↓": "abs_rel"},
        "runs": {
            "etm-s1-0123456789": {"seed": 1, "commit": "abc"},
            "etm-s2-0123456789": {"seed": 2, "commit": "abc"},
            "plain-s1-0123456789": {"seed": 1},
        },
        "stamp": {"scale": "smoke", "dataset": "tiny", "protocol": "kitti_eigen_raw"},
    }
    (tmp_path / "table_x.provenance.json").write_text(json.dumps(content))
    (tmp_path / "table_x.csv").write_text("row,abs_rel,rmse\n")
    return tmp_path


def test_why_as_json_has_the_runs_of_the_cell(table: Path) -> None:
    told = as_json("why", "table_x", "+ etm", "Abs Rel", "--folder", str(table))
    assert (told["row"], told["metric"], told["cell"]["value"]) == ("+ ETM", "abs_rel", 0.25)
    assert {name: run["seed"] for name, run in told["runs"].items()} == {
        "etm-s1-0123456789": 1,
        "etm-s2-0123456789": 2,
    }


def test_export_as_json_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "tiny-s1-0123456789"
    folder.mkdir(parents=True)
    config = tiny_config(tmp_path, student__etm__branches="off")
    network = SmallDepth("off", width=config.student.width)
    content = {"kind": "student", "config": config.model_dump(mode="json")}
    torch.save(content | {"depth": network.state_dict()}, folder / "model.pt")
    told = as_json("export", folder.name, "--format", "torchscript")
    assert Path(told["path"]).stat().st_size == told["bytes"]
    assert 0 <= told["difference"] <= 1e-4


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_is_json_in_every_encoding(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"δ₁ ↑": ["±", float(1)], "row": "é"}
    path = tmp_path / "out"
    with path.open("w", encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        terminal.print_json(content)
    assert json.loads(path.read_text(encoding=encoding)) == content


def test_a_benchmark_writes_a_file_or_to_stdout_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"seconds": 1.5}
    file = tmp_path / "b.json"
    for output, printed in ((None, "heading\n"), (file, "heading\n"), (Path("-"), None)):
        report = terminal.Report(output)
        report.print("heading")
        report.write(content)
        out = capsys.readouterr().out
        assert json.loads(out) == content if printed is None else out == printed
    assert json.loads(file.read_text()) == content


# Completion


def completions(line: str, folder: Path, shell: str = "bash") -> list[str]:
    """What the shell is told at the end of the line."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    variables = {
        "_FADEPTH_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    source = "import sys; sys.argv = ['fadepth']; from fadepth.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", source], cwd=folder, env=os.environ | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    return [line for line in result.stdout.splitlines() if line]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Presets, studies, and two runs, one of which has never begun."""
    folder = make_project(tmp_path_factory.mktemp("filled"), repository).folder
    for name in ("etm-s1-0123456789", "apx-s1-0123456789", "empty-s1-0123456789"):
        (folder / "runs" / name).mkdir(parents=True)
    for name in ("etm-s1-0123456789", "apx-s1-0123456789"):
        (folder / "runs" / name / "manifest.json").write_text("{}")
    (folder / "reports").mkdir()
    (folder / "reports" / "table_x.provenance.json").write_text("{}")
    (folder / "reports" / "table_x.csv").write_text("row,abs_rel,rmse,rmse_log\n")
    return folder


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fadepth why-", ["why-rerun"]),
        ("fadepth export ", ["apx-s1-0123456789", "etm-s1-0123456789"]),
        ("fadepth export e", ["etm-s1-0123456789"]),
        ("fadepth export x --format o", ["onnx", "openvino"]),
        ("fadepth bench latency --run a", ["apx-s1-0123456789"]),
        ("fadepth table table_e", ["table_etm"]),
        ("fadepth status comp", ["complexity", "components"]),
        ("fadepth runs --preset config/s", ["config/smoke.yaml"]),
        ("fadepth runs --preset /", []),
        ("fadepth why t", ["table_x"]),
        ("fadepth why table_x row rm", ["rmse", "rmse_log"]),
        ("fadepth data check k", ["kitti", "kitti_odometry"]),
    ],
)
def test_bash_is_offered_what_there_is(line: str, expected: list[str], filled: Path) -> None:
    assert completions(line, filled) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_offered_the_same(shell: str, filled: Path) -> None:
    text = "\n".join(completions("fadepth export e", filled, shell))
    assert re.findall(r"[\w-]+-s1-\w+", text) == ["etm-s1-0123456789"]


@pytest.mark.parametrize("line", ["fadepth export ", "fadepth table ", "fadepth why x r "])
def test_an_empty_folder_offers_nothing(line: str, tmp_path: Path) -> None:
    assert completions(line, tmp_path) == []


_COMPLETE_IN = {
    "bash": """
        set -e
        eval "$(_FADEPTH_COMPLETE=source_bash fadepth)"
        COMP_WORDS=(fadepth export e) COMP_CWORD=2
        _fadepth_completion fadepth
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        autoload -Uz compinit; compinit -D
        eval "$(_FADEPTH_COMPLETE=source_zsh fadepth)"
        [[ $_comps[fadepth] == _fadepth_completion ]] || exit 1
        _arguments() { print -r -- "$@" }
        words=(fadepth export e) CURRENT=3
        _fadepth_completion
    """,
    "fish": """
        _FADEPTH_COMPLETE=source_fish fadepth | source
        complete --do-complete 'fadepth export e'
    """,
}


@pytest.mark.parametrize("shell", _COMPLETE_IN)
def test_a_real_shell_completes(shell: str, filled: Path, tmp_path: Path) -> None:
    """The script that typer prints, in the shell that it is for."""
    program = shutil.which(shell)
    if not program:
        pytest.skip(f"{shell} is not installed")
    # As the installed command: a module's name would be another program's.
    (tmp_path / "fadepth").write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv[0] = 'fadepth'\n"
        "from fadepth.cli import main\nmain()\n"
    )
    (tmp_path / "fadepth").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path)
    }  # fmt: skip
    result = subprocess.run(
        [program, "-c", textwrap.dedent(_COMPLETE_IN[shell])],
        cwd=filled, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert re.findall(r"[\w-]+-s1-\w+", result.stdout) == ["etm-s1-0123456789"], result.stderr


def test_completion_resolves_nothing(filled: Path) -> None:
    """A Tab must not wait for settings or torch."""
    source = """
import sys
sys.argv = ["fadepth"]
from fadepth.cli import main
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    variables = {
        "_FADEPTH_COMPLETE": "complete_bash", "COMP_WORDS": "fadepth table t", "COMP_CWORD": "2"
    }  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", source], cwd=filled, env=os.environ | variables,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *offered, modules = result.stdout.splitlines()
    assert "table_etm" in offered
    # Pydantic is typer's own.
    assert not {"torch", "numpy", "yaml", "pandas", "PIL"} & set(modules.split())


# Pipes, terminals, signs


def in_a_terminal(project: Project, *words: str, **variables: str) -> str:
    """What a command writes to a terminal."""
    main, side = pty.openpty()
    environment = {k: v for k, v in project.environment.items() if k not in _COLOURS}
    process = subprocess.Popen(
        [sys.executable, "-m", "fadepth", *words], cwd=project.folder, stdout=side, stderr=side,
        env=environment | {"TERM": "xterm-256color"} | variables,
    )  # fmt: skip
    os.close(side)
    said = b""
    while True:
        try:
            said += os.read(main, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
    process.wait(PATIENCE)
    os.close(main)
    return said.decode()


_COLOURS = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE")
_COLOUR = re.compile(r"\x1b\[[\d;]*3\d")


def piped(project: Project, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command whose output goes into pipes, one each."""
    environment = {k: v for k, v in project.environment.items() if k not in _COLOURS}
    return subprocess.run(
        [sys.executable, "-m", "fadepth", *words], cwd=project.folder, env=environment | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_colours_are_for_terminals(project: Project) -> None:
    wrong = ("runs", "--preset", "nowhere.yaml")
    assert _COLOUR.search(in_a_terminal(project, *wrong))
    assert not _COLOUR.search(in_a_terminal(project, *wrong, NO_COLOR="1"))
    assert "\x1b" not in piped(project, *wrong).stderr
    assert _COLOUR.search(piped(project, *wrong, FORCE_COLOR="1").stderr)


def test_rows_in_a_pipe_are_whole(project: Project) -> None:
    """Also where the terminal is narrow: `grep` finds a row with its run and its state."""
    lines = piped(project, "runs", "components", COLUMNS="40").stdout.splitlines()
    (row,) = [line for line in lines if "+ ETM + pyramid loss + APX" in line]
    assert re.search(r"apx_etm_pyramid-s1-[0-9a-f]{10} .* waiting", row)


def test_a_terminal_without_the_signs_gets_others(project: Project) -> None:
    told = piped(project, "runs", "etm", PYTHONIOENCODING="ascii")
    assert told.returncode == 0 and told.stdout.isascii() and "etm_" in told.stdout, told.stderr
    as_json = piped(project, "runs", "etm", "--json", PYTHONIOENCODING="ascii").stdout
    assert "·" not in as_json and json.loads(as_json)
    wrong = piped(project, "runs", "--preset", "é.yaml", PYTHONIOENCODING="ascii")
    assert wrong.returncode == 2 and "?.yaml does not exist" in wrong.stderr


@pytest.mark.parametrize("words", [("runs",), ("runs", "--json"), ("--help",)])
def test_a_reader_that_goes_is_no_error(words: tuple[str, ...], project: Project) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as nobody:
        result = subprocess.run(
            [sys.executable, "-m", "fadepth", *words], cwd=project.folder, stdout=nobody,
            env=project.environment, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, b"")


def test_another_broken_pipe_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    """Typer would end silently."""

    def broken() -> None:
        try:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        except OSError:
            sys.exit(1)

    with pytest.raises(BrokenPipeError):
        ending.run_to_the_end(broken)


# Errors


def test_no_command_is_told_all(project: Project) -> None:
    result = piped(project)
    assert result.returncode == 2 and "Usage: " in result.stdout and "See and ask" in result.stdout


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["stats"], "'status'"),
        (["data", "chek"], "'check'"),
        (["runs", "--presett", "x"], "--preset"),
    ],
)
def test_a_wrong_word_is_told_with_a_near_one(words: list[str], near: str) -> None:
    result = call(*words, env={"COLUMNS": "100"})
    assert result.exit_code == 2 and result.stdout == ""
    assert near in result.stderr


def test_bad_input_is_one_line_on_stderr(project: Project) -> None:
    result = piped(project, "status", "table_emt")
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("fadepth: no study is called 'table_emt': did you mean table_etm?")


def test_studies_have_two_names_everywhere(here: Path) -> None:
    with pytest.raises(FadepthError, match="did you mean components"):
        cli.find_study("component", None, "{}")
    assert cli.find_study("components", None, "{}") == cli.find_study("table_ablation", None, "{}")


def test_own_mistakes_keep_their_traceback_and_are_owned(tmp_path: Path) -> None:
    source = """
import sys
from fadepth import cli
def app():
    password = "secret"
    raise KeyError("nothing to do with the input")
cli.app = app
cli.main()
"""
    result = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    trace, _, last = result.stderr.strip().rpartition("\n")
    assert trace.startswith("Traceback") and "KeyError: 'nothing to do" in trace
    assert last.startswith("fadepth: this is a mistake in fadepth")
    # Rich would show variables.
    assert "│" not in result.stderr


# Ctrl-C

#: Run with the command's words; `interrupt()` is Ctrl-C in a terminal.
_START = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
from fadepth import cli
sys.argv = ["fadepth", *sys.argv[1:]]
"""


def interrupted(folder: Path, repository: Path, source: str, *words: str) -> list[str]:
    """A command that Ctrl-C ends where `source` says; the lines it has said to stderr."""
    process = subprocess.Popen(
        [sys.executable, "-c", _START + textwrap.dedent(source) + "\ncli.main()\n", *words],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not [
        other.pid for other in psutil.process_iter(["cwd"]) if other.info["cwd"] == str(folder)
    ]
    half = [path for path in folder.rglob(".*.part*") if path.stat().st_size]
    assert not half, "a half file was left behind"
    return said.splitlines()


def test_ctrl_c_tells_what_is_kept(tmp_path: Path, repository: Path) -> None:
    source = """
        from fadepth.execution import tables
        tables.render_table = lambda *_: interrupt()
        import fadepth.cli.reports as reports
        reports.find_study = lambda *_: type("Study", (), {"file": type("F", (), {"table": "t"})})
    """
    lines = interrupted(tmp_path, repository, source, "table", "table_x")
    assert lines == [f"fadepth: interrupted; {commands.UNFINISHED}"]


DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"


def kitti_raw(root: Path, frames: int) -> Path:
    """A small drive in KITTI's layout, and its lists; the folder of the lists."""
    from PIL import Image

    images = root / DRIVE / "image_02" / "data"
    images.mkdir(parents=True)
    for number in range(frames):
        Image.new("RGB", (64, 32), (number, 0, 0)).save(images / f"{number:010d}.png")
    for name in ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt"):
        (root / "2011_09_26" / name).write_text("x: 1\n")
    lists = root.parent / "lists"
    lists.mkdir()
    for name, numbers in (("train", range(1, frames - 2)), ("val", [1]), ("test", [2])):
        lines = "".join(f"{DRIVE} {number} l\n" for number in numbers)
        (lists / f"{name}_files.txt").write_text(lines)
    return lists


def test_ctrl_c_in_data_prepare_keeps_what_is_finished(tmp_path: Path, repository: Path) -> None:
    frames = 40
    lists = kitti_raw(tmp_path / "raw", frames)
    words = ["data", "prepare", "kitti", "--root", str(tmp_path / "raw"), "--threads", "2"]
    words += ["--output", str(tmp_path / "copy"), "--splits", str(lists), "--lidar", "none"]
    source = """
        from fadepth.data import convert
        encode, done = convert.encode_jpeg, []
        def watched(path):
            done.append(path)
            if len(done) == 12:
                interrupt()
            return encode(path)
        convert.encode_jpeg = watched
    """
    lines = interrupted(tmp_path, repository, source, *words)
    assert "the same command goes on" in lines[-1] and lines[-1].startswith("fadepth: interrupted")
    made = sorted((tmp_path / "copy").rglob("*.jpg"))
    assert 0 < len(made) < frames
    times = {path: path.stat().st_mtime_ns for path in made}
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "copy").rglob("*.jpg"))) == frames - 1
    assert {path: path.stat().st_mtime_ns for path in made} == times


#: `fadepth train` of a tiny run in the working folder; Ctrl-C at a step.
_TRAIN = """
    from pathlib import Path
    from fadepth.data.manifest import Manifest
    from fadepth.run import Run
    from fadepth.training import Training
    from tests.tiny import tiny_config, tiny_manifest
    folder = Path.cwd()
    if not Path("m.jsonl").exists():
        tiny_manifest(folder).write(Path("m.jsonl"))
    config = tiny_config(folder, training__workers=1)
    run = Run("student", "tiny", "tiny", {}, 1, config, "0" * 10, "study")
    cli.find_run = lambda *_: run
    sys.argv[2] = run.id
    losses = Training.losses
    def watched(self, batch, step):
        if step == int(os.environ["STOP_AT"]):
            interrupt()
        return losses(self, batch, step)
    Training.losses = watched
"""


@pytest.mark.slow
def test_ctrl_c_in_a_training_saves_a_checkpoint(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", "RUN_ID", "--manifest", "m.jsonl")
    monkeypatch.setenv("STOP_AT", "4")
    lines = interrupted(tmp_path, repository, _TRAIN, *words)
    assert lines[-1].endswith("stopped at step 5 of 12; run again to resume")
    (run,) = (tmp_path / "runs").iterdir()
    assert json_object(run / "manifest.json")["status"] == "interrupted"
    assert (run / "ckpt" / "last.pt").exists() and not (run / "model.pt").exists()
    # Before the first step nothing is there to be saved, and nothing is lost.
    early = (
        _TRAIN
        + """
    def build(self, *_):
        interrupt()
    Training.__init__ = build
    """
    )
    lines = interrupted(tmp_path, repository, early, *words)
    assert "the same command goes on from it" in lines[-1]
    finished = subprocess.run(
        [sys.executable, "-c", _START + textwrap.dedent(_TRAIN) + "\ncli.main()\n", *words],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(repository), "STOP_AT": "99"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "resuming at step 5 of 12" in finished.stderr
    assert (run / "model.pt").exists()


@pytest.mark.slow
def test_ctrl_c_in_track_is_caught_up(tmp_path: Path, repository: Path) -> None:
    """While a run is written: the next call shows all, each once and whole."""
    ids = [write_run(tmp_path / "runs", n, row, "student", {}) for n, row in enumerate("abc")]
    for name in ("config", "ablations"):
        (tmp_path / name).symlink_to(repository / name)
    source = """
        from fadepth.tracking import replay
        finish, done = replay._finish, []
        def watched(*arguments):
            if done:
                interrupt()
            done.append(1)
            finish(*arguments)
        replay._finish = watched
    """
    lines = interrupted(tmp_path, repository, source, "track", "--all")
    assert "the same command does the rest" in lines[-1]
    again = subprocess.run(
        [sys.executable, "-m", "fadepth", "track", "--all"], cwd=tmp_path, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(repository)}, capture_output=True,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        shown = store.execute(
            "select t.value, r.status, count(distinct m.key) from runs r"
            " join tags t on t.run_uuid = r.run_uuid join metrics m on m.run_uuid = r.run_uuid"
            " where t.key = 'fadepth.run_id' and r.lifecycle_stage = 'active' group by r.run_uuid"
        ).fetchall()
    assert sorted(run_id for run_id, _, _ in shown) == sorted(ids)
    assert len({(status, metrics) for _, status, metrics in shown}) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_that_saved_ends_with_the_signals_code(number: int, code: int) -> None:
    def stopped() -> None:
        with ending.own_code_for_interrupts():
            os.kill(os.getpid(), number)
            raise SystemExit(143)

    heard: list[int] = []
    before = signal.signal(number, lambda number, _: heard.append(number))
    try:
        with pytest.raises(SystemExit) as ended:
            stopped()
    finally:
        signal.signal(number, before)
    assert (heard, ended.value.code) == ([number], code)
