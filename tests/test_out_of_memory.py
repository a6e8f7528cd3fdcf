"""Memory that runs out is told in one sentence, and the training goes on from its checkpoint."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fadepth import cli
from fadepth.data.dataset import load_batches
from fadepth.data.manifest import Manifest
from fadepth.run import Run
from tests.tiny import tiny_config, tiny_manifest

#: `fadepth train` of a tiny run in the working folder. What is done at a step: `stop`, as a
#: workflow that ends; `starve`: the process may take 16 MB more, and no more than that.
TRAIN = """
import os, resource, signal, sys
from pathlib import Path

from fadepth import cli
from fadepth.training import Training
from tests.test_out_of_memory import tiny_run

run, (at, what) = tiny_run(Path.cwd()), sys.argv[1:]
cli.find_run = lambda *_: run
losses = Training.losses

def watched(self, batch, step):
    if step == int(at) and what == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    if step == int(at) and what == "starve":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 16 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return losses(self, batch, step)

Training.losses = watched
sys.argv = ["fadepth", "train", run.id, "--manifest", "m.jsonl", "--log", "train.log"]
cli.main()
"""


def tiny_run(folder: Path) -> Run:
    """A step of it takes some 100 MB."""
    path = folder / "m.jsonl"
    manifest = Manifest.read(path) if path.exists() else tiny_manifest(folder)
    manifest.write(path)
    config = tiny_config(
        folder, data__height=128, data__width=192, training__batch_size=6,
        training__steps_per_epoch=2, training__epochs=2,
    )  # fmt: skip
    return Run("student", "tiny", "tiny", {}, 1, config, "0" * 10, "study")


def train(folder: Path, at: int = 0, what: str = "nothing") -> subprocess.CompletedProcess[str]:
    repository = Path(cli.__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", TRAIN, str(at), what],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )


def sentences(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("fadepth: ")]


@pytest.mark.slow
def test_a_training_that_runs_out_of_memory_says_so_and_goes_on_later(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    folder = tmp_path / "runs" / run.id
    assert train(tmp_path).returncode == 0
    undisturbed = torch.load(folder / "model.pt", weights_only=True)
    folder.rename(tmp_path / "undisturbed")

    assert train(tmp_path, 1, "stop").returncode == 143
    checkpoint = (folder / "ckpt" / "last.pt").read_bytes()

    # A fresh process: nothing that it freed before could serve instead.
    starved = train(tmp_path, 2, "starve")
    assert starved.returncode == 2, starved.stderr
    assert "Traceback" not in starved.stderr
    told = sentences(starved.stderr)
    assert len(told) == 1
    assert told[0].startswith("fadepth: memory ran out")
    for part in ("'training.batch_size'", "'data.height'", "'data.width'", "last checkpoint"):
        assert part in told[0]
    assert told[0].removeprefix("fadepth: ") in (tmp_path / "train.log").read_text()
    assert (folder / "ckpt" / "last.pt").read_bytes() == checkpoint
    assert not (folder / "model.pt").exists()

    assert train(tmp_path).returncode == 0
    resumed = torch.load(folder / "model.pt", weights_only=True)
    for name in ("depth", "pose"):
        assert resumed[name].keys() == undisturbed[name].keys()
        for key, value in undisturbed[name].items():
            assert torch.equal(resumed[name][key], value), key


def say(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What `fadepth` prints when a command raises `error`; it ends with code 2."""

    def command() -> None:
        raise error

    monkeypatch.setattr(cli, "app", command)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fadepth: ")
    return line


class Greedy(torch.utils.data.Dataset[torch.Tensor]):
    """Asks for more memory than any machine has, as torch, numpy or Python do."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.kind == "torch":
            return torch.empty(2**58, dtype=torch.uint8)
        if self.kind == "numpy":
            return torch.from_numpy(np.empty(2**58, dtype=np.uint8))
        return torch.frombuffer(bytearray(2**58), dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["torch", "numpy", "python"])
@pytest.mark.parametrize("workers", [0, 1])
def test_whoever_asks_for_memory_in_whichever_process(
    kind: str, workers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        list(load_batches(Greedy(kind), [[0]], workers))  # type: ignore[arg-type, list-item]
    told = say(raised.value, monkeypatch, capsys)
    assert "memory ran out" in told
    assert "'training.batch_size'" in told


class Killed(torch.utils.data.Dataset[torch.Tensor]):
    """Dies as what the system chooses when memory runs out."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        os.kill(os.getpid(), 9)
        raise AssertionError


def test_a_data_loading_process_that_the_system_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError) as raised:
        list(load_batches(Killed(), [[0]], 1))  # type: ignore[arg-type, list-item]
    told = say(raised.value, monkeypatch, capsys)
    assert "the system killed a data loading process" in told
    assert "'training.workers'" in told


def test_a_data_loading_process_whose_signal_was_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What torch says where another of its handlers has seen the end of the process first."""
    error = RuntimeError("DataLoader worker (pid(s) 14295) exited unexpectedly")
    assert "the system killed a data loading process" in say(error, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.79 "
            "GiB of which 1.12 GiB is free. Process 1 has 6.66 GiB memory in use.",
            "2.50 GiB",
        ),
        ("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", None),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", None),
    ],
)
def test_a_gpu_names_its_own_memory(
    text: str, size: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = say(torch.OutOfMemoryError(text), monkeypatch, capsys)
    assert "memory of the GPU ran out" in told
    assert "'training.batch_size'" in told
    # One job has the GPU: fewer of them do not help.
    assert "train_slot" not in told
    assert re.findall(r"[\d.]+ GiB", told) == ([size] if size else [])


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
        "dataloader's workers are out of shared memory. Please try to raise your shared memory "
        "limit.",
        "unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)",
    ],
)
def test_shared_memory_has_remedies_of_its_own(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = say(RuntimeError(text), monkeypatch, capsys)
    assert "shared memory (/dev/shm) ran out" in told
    assert "--shm-size" in told
    assert "'training.workers' to 0" in told


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("could not create a primitive descriptor for a convolution"),
        RecursionError("maximum recursion depth exceeded"),
        OSError(5, "Input/output error"),
    ],
)
def test_other_errors_keep_their_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> None:
        raise error

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(type(error)) as raised:
        cli.main()
    assert raised.value is error
