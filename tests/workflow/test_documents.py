"""Every command of the README and the docs is run, as a reader would copy it.

They run in a project whose default preset is as small as `config/smoke.yaml`, so that minutes
become seconds. What needs a GPU, a full data set, a cluster or the network is planned only
(`--dry-run`) or left out, by a rule below that says why. Blocks with a title are the files which
the page tells its reader to write.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from project import Project

from tests.data.fixtures import write_ddad_scenes
from tests.documents import Block, Command, blocks, commands, pages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SHELLS = ("sh", "bash", "console", "shell")
SECONDS = 600


@dataclass(frozen=True)
class Rule:
    """What is done with the commands that a pattern finds instead of running them."""

    pattern: str
    act: str  # "dry-run", "leave", "interrupt", "shorten"
    why: str
    more: str = ""  # words that make a command shorter


RULES = (
    Rule(r"^make (?!ui)", "dry-run", "it makes .venv anew, or is what runs this test"),
    Rule(r"^snakemake .*config/(kitti|ddad)\.yaml", "dry-run", "needs a GPU and the whole data"),
    Rule(r"^snakemake .*profiles/(slurm|kubernetes|ours)", "dry-run", "needs a cluster"),
    Rule(r"^snakemake .*table_ablation.*config/own_video\.yaml", "dry-run", "takes minutes"),
    Rule(r"^fadepth plan --calibrate", "leave", "times trainings at paper scale"),
    Rule(r"^(wget|pip install)", "leave", "needs the network"),
    Rule(r"^fadepth data fetch-splits", "leave", "needs the network"),
    Rule(r"^(squeue|tests/workflow/slurm_node)", "leave", "needs Slurm"),
    Rule(r"^(fadepth ui|make ui|tail -f|fadepth status --watch)", "interrupt", "it never ends"),
    Rule(r"^fadepth bench latency", "leave", "tests/test_bench_latency.py runs it, smaller"),
    Rule(r"^fadepth figures", "shorten", "fits two networks for a minute", "--no-fit"),
    Rule(
        r"^snakemake .*'training={epochs: 3}'$",
        "shorten",
        "nine trainings",
        "--until train_teacher",
    ),
    Rule(r"^fadepth plan --budget 24h", "leave", "half a minute; --budget runs in the README"),
    Rule(
        r"^fadepth data prepare kitti", "shorten", "needs the whole data", "--splits LISTS_OF_A_FEW"
    ),
    Rule(r"^snakemake .*'seeds=\[1,2,3\]'$", "dry-run", "takes three studies' time"),
)

#: A page whose reader is told to save the files that another page shows.
FILES_OF = {"docs/first-hour.md": "docs/how-to/your-own-network.md"}


@dataclass
class Reader:
    """Somebody who copies a page's commands, one after the other, into one shell."""

    project: Path
    environment: dict[str, str]
    stands_for: dict[str, str]
    told: list[str] = field(default_factory=list)

    def write(self, block: Block) -> None:
        assert block.title is not None
        path = self.project / block.title
        assert path.resolve().is_relative_to(self.project), block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._with_values(block.text))

    def run(self, command: Command, page: str) -> None:
        text = self._with_values(command.text)
        if match := re.fullmatch(r"export (\w+)=(\S+)", text):
            self.environment[match[1]] = match[2]
            return
        # .venv is finished, whatever make thinks of it.
        text = re.sub(r"^make ", "make -o .venv/.stamp ", text)
        rule = next((rule for rule in RULES if re.search(rule.pattern, command.text)), None)
        act = rule.act if rule else "run"
        self.told.append(f"{page}:{command.line}: {act}: {command.text}")
        if act == "leave" or re.match(r"(cd|source) ", text):
            return
        if act == "dry-run":
            text = _planned_only(text)
        if rule and act == "shorten":
            text += " " + self._with_values(rule.more)
        began = time.monotonic()
        code, output = self._shell(text, interrupted=act == "interrupt")
        self.told[-1] += f" ({time.monotonic() - began:.0f} s)"
        assert code in _expected_codes(text), f"{page}:{command.line}\n$ {text}\n{output[-4000:]}"

    def _with_values(self, text: str) -> str:
        for name, value in self.stands_for.items():
            text = text.replace(name, value)
        return text

    def _shell(self, text: str, interrupted: bool) -> tuple[int, str]:
        process = subprocess.Popen(
            ["bash", "-c", text],
            cwd=self.project,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        if interrupted:
            # As Ctrl-C does, once it has said something; tests/test_cli.py looks at how it ends.
            first = process.stdout.readline()
            time.sleep(5)
            os.killpg(process.pid, signal.SIGINT)
            output, _ = process.communicate(timeout=SECONDS)
            return (0 if first else 1), first + output
        output, _ = process.communicate(timeout=SECONDS)
        return process.returncode, output


def _planned_only(text: str) -> str:
    if text.startswith("make"):
        return re.sub(r"^make", "make --dry-run", text)
    return re.sub(r"^snakemake", "snakemake --dry-run", text)


def _expected_codes(text: str) -> tuple[int, ...]:
    # These two tell by their code that there is something to mend.
    return (0, 1) if re.match(r"fadepth (lint|data check)", text) else (0,)


# -------------------------------------------------------------------------------- the project


@pytest.fixture(scope="module")
def small_project(
    finished_smoke: Project, tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> Project:
    """A checkout whose reports are made; its default preset is the smoke preset."""
    folder = tmp_path_factory.mktemp("documents") / "fadepth"
    shutil.copytree(finished_smoke.folder, folder, symlinks=True)
    for name in ("config", "ablations"):
        (folder / name).unlink()
    for name in ("config", "ablations", "profiles"):
        shutil.copytree(repository / name, folder / name)
    shutil.copyfile(folder / "config" / "smoke.yaml", folder / "config" / "quick.yaml")
    for name in ("fadepth", "workflow", "docs", "tests", "Snakefile", "Makefile"):
        (folder / name).symlink_to(repository / name)
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copyfile(repository / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return Project(folder, repository)


@pytest.fixture(scope="module")
def environment(
    small_project: Project, test_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """A shell in which .venv is active."""
    outer = small_project.environment
    lists = tmp_path_factory.mktemp("lists")
    settings = {"PATH": f"{Path(sys.executable).parent}:{outer['PATH']}", "COLUMNS": "100"}
    return outer | settings | lists_of_all_data(test_data, lists)


def lists_of_all_data(test_data: Path, folder: Path) -> dict[str, str]:
    """Split lists of KITTI and DDAD, and empty folders of the others: enough to plan with."""
    splits = test_data / "splits"
    for source, target in {
        "eigen_zhou/train": "train", "eigen_zhou/val": "val", "eigen/test": "test",
    }.items():  # fmt: skip
        shutil.copyfile(splits / f"{source}_files.txt", folder / f"{target}_files.txt")
    write_ddad_scenes(folder)
    places = {"KITTI_SPLITS": folder, "KITTI_LISTS": splits, "DDAD_SPLITS": folder / "ddad.json"}
    for name in ("MAKE3D_ROOT", "CITYSCAPES_ROOT"):
        places[name] = folder / name
        places[name].mkdir()
    return {name: str(place) for name, place in places.items()}


@pytest.fixture(scope="module")
def stands_for(
    small_project: Project, test_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What a reader puts in the place of a page's names: their run, their data."""
    folder = tmp_path_factory.mktemp("data")
    # `make ablation` renders one street, `reports/all` several.
    (frames,) = (small_project.folder / "data").glob("synthetic_street-*/manifest.jsonl")
    street = frames.parent.name.removeprefix("synthetic_street-")
    rows = pd.read_csv(small_project.folder / "reports" / "table_ablation.csv").set_index("row")
    shutil.copytree(test_data / "kitti_mini" / "kitti", folder / "kitti_raw")
    # As `fadepth data fetch-splits` leaves them.
    shutil.copytree(test_data / "splits", small_project.folder / "data" / "splits")
    Image.new("RGB", (320, 96), (90, 120, 150)).save(small_project.folder / "photo.jpg")
    return {
        "package.module:factory": "fadepth.models:SmallDepth",
        "LISTS_OF_A_FEW": str(test_data / "kitti_mini" / "splits" / "tiny"),
        "--run apx_etm-s1": "--run " + str(rows.loc["+ ETM + APX", "run_ids"]),
        "data/synthetic_street/*/": f"data/synthetic_street/{street}/",
        "RUN_ID": str(rows.loc["SmallDepth", "run_ids"]),
        "<id>": str(rows.loc["SmallDepth", "run_ids"]),
        "/data/kitti_raw": str(folder / "kitti_raw"),
        "/fast/kitti": str(folder / "kitti"),
    }


PAGES = pages(ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_works(
    page: Path, small_project: Project, environment: dict[str, str], stands_for: dict[str, str]
) -> None:
    name = str(page.relative_to(ROOT))
    reader = Reader(small_project.folder, dict(environment), stands_for)
    if other := FILES_OF.get(name):
        for block in blocks((ROOT / other).read_text()):
            if block.title:
                reader.write(block)
    for block in blocks(page.read_text()):
        if block.title:
            reader.write(block)
        elif block.language in SHELLS:
            for command in commands(block):
                reader.run(command, name)
    print("\n".join(reader.told))


def test_every_rule_has_a_command() -> None:
    """A rule that no command needs any more would hide the next one."""
    found = [
        command.text
        for page in PAGES
        for block in blocks(page.read_text())
        if block.language in SHELLS
        for command in commands(block)
    ]
    assert [
        rule.pattern for rule in RULES if not any(re.search(rule.pattern, c) for c in found)
    ] == []


def test_commands_are_told_from_comments() -> None:
    text = "intro\n```sh title=\"x\"\nb 'a # b' \\\n  c  # comment\n\n# only\nd#e\n```\n"
    (block,) = blocks(text)
    assert (block.language, block.title, block.line) == ("sh", "x", 3)
    assert list(commands(block)) == [Command("b 'a # b'   c", 3), Command("d#e", 7)]
