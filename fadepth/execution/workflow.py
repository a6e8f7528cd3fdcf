"""What the workflow's jobs inherit from the process that reads the Snakefile."""

import os
import sys
from pathlib import Path

from fadepth.survival import WORKFLOW, name_workflow


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
    os.environ[WORKFLOW] = name_workflow()


def _first(entry: str, others: str | None) -> str:
    rest = [part for part in (others or "").split(os.pathsep) if part and part != entry]
    return os.pathsep.join([entry, *rest])
