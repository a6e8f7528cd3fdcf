"""Names of files, folders, data and rows never reach a shell as commands: a real small workflow."""

import ast
import io
import os
import string
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fadepth.config import load_config, load_yaml, merge, parse_config
from fadepth.data.manifest import Manifest
from fadepth.data.prepare import data_identity
from fadepth.errors import FadepthError

#: Everything that a shell would take for more than a name; nothing that a file system would refuse.
#: No braces: Snakemake itself takes them for wildcards in the name of a checkout.
NASTY = "we ird'\"$(touch PWNED)`touch PWNED`;touch PWNED;&|#*"
TITLE = f"{NASTY}\n</script>[/b] {{x}} $x$ %s \x1b[2J"


@dataclass(frozen=True)
class Place:
    """A working folder, a checkout and an interpreter, all of hostile names."""

    folder: Path
    checkout: Path
    python: Path
    preset: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a module here; both streams in `stdout`."""
        return subprocess.run(
            [str(self.python), "-m", *arguments],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.checkout)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        snakefile = str(self.checkout / "Snakefile")
        return self.run("snakemake", "--snakefile", snakefile, "--cores", "2", *arguments)


@pytest.fixture
def place(tmp_path: Path, repository: Path) -> Iterator[Place]:
    """Where it lies; at the end of each test nothing was touched."""
    folder = tmp_path / NASTY / "work {x}"
    (folder / "ablations").mkdir(parents=True)
    checkout, prefix = tmp_path / NASTY / "checkout", tmp_path / NASTY / "env"
    checkout.symlink_to(repository)
    prefix.symlink_to(sys.prefix)
    (folder / "config").symlink_to(repository / "config")
    (folder / "ablations" / "components.yaml").write_text(yaml.safe_dump(study(repository)))
    preset = f"{NASTY}\n{{x}}smoke.yaml"
    smoke = load_yaml(repository / "config" / "smoke.yaml")
    few = {"scenes": {"train": 1, "val": 1, "test": 1}, "frames": {"train": 3, "val": 3, "test": 3}}
    changes: dict[str, Any] = {
        "data": {"name": "Zürich_2+1.0-b", "synthetic": few},
        "benchmarks.make3d.title": TITLE,
    }
    (folder / preset).write_text(yaml.safe_dump(merge(smoke, changes)))
    python = prefix / Path(sys.executable).relative_to(sys.prefix)
    yield Place(folder, checkout, python, preset)
    assert not [*tmp_path.rglob("PWNED*"), *repository.glob("PWNED*")]


def study(repository: Path) -> dict[str, Any]:
    """The study of the components, with hostile texts wherever it may have texts."""
    content = load_yaml(repository / "ablations" / "components.yaml")
    for name, factor in content["factors"].items():
        factor["label"] = f"{name} {TITLE}"
    content |= {"title": TITLE, "base_label": TITLE, "notes": [TITLE]}
    return content | {"shown": {TITLE: "data.height"}, "benchmarks": ["make3d"]}


@pytest.mark.slow
def test_hostile_names_are_names(place: Place) -> None:
    config = load_config(place.folder / place.preset)
    data = f"data/{config.data.name}-{data_identity(config.data, place.folder)}/manifest.jsonl"
    preset = ("--configfile", place.preset)
    override = ("--config", 'training={"device": "cpu"}')
    done = place.snakemake(data, *preset, *override)
    assert done.returncode == 0, done.stdout
    manifest = Manifest.read(place.folder / data)
    assert manifest.dataset == "Zürich_2+1.0-b"
    assert len(manifest.splits["train"]) == 1
    # The rest is planned: rows, labels and titles are parameters of rules.
    planned = place.snakemake("reports/table_ablation.csv", "-n", *preset)
    assert planned.returncode == 0, planned.stdout
    assert "train_student" in planned.stdout
    # What people call beside it prints the same texts.
    for command in (("runs",), ("table", "table_ablation", "--partial")):
        told = place.run("fadepth", *command, "--preset", place.preset)
        assert told.returncode == 0, told.stdout
    assert (place.folder / "reports" / "partial" / "table_ablation.html").exists()


@pytest.mark.parametrize("name", ["x$(touch PWNED)", "x||\ntouch PWNED;#", "x'`touch PWNED`'"])
def test_a_target_is_a_name(place: Place, name: str) -> None:
    """Snakemake takes any target that a rule's output fits."""
    done = place.snakemake(f"data/{name}-0123456789/manifest.jsonl", "--configfile", place.preset)
    assert done.returncode != 0


