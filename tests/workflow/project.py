"""A working folder in which Snakemake and the commands run."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Project:
    """A folder in which Snakemake and the commands run."""

    folder: Path
    repository: Path

    @property
    def environment(self) -> dict[str, str]:
        """One thread, and the checkout's package."""
        return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.repository)}

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the workflow here; both streams in `stdout`."""
        command = [sys.executable, "-m", "snakemake", "--snakefile"]
        command += [str(self.repository / "Snakefile"), "--cores", "8", *arguments]
        return self._run(command)

    def fadepth(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the package's commands here."""
        return self._run([sys.executable, "-m", "fadepth", *arguments])

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command and come back at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "fadepth", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


def make_project(folder: Path, repository: Path) -> Project:
    """Link presets and studies into an empty folder."""
    for name in ("config", "ablations"):
        (folder / name).symlink_to(repository / name)
    return Project(folder, repository)
