"""What all commands share: logging, presets and studies by name, options."""

import difflib
import gc
import json
import logging
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fadepth.cli import completing
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from fadepth.config import Config
    from fadepth.run import Run
    from fadepth.study import Study

# Settings and studies are imported inside functions: pydantic and numpy take longer to start than
# all that `fadepth --help` needs.

log = logging.getLogger("fadepth")

DEFAULT_PRESET = Path("config/quick.yaml")
STUDIES = Path("ablations")
RUNS = Path("runs")
STORE = "sqlite:///mlflow.db"

# Options that many commands share, with one name, one metavar and one sentence each.

Presets = Annotated[
    list[Path] | None,
    typer.Option(
        "--preset",
        metavar="FILE",
        autocompletion=completing.presets,
        help="Settings; may be repeated, later files on top of earlier ones; default: "
        f"{DEFAULT_PRESET}.",
    ),
]
Override = Annotated[
    str,
    typer.Option(
        metavar="JSON",
        show_default=False,
        help="Settings on top of the preset, such as '{\"seeds\": [1, 2]}'.",
    ),
]
Threads = Annotated[int, typer.Option(min=1, metavar="N", help="CPU threads of this process.")]
#: Under its present name, and the one that older scripts use.
Workers = Annotated[
    int | None,
    typer.Option(
        "--threads",
        "--workers",
        min=1,
        metavar="N",
        help="CPU threads; default: all processors.",
    ),
]
Log = Annotated[
    Path | None,
    typer.Option("--log", metavar="FILE", help="Also write everything that is said to this file."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Also write every number as JSON; -: to stdout."),
]
Manifest = Annotated[
    Path,
    typer.Option(
        metavar="FILE", help="List of the data's files, data/NAME/manifest.jsonl ('data manifest')."
    ),
]
Size = Annotated[str, typer.Option(metavar="HEIGHTxWIDTH", help="Size of the images, pixels.")]
RunId = Annotated[
    str,
    typer.Argument(
        metavar="RUN_ID",
        autocompletion=completing.run_ids,
        help="Name of the run; 'fadepth runs' lists them.",
    ),
]
TableName = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        autocompletion=completing.tables,
        help="Name of the table, such as table_ablation, or of its study.",
    ),
]


class Sparse(logging.Filter):
    """Lets through warnings, and of other lines one in `seconds`: for a terminal shared by jobs."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.last = -float("inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record goes to the terminal."""
        if getattr(record, "file_only", False):
            return False
        if record.levelno < logging.WARNING and record.created - self.last < self.seconds:
            return False
        self.last = record.created
        return True


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import torch without looking for garbage in the half million objects that it makes.

    They live as long as the process, so collections find nothing in them: neither while they are
    made nor later, since they are set apart (`gc.freeze`). Saves a tenth of the import.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def set_up_logging(prefix: str, log_file: Path | None) -> None:
    """Everything to `log_file`, a line now and then to the terminal."""
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter(f"[{prefix}] %(message)s"))
    terminal.addFilter(Sparse(20))
    handlers: list[logging.Handler] = [terminal]
    if log_file:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log_file, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(file)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # tells of each table of a font


def load_preset(presets: list[Path] | None, override: str = "{}") -> tuple[dict[str, Any], str]:
    """Merge preset files and overrides; also the name under which errors speak of them."""
    from fadepth.config import load_yaml, merge

    files = presets or [DEFAULT_PRESET]
    settings: dict[str, Any] = {}
    for file in files:
        settings = merge(settings, load_yaml(file))
    extra = parse_override(override)
    origin = " + ".join(str(file) for file in files)
    return merge(settings, extra), origin + (" + overrides" if extra else "")


def parse_override(text: str) -> dict[str, Any]:
    """Settings of `--override`.

    Raises:
        FadepthError: it is no JSON object.
    """
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise FadepthError(
            f'--override is not a JSON object ({error}): write it as {{"key": value}}'
        ) from None


