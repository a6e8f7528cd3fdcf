"""Files from strangers run nothing: a walk over all code, and files made to run something."""

import ast
import functools
import pickle
import re
import socket
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fadepth import ui
from fadepth.checkpoint import Identity, load_checkpoint
from fadepth.cli import app
from fadepth.config import load_yaml
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import find_protocol
from fadepth.execution.evaluate import read_predictions
from fadepth.execution.train import checked_targets_of
from fadepth.models.efficientnetv2 import EfficientNetV2
from fadepth.run import Run
from fadepth.study_file import load_study_file
from fadepth.targets import TargetsKey, make_targets, problem_of
from fadepth.training import load_depth_network
from tests.tiny import tiny_config, tiny_manifest

ROOT = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------------------- a walk over code

#: Calls that run what a file or a text says, or hand text to a shell.
FORBIDDEN = re.compile(
    r"(eval|exec|compile|__import__)"
    r"|(marshal|shelve|dill|cloudpickle|joblib)\..*"
    r"|(c?pickle|_pickle)\.(load|loads|Unpickler)"
    r"|pandas\.read_pickle"
    r"|torch\.(hub\..*|package\..*)"
    r"|os\.(system|popen|exec\w+|spawn\w+|posix_spawnp?)"
    r"|subprocess\.(getoutput|getstatusoutput)"
    r"|(os\.)?tempfile\.mktemp"
    # Nothing is unpacked, so that no member of an archive can be named `../x`.
    r"|shutil\.unpack_archive|(zipfile|tarfile)\.(ZipFile|TarFile|open)|.*\.extractall"
)
SAFE_YAML = {"yaml.safe_load", "yaml.safe_load_all", "yaml.safe_dump"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader"}


def full_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name of a module stands for: `np` -> `numpy`."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head = alias.name.partition(".")[0]
                found[alias.asname or head] = alias.name if alias.asname else head
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def called(function: ast.expr, names: dict[str, str]) -> str:
    """Dotted name of what is called; of a method of some value, `?.name`."""
    if isinstance(function, ast.Name):
        return names.get(function.id, function.id)
    if isinstance(function, ast.Attribute):
        return f"{called(function.value, names)}.{function.attr}"
    return "?"


def loaders(tree: ast.AST) -> set[str]:
    """Names of YAML loaders that a module speaks of, also as text."""
    words = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    words |= {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    words |= {node.name for node in ast.walk(tree) if isinstance(node, ast.alias)}
    return {word for word in words if re.fullmatch(r"\w*Loader", word)}


def problems(source: str) -> Iterator[str]:
    """What a module calls that it must not, with the line."""
    tree = ast.parse(source)
    names = full_names(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = called(node.func, names)
        given = {
            word.arg: word.value.value if isinstance(word.value, ast.Constant) else word
            for word in node.keywords
        }
        safe_load = name == "yaml.load" and loaders(tree) and loaders(tree) <= SAFE_LOADERS
        wrong = [
            bool(FORBIDDEN.fullmatch(name)),
            name == "torch.load" and given.get("weights_only") is not True,
            name.startswith("numpy.") and given.get("allow_pickle", False) is not False,
            name.startswith("yaml.") and name not in SAFE_YAML and not safe_load,
            given.get("shell", False) is not False,
            name.startswith("subprocess.")
            and bool(node.args)
            and isinstance(node.args[0], (ast.JoinedStr, ast.Constant)),
            name == "jinja2.Environment" and given.get("autoescape") is not True,
        ]
        if any(wrong):
            yield f"line {node.lineno}: {name}"


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "from torch import load as read\nread('x', weights_only=flag)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import pickle\npickle.loads(data)",
        "from pickle import load\nload(file)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml\nyaml.load(text, getattr(yaml, 'CLoader', yaml.SafeLoader))",
        "from yaml import FullLoader, load\nload(text, FullLoader)",
        "from yaml import unsafe_load\nunsafe_load(text)",
        "eval('1')",
        "import subprocess\nsubprocess.run(f'ls {x}', shell=True)",
        "import subprocess\nsubprocess.run(['ls', x], shell=yes)",
        "import os\nos.system('ls')",
        "import tempfile\ntempfile.mktemp()",
        "import zipfile\nzipfile.ZipFile(path)",
        "archive.extractall()",
        "from jinja2 import Environment\nEnvironment(loader=x)",
    ],
)
def test_the_walk_finds_what_it_is_for(source: str) -> None:
    assert list(problems(source))


def test_the_walk_lets_harmless_calls_pass() -> None:
    harmless = "import torch, re, os\nnet.eval()\nre.compile('x')\nos.execution\n"
    harmless += "torch.load('x', weights_only=True)\ntorch.compile(net)\n"
    harmless += "import yaml\nyaml.load(text, getattr(yaml, 'CSafeLoader', yaml.SafeLoader))\n"
    assert list(problems(harmless)) == []


def test_no_module_runs_what_a_file_says() -> None:
    modules = [*(ROOT / "fadepth").rglob("*.py"), *(ROOT / "workflow").rglob("*.py")]
    assert len(modules) > 80
    found = {
        f"{path.relative_to(ROOT)}, {problem}"
        for path in modules
        for problem in problems(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_no_rule_runs_what_a_file_says() -> None:
    """Rules are no Python that `ast` can read, but their words are Python's."""
    files = [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]
    assert len(files) > 5
    words = {"eval", "exec", "pickle", "marshal", "yaml", "system", "popen", "mktemp", "extractall"}
    for path in files:
        with path.open("rb") as stream:
            found = [token.string for token in tokenize.tokenize(stream.readline)]
        assert words.isdisjoint(found), path
        # A colon follows where it is the rule's own `shell:`; a command is a list of words.
        places = [i for i, word in enumerate(found) if word == "shell"]
        assert {found[i + 1] for i in places} <= {":"}, path


# --------------------------------------------------------------------- files made to run something


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The file that exists once a trap has sprung; at the end of each test it does not."""
    path = tmp_path / "SPRUNG"
    yield path
    assert not path.exists()


def as_torch(path: Path, mark: Path) -> None:
    torch.save({"config": Trap(mark), "kind": "student", "depth": {}}, path)


def as_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps(Trap(mark), protocol=2))


def as_old_torch(path: Path, mark: Path) -> None:
    torch.save(Trap(mark), path, _use_new_zipfile_serialization=False)


def as_npy(path: Path, mark: Path) -> None:
    np.save(path, np.array([Trap(mark)], dtype=object), allow_pickle=True)


def as_npz(path: Path, mark: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, data=np.array([Trap(mark)], dtype=object))


def test_traps_spring_where_they_are_loaded_without_care(tmp_path: Path) -> None:
    """Else the tests below would prove nothing."""
    for number, write in enumerate((as_torch, as_old_torch)):
        write(tmp_path / "a", tmp_path / f"mark{number}")
        torch.load(tmp_path / "a", weights_only=False)
        assert (tmp_path / f"mark{number}").exists()
    for number, write in enumerate((as_pickle, as_npy)):
        write(tmp_path / "b.npy", tmp_path / f"other{number}")
        np.load(tmp_path / "b.npy", allow_pickle=True)
        assert (tmp_path / f"other{number}").exists()
    as_npz(tmp_path / "c.npz", tmp_path / "third")
    np.load(tmp_path / "c.npz", allow_pickle=True)["data"]
    assert (tmp_path / "third").exists()


def sentence_of(action: Callable[[], object]) -> str:
    """The one sentence with which it refuses."""
    with pytest.raises(FadepthError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("write", [as_torch, as_pickle, as_old_torch])
def test_a_model_that_would_run_something_is_refused(
    write: Callable[[Path, Path], None], tmp_path: Path, mark: Path
) -> None:
    write(tmp_path / "model.pt", mark)
    assert "model.pt is not a readable model" in sentence_of(
        functools.partial(load_depth_network, tmp_path / "model.pt")
    )
    encoder = EfficientNetV2(width=0.1, depth=0.1)
    assert "model.pt: not a readable PyTorch file" in sentence_of(
        functools.partial(encoder.load_imagenet, tmp_path / "model.pt")
    )


@pytest.mark.parametrize("write", [as_torch, as_pickle, as_old_torch])
def test_a_checkpoint_that_would_run_something_is_no_checkpoint(
    write: Callable[[Path, Path], None],
    tmp_path: Path,
    mark: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(tmp_path / "last.pt", mark)
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(network.parameters())
    identity = Identity("a", "b", "c", None)
    assert load_checkpoint(tmp_path / "last.pt", network, optimizer, identity) is None
    assert "last.pt cannot be read" in caplog.text


@pytest.mark.parametrize("write", [as_npy, as_pickle, as_npz])
def test_predictions_that_would_run_something_are_refused(
    write: Callable[[Path, Path], None], tmp_path: Path, mark: Path
) -> None:
    write(tmp_path / "them.npy", mark)
    sentence = sentence_of(functools.partial(read_predictions, tmp_path / "them.npy", []))
    assert "them.npy is no array of numpy's (.npy)" in sentence


@pytest.mark.parametrize("write", [as_npy, as_pickle, as_npz])
def test_targets_that_would_run_something_are_refused(
    write: Callable[[Path, Path], None], tmp_path: Path, mark: Path
) -> None:
    """Even with a label that fits: who forges the one can forge the other."""
    manifest, config = tiny_manifest(tmp_path), tiny_config(tmp_path)
    path = tmp_path / "targets.npy"
    teacher = SimpleNamespace(id="hqdecv2-s1-0123456789", config=config)
    key = TargetsKey.of(teacher.id, tmp_path / "none.pt", manifest, config.data)
    make_targets(path, key, lambda temporary: write(temporary, mark))
    assert problem_of(path, key) is None
    student = cast(Run, SimpleNamespace(teacher=teacher))
    sentence = sentence_of(lambda: checked_targets_of(student, tmp_path, manifest, path))
    assert "targets.npy is no array" in sentence


APPLY = '!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ["{}"]]'


def test_yaml_that_would_run_something_is_refused(tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("scale: smoke\ntitle: " + APPLY.format(mark) + "\n")
    for read in (load_yaml, load_study_file, lambda p: find_protocol(str(p))):
        assert "settings.yaml, line 2 is not readable YAML" in sentence_of(
            functools.partial(read, path)
        )


def test_templates_of_snakemake_are_not_settings(tmp_path: Path, mark: Path) -> None:
    """Snakemake runs them in a `--configfile`; our own commands do not know them (SECURITY.md)."""
    path = tmp_path / "preset.yaml"
    path.write_text(f"__use_yte__: true\n?open('{mark}', 'w').close(): x\n")
    result = CliRunner().invoke(app, ["runs", "--preset", str(path)])
    assert isinstance(result.exception, FadepthError)
    assert "__use_yte__" in str(result.exception)


# ------------------------------------------------------------------------------------- the server


class Started(Exception):
    """In place of a server."""


def test_the_server_binds_to_loopback_and_no_option_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is a word of the command, so that no variable of MLflow's can replace it."""

    def start(command: list[str], **_: Any) -> None:
        commands.append(command)
        raise Started

    commands: list[list[str]] = []
    (tmp_path / "mlflow.db").touch()
    for name in ("MLFLOW_HOST", "MLFLOW_SERVER_HOST", "HOST"):
        monkeypatch.setenv(name, "0.0.0.0")
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(Started):
        ui.serve(f"sqlite:///{tmp_path}/mlflow.db", port=_free_port())
    (command,) = commands
    assert [command[i + 1] for i, word in enumerate(command) if word == "--host"] == ["127.0.0.1"]
    assert "0.0.0.0" not in " ".join(command)
    help_text = CliRunner().invoke(app, ["ui", "--help"]).output
    assert "--port" in help_text
    assert "--host" not in help_text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
