"""`fadepth bench latency`: which networks, that backends agree, what is told. Nothing on speed."""

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from fadepth.bench import backends, models
from fadepth.bench.backends import BACKENDS, Prepared, Subject, Task, Unavailable, prepare
from fadepth.bench.latency import (
    Budget,
    LatencyReport,
    Row,
    measure_latency,
    read_report,
    unsupported,
)
from fadepth.bench.models import (
    Candidate,
    FirstOutput,
    distinct,
    images_of,
    imported_network,
    own_network,
    street_frames,
)
from fadepth.cli import bench
from fadepth.errors import FadepthError
from fadepth.evaluation.latency import CpuWatch, Latency, Ratio
from fadepth.models import SmallDepth, fold
from fadepth.training import build_depth_network

CPU = torch.device("cpu")


class Net(nn.Module):
    """Something small with what backends treat differently."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 2, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1, groups=2)
        self.head = nn.Conv2d(width, 1, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.first(image))
        x = torch.relu(self.second(x)) + x
        x = torch.sigmoid(self.head(x))
        return nn.functional.interpolate(x, scale_factor=2, mode="bilinear")


def task(height: int = 64, width: int = 96, batch: int = 1) -> Task:
    frames = torch.rand(4, batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    return Task(frames[0], list(frames[1:]), CPU, 1)


def candidates(*names: str) -> list[Candidate]:
    torch.manual_seed(0)
    return [Candidate(name, Net().eval()) for name in names]


def ticking() -> CpuWatch:
    """A second a call, all of it on the processor."""
    wall, cpu = itertools.count(), itertools.count()
    return CpuWatch(lambda: float(next(wall)), lambda: float(next(cpu)))


def measure(*names: str, **changes: Any) -> LatencyReport:
    asked: dict[str, Any] = {"backends": ["eager"], "stopwatch": ticking(), "budget": Budget(6)}
    return measure_latency(candidates(*names), task(), reference=names[0], **(asked | changes))


# Networks


def test_own_networks_by_name() -> None:
    trained, folded = own_network("smalldepth"), own_network("smalldepth-folded")
    frames = street_frames(1, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(trained.network(frames), folded.network(frames))
    assert len(list(trained.network.parameters())) > len(list(folded.network.parameters()))
    dense = own_network("smalldepth-folded:dense")
    assert dense.name == "smalldepth-folded:dense"
    assert sum(p.numel() for p in dense.network.parameters()) == 1_917_217
    assert sum(p.numel() for p in own_network("monodepth2").network.parameters()) == 14_329_236
    assert not any(m.training for m in trained.network.modules())


@pytest.mark.parametrize("spec", ["smaldepth", "hqdecv2:dense", "", "monodepth2:dense"])
def test_names_that_are_none(spec: str) -> None:
    with pytest.raises(FadepthError, match=r"--models names .*use smalldepth, smalldepth-folded"):
        own_network(spec)
    with pytest.raises(FadepthError, match="unknown sparsity 'spars'"):
        own_network("smalldepth:spars")


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the working directory, as somebody's repository has it."""
    (tmp_path / "peerdepth").mkdir()
    (tmp_path / "peerdepth" / "nets.py").write_text(
        "import torch\n"
        "class Peer(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(3, 1, 3, padding=1)\n"
        "    def forward(self, x):\n"
        "        return {('disp', 0): torch.sigmoid(self.conv(x)), ('disp', 1): x}\n"
        "class Made:\n"
        "    small = staticmethod(lambda: Peer().double())\n"
        "def text():\n"
        "    return 'no network'\n"
        "def broken():\n"
        "    raise RuntimeError('no\\nweights')\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "peerdepth.nets"
    for name in [name for name in sys.modules if name.partition(".")[0] == "peerdepth"]:
        del sys.modules[name]


def test_anybodys_module_by_its_path(peer: str) -> None:
    named = imported_network(f"Peer one={peer}:Peer")
    assert named.name == "Peer one"
    image = torch.rand(2, 3, 32, 32)
    network = named.network
    assert isinstance(network, FirstOutput)
    expected = torch.sigmoid(network.network.conv(image))  # type: ignore[operator]
    torch.testing.assert_close(network(image), expected)
    inner = imported_network(f"{peer}:Made.small")
    assert inner.name == "Made.small"
    assert inner.network(image).dtype == torch.float32
    assert not inner.network.training


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("{}", "write package.module:factory"),
        ("{}:", "write package.module:factory"),
        ("={}:Peer", "write package.module:factory"),
        ("/etc/nets.py:Peer", "write package.module:factory"),
        ("nowhere.nets:Peer", "import of nowhere.nets failed: ModuleNotFoundError"),
        ("{}:Per", "has no 'Per'"),
        ("{}:number", "cannot be called: name a factory"),
        ("{}:text", r"text\(\) gives str, not a torch.nn.Module"),
        ("{}:broken", r"broken\(\) failed: RuntimeError: no$"),
    ],
)
def test_specs_that_give_no_network(peer: str, spec: str, told: str) -> None:
    with pytest.raises(FadepthError, match=told) as error:
        imported_network(spec.format(peer))
    assert "\n" not in str(error.value)


