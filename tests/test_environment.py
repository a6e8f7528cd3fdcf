"""pyproject.toml, requirements.lock, environment.yml, Makefile and what is installed agree."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

# conda's name -> PyPI's, where they differ.
CONDA_ALIASES = {
    "pytorch": "torch",
    "snakemake-minimal": "snakemake",
    "matplotlib-base": "matplotlib",
}
# The environment the lock was made in; markers are judged for it wherever the tests run.
LOCK_PLATFORM = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.7",
    "python_version": "3.11",
    "sys_platform": "linux",
}
# torch's CUDA build asks for these, its CPU build does not; the lock leaves them to torch.
CUDA_LIBRARIES = re.compile(r"(nvidia|cuda|triton)\b")


@pytest.fixture(scope="module")
def pyproject(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def direct(pyproject: dict[str, Any]) -> dict[str, Requirement]:
    """What pyproject.toml asks for by name: to run, to develop and to build."""
    lines = [
        *pyproject["project"]["dependencies"],
        *pyproject["project"]["optional-dependencies"]["dev"],
        *pyproject["build-system"]["requires"],
    ]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


@pytest.fixture(scope="module")
def lock_lines(repository: Path) -> list[str]:
    text = (repository / "requirements.lock").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def lock(lock_lines: list[str]) -> dict[str, Version]:
    pins = [line.split("==") for line in lock_lines]
    return {canonicalize_name(name): Version(version) for name, version in pins}


@pytest.fixture(scope="module")
def conda(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "environment.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def conda_pins(conda: dict[str, Any]) -> dict[str, Version]:
    """Pins of environment.yml under their PyPI names, conda's own and those of its pip section."""
    pins: dict[str, Version] = {}
    for entry in conda["dependencies"]:
        lines = entry["pip"] if isinstance(entry, dict) else [entry]
        for line in lines:
            if line in ("pip", "-e .") or line.startswith("python="):
                continue
            pin = re.fullmatch(r"([a-z0-9-]+)==?([0-9][\w.]*)", line)
            assert pin, f"environment.yml: expected NAME=VERSION, found {line!r}"
            name, version = pin.groups()
            pins[canonicalize_name(CONDA_ALIASES.get(name, name))] = Version(version)
    return pins


def test_lock_lines_are_exact_pins_sorted_and_portable(lock_lines: list[str]) -> None:
    for line in lock_lines:
        # No local labels (+cpu), hashes, URLs, paths, markers or ranges.
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][a-z0-9.]*", line), line
    names = [line.split("==")[0] for line in lock_lines]
    assert lock_lines == sorted(lock_lines)
    assert len(set(names)) == len(names)


def test_lock_holds_every_direct_dependency_inside_its_range(
    direct: dict[str, Requirement], lock: dict[str, Version]
) -> None:
    assert set(direct) <= set(lock)
    outside = {n: str(lock[n]) for n, r in direct.items() if lock[n] not in r.specifier}
    assert not outside


def test_conda_pins_are_the_locks(
    direct: dict[str, Requirement], lock: dict[str, Version], conda_pins: dict[str, Version]
) -> None:
    assert conda_pins == {name: lock[name] for name in direct}


def test_rules_environment_is_what_the_package_runs_with(
    repository: Path, pyproject: dict[str, Any], conda: dict[str, Any]
) -> None:
    """`snakemake --sdm conda` installs environment.yml without what only developers need."""
    rules = yaml.safe_load((repository / "workflow" / "envs" / "fadepth.yaml").read_text())
    needed = {canonicalize_name(Requirement(r).name) for r in pyproject["project"]["dependencies"]}
    names = {CONDA_ALIASES.get(line.split("=")[0], line.split("=")[0]) for line in
             rules["dependencies"]}  # fmt: skip
    assert names == needed | {"python"}
    assert set(rules["dependencies"]) <= {str(line) for line in conda["dependencies"]}
    assert rules["channels"] == conda["channels"]


def test_one_python_everywhere(
    repository: Path, pyproject: dict[str, Any], conda: dict[str, Any]
) -> None:
    (line,) = (e for e in conda["dependencies"] if str(e).startswith("python="))
    python = line.removeprefix("python=")
    assert python == LOCK_PLATFORM["python_version"]
    assert pyproject["project"]["requires-python"] == f">={python}"
    assert f"Programming Language :: Python :: {python}" in pyproject["project"]["classifiers"]
    assert pyproject["tool"]["mypy"]["python_version"] == python
    assert pyproject["tool"]["ruff"]["target-version"] == "py" + python.replace(".", "")
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    assert f"sys.version_info < ({python.replace('.', ', ')})" in makefile


def test_installed_versions_are_the_locks(
    direct: dict[str, Requirement], lock: dict[str, Version]
) -> None:
    installed = {name: Version(importlib.metadata.version(name)).public for name in direct}
    assert installed == {name: str(lock[name]) for name in direct}


