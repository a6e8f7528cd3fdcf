"""Where a result comes from: `manifest.json` in every run folder."""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fadepth.files import write_atomic
from fadepth.run import Run


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit and whether tracked files differ from it; (None, None) outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def environment(threads: int) -> dict[str, Any]:
    """Versions and machine, as far as they can change a number."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "threads": threads,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


class RunManifest:
    """`manifest.json` of one run: written at the start, completed at the end."""

    def __init__(self, run: Run, folder: Path, data_hash: str, threads: int) -> None:
        commit, dirty = git_state(Path(__file__).parent)
        self.path = folder / "manifest.json"
        self.content: dict[str, Any] = {
            "run_id": run.id,
            "kind": run.kind,
            "row": run.label,
            "study": run.study,
            "factors": dict(run.factors),
            "seed": run.seed,
            "scale": run.config.scale,
            "dataset": run.config.data.name,
            "status": "running",
            "started": time.time(),
            "ended": None,
            "commit": commit,
            "dirty": dirty,
            "data_hash": data_hash,
            "config_hash": run.config_hash,
            "code_hash": run.code_hash,
            "modules": run.code_fingerprints,
            "environment": environment(threads),
            "host": platform.node(),
            "pid": os.getpid(),
            "command": shlex.join(["python", "-m", "fadepth", *sys.argv[1:]]),
            "teacher": run.teacher.id if run.teacher else None,
        }

    def write(self, **changes: Any) -> None:
        """Set some fields and write the file."""
        self.content |= changes
        write_atomic(self.path, json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")

    def started_earlier(self) -> None:
        """Keep the first start of a training that goes on from its checkpoint."""
        if self.path.exists():
            try:
                self.content["started"] = json.loads(self.path.read_text())["started"]
            except (ValueError, KeyError):
                return