def test_data_are_refused_whose_name_is_no_name(place: Place) -> None:
    bad = place.folder / "bad.yaml"
    bad.write_text(yaml.safe_dump({"data": {"name": NASTY}}))
    for done in (
        place.run("fadepth", "runs", "--preset", place.preset, "--preset", "bad.yaml"),
        place.snakemake("reports/table_ablation.csv", "--configfile", place.preset, "bad.yaml"),
        place.snakemake("data/x", "--config", "data={'name': 'x;$(touch PWNED)'}"),
    ):
        assert done.returncode != 0
        assert "for 'data.name' in" in done.stdout
        assert "since folders carry it" in done.stdout
        assert "Traceback (most recent call last)" not in done.stdout


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/x", "a/b", "a b", "a\nb", "a'b", 'a"b', "$(x)", "`x`", "a;b", "a{b}",
     "-x", "--help", ".x", "a*", "a\\b", "a\0b", "a\x1b", "x" * 51, "a|b", "a&b", "~", "a#b", "%s"],
)  # fmt: skip
def test_what_is_no_name_of_data(name: str) -> None:
    with pytest.raises(FadepthError) as error:
        parse_config({"data": {"name": name}}, "x.yaml")
    assert "for 'data.name' in x.yaml: must be at most 50 letters" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["kitti", "synthetic_street_d", "Zürich", "v1.0+b-2", "_x", "深圳"]
)
def test_what_is_a_name_of_data(name: str) -> None:
    assert parse_config({"data": {"name": name}}, "x.yaml").data.name == name


@pytest.mark.parametrize("name", ["9", "009", "../09", "$(x)", "{x}", "09\n"])
def test_what_is_no_sequence(name: str) -> None:
    with pytest.raises(FadepthError, match=r"'odometry\.sequences' in x\.yaml: must be numbers"):
        parse_config({"odometry": {"sequences": [name]}}, "x.yaml")


def test_a_preset_that_would_run_something_is_no_yaml(place: Place) -> None:
    """Snakemake reads the files of `--configfile` before any code of ours."""
    bad = place.folder / "bad.yaml"
    bad.write_text('x: !!python/object/apply:os.system ["touch PWNED"]\n')
    done = place.snakemake("reports/table_ablation.csv", "--configfile", "bad.yaml")
    assert done.returncode != 0
    assert "not valid JSON or YAML" in done.stdout


# ---------------------------------------------------------------------------------- all shell lines

#: Wildcards that may hold nothing but small letters, digits, `_` and `-` (`wildcard_constraints`).
PLAIN = {
    *("network", "student", "teacher", "baseline", "table", "study", "benchmark", "place"),
    *("sequence", "pictured", "by"),
}


def shell_lines(path: Path) -> Iterator[str]:
    """The text of every `shell:` of a file of rules."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    words = [token for token in tokens if token.type not in (tokenize.NL, tokenize.COMMENT)]
    for number, word in enumerate(words):
        if word.string == "shell" and words[number + 1].string == ":":
            parts = []
            for after in words[number + 2 :]:
                if after.type == tokenize.STRING:
                    parts.append(ast.literal_eval(after.string))
                elif after.type not in (tokenize.NEWLINE, tokenize.INDENT):
                    break
            yield "".join(parts)


def test_every_shell_line_quotes_what_is_not_plain(repository: Path) -> None:
    lines = {
        (path.name, line)
        for path in (repository / "workflow" / "rules").glob("*.smk")
        for line in shell_lines(path)
    }
    assert len(lines) > 15
    bare = set()
    for file, line in lines:
        for _, field, spec, _ in string.Formatter().parse(line):
            kind, _, name = (field or "").partition(".")
            # Params are made in the rules: `shlex.join`, ids of runs, names of files of ours.
            safe = field in (None, "threads") or kind == "params" or spec == "q"
            if not safe and not (kind == "wildcards" and name in PLAIN):
                bare.add(f"{file}: {{{field}}} in {line}")
    assert bare == set()