def test_two_networks_of_one_name() -> None:
    with pytest.raises(FadepthError, match="two networks are called 'a': write name="):
        distinct(candidates("a", "b", "a"))


def test_images_of_a_folder(tmp_path: Path) -> None:
    for name, level in (("b.png", 255), ("a.jpg", 0)):
        Image.fromarray(np.full((40, 50, 3), level, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    frames = images_of(tmp_path, 3, 16, 24)
    assert frames.shape == (3, 3, 16, 24)
    assert [round(float(frame.mean())) for frame in frames] == [0, 1, 0]
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(FadepthError, match=r"--images: .*a\.jpg cannot be read"):
        images_of(tmp_path, 1, 16, 24)
    with pytest.raises(FadepthError, match="holds no"):
        images_of(tmp_path / "none", 1, 16, 24)


# Backends


def on(backend: str, precision: str, folder: Path, network: nn.Module, asked: Task) -> Any:
    """Largest difference of the backend's disparity to eager float32."""
    try:
        prepared = prepare(Subject(network, asked, folder), backend, precision)
    except Unavailable as reason:
        if "cannot be imported" in str(reason) or (backend == "compile" and not which("g++")):
            pytest.skip(str(reason))
        raise
    with torch.inference_mode():
        expected = network(asked.images)
        found = prepared.output(prepared.call())
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


@pytest.mark.parametrize("backend", ["eager", "channels_last", "torchscript"])
@pytest.mark.parametrize("batch", [1, 2])
def test_torch_computes_the_same_everywhere(tmp_path: Path, backend: str, batch: int) -> None:
    network = own_network("smalldepth-folded").network
    before = [p.clone() for p in network.parameters()]
    assert on(backend, "fp32", tmp_path, network, task(batch=batch)) < 1e-5
    # The network itself is still what it was, plain and float32.
    for old, new in zip(before, network.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.is_contiguous()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "compile"])
def test_runtimes_compute_the_same(tmp_path: Path, backend: str) -> None:
    assert on(backend, "fp32", tmp_path, candidates("a")[0].network, task(batch=2)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "precision", "bound"),
    [
        ("eager", "bf16", 2e-2),
        ("channels_last", "bf16", 2e-2),
        ("torchscript", "bf16", 2e-2),
        ("openvino", "bf16", 2e-2),
        ("onnxruntime", "int8", 5e-2),
        ("openvino", "int8", 5e-2),
    ],
)
def test_few_bits_move_the_disparity_a_little(
    tmp_path: Path, backend: str, precision: str, bound: float
) -> None:
    """bf16 has 8 bits of mantissa, and so has int8; and neither is float32 under another name."""
    difference = on(backend, precision, tmp_path, candidates("a")[0].network, task())
    assert 1e-6 < difference < bound


def test_what_is_not_installed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(candidates("a")[0].network, task(), tmp_path)
    for package, backend in (("onnxruntime", "onnxruntime"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, package, None)  # importing it raises ImportError
        with pytest.raises(Unavailable, match=f"^{package} cannot be imported .*pip install"):
            prepare(subject, backend, "fp32")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(Unavailable, match=r"^onnx cannot be imported .*pip install"):
        prepare(subject, "onnxruntime", "fp32")


def test_a_failed_export_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    tried: list[str] = []

    def fail(*_: object, **__: object) -> None:
        tried.append("once")
        raise ValueError("no such operator\nand more")

    monkeypatch.setattr(backends, "export_network", fail)
    subject = Subject(candidates("a")[0].network, task(), tmp_path)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"onnx export failed: ValueError: no such operator$"):
            subject.onnx()
    assert tried == ["once"]


