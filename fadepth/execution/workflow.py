"""Between the package and Snakemake: what jobs inherit from it, and how commands ask it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fadepth.config import merge
from fadepth.errors import FadepthError
from fadepth.fingerprint import PACKAGE
from fadepth.survival import WORKFLOW, name_workflow

_CHECKOUT = PACKAGE.parent


#: How glibc's malloc treats a training, which takes and gives back the same large tensors at every
#: step: by default it hands them to the kernel and fetches and zeroes new pages each time. Keeping
#: them, in huge pages where the kernel has any, saves about a tenth of a step's time on a CPU
#: (docs/decisions/020). Elsewhere the variable has no effect.
MALLOC = ":".join(
    [
        "glibc.malloc.hugetlb=1",
        f"glibc.malloc.mmap_threshold={2**30}",
        f"glibc.malloc.trim_threshold={2**32}",
        f"glibc.malloc.top_pad={2**26}",
    ]
)


def set_environment(checkout: Path) -> None:
    """Set the variables that every job of this Snakemake starts with.

    `python` is the one that runs Snakemake, whether or not its environment is activated; with
    `--sdm conda` an activated environment comes before it.
    """
    bin_folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = _first(bin_folder, os.environ.get("PATH"))
    os.environ["PYTHONPATH"] = _first(str(checkout), os.environ.get("PYTHONPATH"))
    # libgomp's spinning threads ruin each other on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Containers like to forbid byte code. Then every job compiles torch and pandas anew: 1 to 4 s.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("GLIBC_TUNABLES", MALLOC)
    os.environ[WORKFLOW] = name_workflow()


def _first(entry: str, others: str | None) -> str:
    rest = [part for part in (others or "").split(os.pathsep) if part and part != entry]
    return os.pathsep.join([entry, *rest])


def calm_scheduler() -> None:
    """Let Snakemake choose jobs when one has ended, and not many times a second; call it once.

    Snakemake starts at most 100 jobs a second, so it looks again a second after each look at jobs
    that wait. Each job that ends adds a look, and all of them come back: with 100 jobs behind it
    Snakemake looks 100 times a second, and solves a linear program each time, until no job waits
    (9.27; https://github.com/snakemake/snakemake/pull/3744). Of a study of 125 short jobs this was
    a third of all CPU time. Here it looks again only where that limit has held something back.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    look_later = getattr(JobScheduler, "_schedule_reevalutation", None)
    if look_later is None:
        return  # another Snakemake: nothing is to be said about its scheduler

    def look_later_if_limited(scheduler: Any, delay: float) -> None:
        limiter = scheduler.job_rate_limiter
        if limiter is None or delay != limiter.timespan or not limiter.get_free_jobs():
            look_later(scheduler, delay)

    JobScheduler._schedule_reevalutation = look_later_if_limited


def mirrored_since(links: Path, runs: Path, began: float) -> bool:
    """Whether rule `link_runs` has mirrored all runs as they are into MLflow, in this call.

    Args:
        links: what it wrote: addresses, none where MLflow failed.
        runs: folder of the runs.
        began: when Snakemake began, seconds since 1970; a store may be another one now than before.
    """
    try:
        written = links.stat().st_mtime
        found = json.loads(links.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    changed = (path.stat().st_mtime for path in runs.rglob("*.json"))
    return bool(found) and written >= began and all(when <= written for when in changed)


def find_snakefile(folder: Path) -> Path:
    """The folder's `Snakefile`, else that of the checkout.

    Raises:
        FadepthError: there is neither.
    """
    for path in (folder / "Snakefile", _CHECKOUT / "Snakefile"):
        if path.is_file():
            return path
    raise FadepthError(
        f"there is no Snakefile in {folder} nor in {_CHECKOUT}: call fadepth in a checkout"
    )


def ask_snakemake(
    targets: Sequence[str], presets: Sequence[Path], overrides: Mapping[str, Any], *options: str
) -> str:
    """What Snakemake prints for the targets when called with options that start nothing.

    Raises:
        FadepthError: Snakemake refuses; what it says is passed on.
    """
    # Targets come first: --configfile would take them for files.
    command = [sys.executable, "-m", "snakemake", *targets, *options]
    # It only looks: a running workflow may hold the lock, and what was cut short counts as due.
    command += ["--nolock", "--rerun-incomplete"]
    command += ["--snakefile", str(find_snakefile(Path.cwd()))]
    command += ["--cores", str(len(os.sched_getaffinity(0)))]
    if presets:
        command += ["--configfile", *map(str, presets)]
    if overrides:
        # Snakemake knows no dotted keys.
        nested = merge({}, dict(overrides))
        command += ["--config", *(f"{key}={json.dumps(value)}" for key, value in nested.items())]
    inherited = os.environ | {"PYTHONPATH": _first(str(_CHECKOUT), os.environ.get("PYTHONPATH"))}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=inherited)
    if result.returncode:
        raise FadepthError(f"snakemake cannot plan {' '.join(targets)}: {_sentence(result.stderr)}")
    return result.stdout


def _sentence(stderr: str) -> str:
    """What Snakemake has to say, without its greetings, headings and tracebacks."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        return lines[-1]
    told = []
    for line in lines:
        if line in ("Wildcards:", "Traceback:") or line.startswith('File "'):
            break
        greeting = line.startswith(("Using ", "Building DAG", "Assuming ", "host: "))
        heading = re.match(r"^(\w*(Error|Exception)( in .*)?|Error):$", line)
        if not greeting and not heading:
            told.append(line)
    return " ".join(told) or "it gives no reason"