def test_lock_is_complete_and_has_nothing_unneeded(
    direct: dict[str, Requirement], lock: dict[str, Version]
) -> None:
    """Walk what the installed packages ask for: it is the lock, no more and no less."""
    installed: dict[str, str] = {
        canonicalize_name(package.name): Version(package.version).public
        # Not all of sys.path: setuptools, once imported, adds its own copies of others.
        for package in importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    }
    differs = sorted(name for name in lock if installed.get(name) != str(lock[name]))
    if differs:
        pytest.skip(f"needs the lock's own environment (`make test`): {differs[0]} differs")

    reached: set[tuple[str, str]] = set()
    waiting = list(direct.values())
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if CUDA_LIBRARIES.match(name):
            continue
        assert name in lock, f"{requirement} is missing from requirements.lock"
        assert lock[name] in requirement.specifier, f"{requirement}, but locked {lock[name]}"
        for extra in {"", *requirement.extras}:
            if (name, extra) in reached:
                continue
            reached.add((name, extra))
            for line in importlib.metadata.requires(name) or []:
                wanted = Requirement(line)
                marker = wanted.marker
                if marker is None or marker.evaluate({**LOCK_PLATFORM, "extra": extra}):
                    waiting.append(wanted)
    assert set(lock) - {name for name, _ in reached} == set()


def test_every_locked_package_allows_the_oldest_python(lock: dict[str, Version]) -> None:
    for name in lock:
        try:
            package = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if "Requires-Python" in package:
            allowed = SpecifierSet(package["Requires-Python"])
            assert LOCK_PLATFORM["python_full_version"] in allowed, name


def test_git_ignores_what_is_generated_and_nothing_else(repository: Path) -> None:
    if shutil.which("git") is None or not (repository / ".git").exists():
        pytest.skip("needs git and a checkout")
    generated = ["runs/x/model.pt", "data/x.png", "reports/table_ablation.csv", "mlflow.db"]
    sources = ["fadepth/data/kitti.py", "reports/README.md", "tests/data/x.py", "ablations/a.yaml"]
    answer = subprocess.run(
        ["git", "check-ignore", "--no-index", *generated, *sources],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.split() == generated


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A folder with what the set-up reads, in a path with a space, and no .venv."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(repository / name, folder)
    return folder


def make(
    folder: Path, *arguments: str, first_in_path: str = ""
) -> subprocess.CompletedProcess[str]:
    # What the tests' own make was told must not reach this one.
    told = ("MAKE", "MFLAGS", "PYTHON", "CONFIRM")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(told)}
    environment["PATH"] = os.pathsep.join(filter(None, [first_in_path, environment["PATH"]]))
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def old_python(path: Path, version: str) -> Path:
    """A stand-in for a Python that is too old: it only tells its version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}"\nexit 1\n')
    path.chmod(0o755)
    return path


def test_set_up_refuses_an_old_python_in_one_sentence(copy: Path) -> None:
    python = old_python(copy / "old" / "python3", "3.9.1")
    answer = make(copy, "lint", f"PYTHON={python.relative_to(copy)}")
    assert answer.returncode != 0
    assert "fadepth needs Python 3.11 or newer, and 'old/python3' is none (Python 3.9.1)." in (
        answer.stderr.splitlines()
    )
    assert not (copy / ".venv").exists()


def test_set_up_never_uses_the_python_of_the_venv_that_it_replaces(copy: Path) -> None:
    inner = old_python(copy / ".venv" / "bin" / "python3", "3.1.1")
    outer = old_python(copy / "outer" / "python3", "3.2.2")
    activated = f"{inner.parent}{os.pathsep}{outer.parent}"
    answer = make(copy, ".venv/.stamp", first_in_path=activated)
    assert "(Python 3.2.2)" in answer.stderr


def test_clean_keeps_trainings_and_distclean_asks_first(copy: Path) -> None:
    model = copy / "runs" / "etm-0123456789" / "model.pt"
    table = copy / "reports" / "tables" / "table_ablation.csv"
    readme = copy / "reports" / "README.md"
    record = copy / ".snakemake" / "metadata"  # without it Snakemake repeats finished trainings
    for path in (model, table, readme, record):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")

    assert make(copy, "clean").returncode == 0
    assert not table.exists()
    assert all(path.exists() for path in (model, readme, record))

    refusal = make(copy, "distclean")
    assert refusal.returncode != 0
    assert "make distclean CONFIRM=yes" in refusal.stdout
    assert model.exists()

    assert make(copy, "distclean", "CONFIRM=yes").returncode == 0
    assert not model.parent.parent.exists()
    assert readme.exists()


def test_make_without_a_target_only_lists_the_targets(copy: Path) -> None:
    before = sorted(copy.iterdir())
    listed = set(re.findall(r"^  make ([a-z]+) ", make(copy).stdout, flags=re.MULTILINE))
    makefile = (copy / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*) FORCE$", makefile, flags=re.MULTILINE)
    assert listed == set(phony.split())
    assert sorted(copy.iterdir()) == before