def test_an_export_that_nobody_asked_for_is_not_made(tmp_path: Path) -> None:
    subject = Subject(candidates("a")[0].network, task(), tmp_path, export=False)
    with pytest.raises(Unavailable, match="its export to ONNX takes many minutes"):
        prepare(subject, "onnxruntime", "fp32")
    assert list(tmp_path.iterdir()) == []


def test_gpu_and_cpu_backends_do_not_mix(tmp_path: Path) -> None:
    network = candidates("a")[0].network
    with pytest.raises(Unavailable, match="CUDA graphs need a GPU"):
        prepare(Subject(network, task(), tmp_path), "cudagraphs", "fp32")
    elsewhere = replace(task(), device=torch.device("cuda"))
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(Unavailable, match="is timed on CPUs only"):
            prepare(Subject(network, elsewhere, tmp_path), backend, "fp32")


def test_unsupported_types_are_listed() -> None:
    assert unsupported(["eager", "onnxruntime", "openvino"], ["fp32", "bf16", "int8"]) == {
        "bf16": ["onnxruntime"], "int8": ["eager"],
    }  # fmt: skip
    assert all("fp32" in backend.precisions for backend in BACKENDS.values())


# Reports


def test_rows_and_ratios() -> None:
    report = measure("yardstick", "ours", backends=["channels_last", "eager"])
    assert [(row.model, row.backend) for row in report.rows] == [
        ("yardstick", "channels_last"), ("yardstick", "eager"),
        ("ours", "channels_last"), ("ours", "eager"),
    ]  # fmt: skip
    for row in report.rows:
        # Everyone takes a second, and so do the looks at the clock.
        assert row.latency == Latency(1000, 1000, 1000, 1000, 6)
        assert row.fps == 1
        assert row.ratio == row.same == Ratio(1, 1, 1)
        assert row.problem is None
    costs = {cost.model: cost for cost in report.costs}
    parameters = 3 * 8 * 9 + 8 + 4 * 8 * 9 + 8 + 8 * 9 + 1
    assert costs["ours"].parameters == parameters
    assert costs["ours"].convolutions == 3
    assert report.task["size"] == [64, 96]
    assert (report.task["rounds"], report.task["settle"], report.task["batch"]) == (6, 1, 1)
    assert report.task["clean_share"] == 1
    assert report.machine["torch"] == torch.__version__
    assert report.machine["cores"] > 0


def test_images_a_second_count_the_batch() -> None:
    report = measure_latency(
        candidates("a"), task(batch=3), reference="a", backends=["eager"],
        budget=Budget(2), stopwatch=ticking(),
    )  # fmt: skip
    assert report.rows[0].fps == 3
    assert report.task["batch"] == 3


def test_the_yardstick_is_timed_in_eager_even_if_nobody_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    report = measure("a", "b", backends=["channels_last"], tell=seen.append)
    assert [(row.model, row.backend) for row in report.rows] == [
        ("a", "channels_last"), ("b", "channels_last"),
    ]  # fmt: skip
    assert "prepare a eager fp32" in seen
    assert "prepare b eager fp32" not in seen
    assert all(row.ratio is not None for row in report.rows)


def test_a_backend_that_computes_something_else_gets_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def off(by: float, dtype: str = "fp32") -> Any:
        def prepare(subject: Subject, precision: str) -> Prepared:
            network = subject.network
            return Prepared(lambda: network(subject.task.images) + by, lambda found: found)

        return replace(BACKENDS["torchscript"], prepare=prepare)

    monkeypatch.setitem(BACKENDS, "torchscript", off(2e-4))
    row = measure("a", backends=["torchscript"]).rows[0]
    assert row.latency is None
    assert row.problem == "wrong: differs from eager by 2.0e-04, more than 1e-04"
    monkeypatch.setitem(BACKENDS, "torchscript", off(5e-5))
    row = measure("a", backends=["torchscript"]).rows[0]
    assert row.problem is None
    assert row.difference == pytest.approx(5e-5, rel=1e-2)
    monkeypatch.setitem(BACKENDS, "torchscript", off(float("nan")))
    assert "wrong" in (measure("a", backends=["torchscript"]).rows[0].problem or "")
    # Fewer bits may differ; their difference is told.
    monkeypatch.setitem(BACKENDS, "torchscript", off(0.1))
    row = measure("a", backends=["torchscript"], precisions=["bf16"]).rows[0]
    assert row.difference == pytest.approx(0.1)
    assert row.latency is not None