def snakemake_call(target: str, presets: list[Path] | None, override: str) -> str:
    """The call of Snakemake that makes `target` with these settings, for people to copy."""
    from fadepth.config import merge

    words = ["snakemake", "--cores", "8", target]
    if presets and presets != [DEFAULT_PRESET]:
        words += ["--configfile", *map(str, presets)]
    if extra := merge({}, parse_override(override)):
        words += ["--config", *(f"{key}={json.dumps(value)}" for key, value in extra.items())]
    return shlex.join(words)


def load_all_studies(
    presets: list[Path] | None, override: str
) -> tuple[dict[str, "Study"], dict[str, str]]:
    """Every study of `ablations/` on the preset, and tables that it has no data for."""
    from fadepth.study import resolve_and_leave_out

    return resolve_and_leave_out(STUDIES, *load_preset(presets, override), parse_override(override))


def load_studies(presets: list[Path] | None, override: str) -> dict[str, "Study"]:
    """Every study of `ablations/` whose data the preset has."""
    return load_all_studies(presets, override)[0]


def find_run(run_id: str, presets: list[Path] | None, override: str) -> "Run":
    """The run of that id, resolved again from study and preset.

    Raises:
        FadepthError: no study gives that run with this preset.
    """
    from fadepth.study import unique_runs

    known = unique_runs(load_studies(presets, override).values())
    if run_id not in known:
        raise FadepthError(
            f"no study in {STUDIES}/ gives a run '{run_id}' with this preset: "
            "'fadepth runs' lists those that there are"
        )
    return known[run_id]


def find_config(folder: str, presets: list[Path] | None, override: str) -> "Config":
    """Settings of the studies whose manifest lies in `data/<folder>/`.

    Raises:
        FadepthError: no study uses such data.
    """
    from fadepth.study import unique_runs

    for run in unique_runs(load_studies(presets, override).values()).values():
        if run.data_folder == folder:
            return run.config
    raise FadepthError(f"no study in {STUDIES}/ uses the data '{folder}' with this preset")


def find_benchmark_config(
    name: str, place: str, presets: list[Path] | None, override: str
) -> "Config":
    """Settings of a study that has a benchmark of that name in that place (`benchmark_place`).

    Raises:
        FadepthError: no study has it.
    """
    from fadepth.study import config_with_benchmark

    studies = load_studies(presets, override).values()
    if config := config_with_benchmark(studies, name, place, Path.cwd()):
        return config
    raise FadepthError(f"no study in {STUDIES}/ has a benchmark '{name}' at {place}")


def find_study(name: str, presets: list[Path] | None, override: str) -> "Study":
    """The study of that name, or that feeds the table of that name.

    Raises:
        FadepthError: there is none; those that there are are listed.
    """
    studies, left_out = load_all_studies(presets, override)
    by_name = {study.file.name: study for study in studies.values()} | studies
    if name not in by_name:
        near = difflib.get_close_matches(name, [*by_name, *left_out], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        known = f"no study feeds '{name}': {hint}there are {', '.join(studies)}"
        raise FadepthError(left_out.get(name, known))
    return by_name[name]


def machine_line(machine: Mapping[str, Any], *packages: str) -> str:
    """What a benchmark's figures hold for: processor, threads, versions."""
    versions = "".join(f" · {name} {machine[name.lower()]}" for name in packages)
    return (
        f"{machine['processor']} · {machine['cores']} cores · {machine['device']} · "
        f"{machine['torch_threads']} torch thread(s) · Python {machine['python']} · "
        f"torch {machine['torch']}{versions}"
    )


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of `--size`.

    Raises:
        FadepthError: it is not two whole numbers above 0 with an x between.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise FadepthError(f"--size is '{text}': write height x width in pixels, such as 192x640")
    return int(match[1]), int(match[2])


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Called with (done, in all): a bar on a terminal, else a line for every twentieth."""
    if not sys.stderr.isatty():
        yield partial(_log_twentieths, title)
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _log_twentieths(title: str, done: int, total: int | None) -> None:
    if total and 20 * done // total > 20 * (done - 1) // total:
        log.info("%s: %d of %d files", title, done, total)
