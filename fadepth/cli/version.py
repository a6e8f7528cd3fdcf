"""`fadepth --version`."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

import fadepth


def version() -> str:
    """Versions that can change a number; torch is asked for its version without being imported."""
    try:
        torch = version_of("torch")
    except PackageNotFoundError:
        torch = "not installed"
    return (
        f"fadepth {fadepth.__version__}{_commit()}, torch {torch}, "
        f"Python {platform.python_version()}"
    )


def _commit() -> str:
    """` (commit 1a2b3c4)` in a checkout; empty where the package is installed otherwise."""
    package = Path(fadepth.__file__).resolve().parent
    if not (package.parent / ".git").exists():
        return ""  # a repository above it would be another one
    from fadepth.provenance import git_state

    commit, changed = git_state(package)
    if commit is None:
        return ""
    return f" (commit {commit[:10]}{' with uncommitted changes' if changed else ''})"