def test_another_shape_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(subject: Subject, precision: str) -> Prepared:
        return Prepared(lambda: torch.zeros(1, 1, 2, 2), lambda found: found)

    monkeypatch.setitem(BACKENDS, "torchscript", replace(BACKENDS["torchscript"], prepare=prepare))
    row = measure("a", backends=["torchscript"]).rows[0]
    assert row.problem == "wrong: gives (1, 1, 2, 2), not (1, 1, 64, 96)"


class Refusing(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        raise FadepthError("needs larger images")


def test_a_network_that_does_not_run_is_a_row_and_a_yardstick_an_error() -> None:
    both = [*candidates("a"), Candidate("b", Refusing().eval())]
    report = measure_latency(
        both, task(), reference="a", backends=["eager", "torchscript"], budget=Budget(2),
        stopwatch=ticking(),
    )  # fmt: skip
    assert [row.problem for row in report.rows if row.model == "b"] == [
        "not available: needs larger images"
    ] * 2
    assert [cost.model for cost in report.costs] == ["a"]
    with pytest.raises(FadepthError, match="reference 'b' does not run here: needs larger images"):
        measure_latency(both, task(), reference="b", backends=["eager"])


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    report = measure("a", "b", backends=["eager", "cudagraphs"])
    assert report.rows[1].problem == "not available: CUDA graphs need a GPU"
    path = tmp_path / "report.json"
    path.write_text(report.json())
    assert read_report(path) == report
    assert json.loads(path.read_text())["rows"][0]["ratio"]["median"] == 1
    path.write_text('{"loading": []}')
    with pytest.raises(FadepthError, match="is no report of `fadepth bench latency`"):
        read_report(path)
    with pytest.raises(FadepthError, match="cannot be read: No such file"):
        read_report(tmp_path / "none.json")


# The command


def run(*arguments: str) -> str:
    result = CliRunner().invoke(bench.app, ["latency", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


FEW = ["--size", "64x96", "--rounds", "2", "--models", "smalldepth-folded:dense"]


def test_the_command_prints_writes_and_draws_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: str
) -> None:
    told = run(*FEW, "--backends", "eager,cudagraphs", "--model", f"peer={peer}:Peer",
               "--json", "speed.json", "--plot", "speed.png")  # fmt: skip
    report = read_report(tmp_path / "speed.json")
    names = ["smalldepth-folded:dense", "monodepth2", "peer"]
    assert [cost.model for cost in report.costs] == names
    assert [(row.model, row.backend) for row in report.rows if row.latency] == [
        (name, "eager") for name in names
    ]
    for row in report.rows:
        if row.latency is not None:
            assert row.ratio is not None
            assert f"{row.latency.median:.1f} ({row.latency.low:.1f} to" in told
            assert f"{row.ratio.median:.3f}" in told
    assert "peer, cudagraphs, fp32: not available: CUDA graphs need a GPU" in told
    for said in ("1,917,217", "14,329,236", torch.__version__, "64x96", "2 rounds", "1 thread(s)"):
        assert said in told
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "speed.pdf").exists()
    # And again from the file, without measuring.
    assert run("--read", "speed.json") == told


def test_a_trained_run_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tiny import tiny_config

    config = tiny_config(tmp_path, student__width=0.25)
    network = build_depth_network(config, "student").eval()
    assert isinstance(network, SmallDepth)
    monkeypatch.setattr(models, "load_depth_network", lambda path: (network, config))
    found = models.network_of_run("plain-s1", Path("runs"))
    assert found.name == "plain-s1"
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(found.network(image), fold(network)(image))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--backends", "eager,tensorrt"], "--backends is 'eager,tensorrt': write some of eager,"),
        (["--precisions", "fp32,fp32"], "--precisions is 'fp32,fp32': write some of fp32,bf16"),
        (["--reference", "peer"], "--reference is 'peer': use a network that is timed"),
        (["--models", "unet"], "--models names 'unet'"),
        (["--size", "192"], "--size is '192'"),
        (["--size", "64x100"], "reference 'monodepth2' does not run here: Monodepth2 needs sides"),
        (["--plot", "ratios.svg"], "--plot is ratios.svg: it must end in .png"),
        (["--run", "nothing-s1"], "nothing-s1"),
        (["--device", "tpu"], "--device is 'tpu': use cpu, or cuda"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FadepthError, match=told):
        run(*FEW, "--backends", "eager", *arguments)


def test_names_are_printed_as_they_are(tmp_path: Path) -> None:
    report = measure("[red]a")
    assert isinstance(report.rows[0], Row)
    (tmp_path / "report.json").write_text(report.json())
    assert "[red]a" in run("--read", str(tmp_path / "report.json"))
