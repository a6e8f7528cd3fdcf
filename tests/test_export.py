"""Exported networks compute what PyTorch does, at any size, and say what they are."""

import itertools
import json
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from fadepth import export
from fadepth.cli import app
from fadepth.errors import FadepthError
from fadepth.export import FORMATS, SUFFIXES, Format, export_network, export_run, read_metadata
from fadepth.files import file_digest
from fadepth.geometry import disparity_to_depth
from fadepth.models import HQDecV2, SmallDepth, fold
from fadepth.models.hqdec import ChannelAttention, GlobalMap, Level
from tests.tiny import tiny_config

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

SIZE = (96, 160)
SHAPES = [(1, 3, 192, 640), (3, 3, 188, 620), (2, 3, 33, 47), (5, 3, 64, 64)]
EXAMPLE = "docs/examples/infer_onnx.py"


def lively(network: nn.Module) -> nn.Module:
    """Batch norms and heads as after a training: statistics of images, disparity that varies."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.7, 1.3, generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            coarse = torch.rand(2, 3, 6, 10, generator=generator)
            network(nn.functional.interpolate(coarse, SIZE, mode="bilinear"))
    return network.eval()


@pytest.fixture(scope="module")
def unfolded() -> nn.Module:
    torch.manual_seed(0)
    network = SmallDepth("ac", width=0.5)
    nn.init.normal_(network.head.weight, std=1.0)
    return lively(network)


@pytest.fixture(scope="module")
def files(unfolded: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[Format, Path]:
    """The same network in every format, written for `SIZE` and with a fact of its own."""
    folder = tmp_path_factory.mktemp("exported")
    return {
        format: export_network(
            fold(unfolded), folder / f"depth{SUFFIXES[format]}", format,
            height=SIZE[0], width=SIZE[1], metadata={"run": 'a "run" & <more>'},
        )
        for format in FORMATS
    }  # fmt: skip


def in_its_runtime(path: Path, format: Format) -> Callable[[Tensor], Tensor]:
    """Another reader than the package's."""
    if format == "torchscript":
        return torch.jit.load(path)
    if format == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda image: torch.from_numpy(
            session.run(["disparity"], {"image": image.numpy()})[0]
        )
    openvino = pytest.importorskip("openvino")
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: torch.from_numpy(compiled({"image": image.numpy()})["disparity"])


@pytest.mark.parametrize("format", FORMATS)
@torch.no_grad()
def test_file_computes_what_the_trained_network_does_at_any_size(
    format: Format, files: dict[Format, Path], unfolded: nn.Module
) -> None:
    """The truth is the network as it was trained, with all its branches."""
    call = in_its_runtime(files[format], format)
    for shape in SHAPES:
        image = torch.rand(shape, generator=torch.Generator().manual_seed(2))
        expected = unfolded(image)
        assert expected.std() > 0.05, "a flat map would hide differences"
        found = call(image)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-4, shape


@pytest.mark.parametrize("format", FORMATS)
def test_file_says_what_it_is_and_how_disparity_becomes_depth(
    format: Format, files: dict[Format, Path]
) -> None:
    facts = read_metadata(files[format], format)
    assert facts["run"] == 'a "run" & <more>'
    assert facts["free_axes"].split() == ["batch", "height", "width"]
    assert (facts["height"], facts["width"]) == ("96", "160")
    names = {"min_depth": float(facts["min_depth"]), "max_depth": float(facts["max_depth"])}
    for disparity in (0.0, 0.01, 0.5, 1.0):
        depth = eval(facts["depth"], {}, {**names, "disparity": disparity})
        assert depth == pytest.approx(float(disparity_to_depth(torch.tensor(disparity))))


def test_facts_lie_where_each_format_keeps_them(files: dict[Format, Path]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    openvino = pytest.importorskip("openvino")
    session = onnxruntime.InferenceSession(files["onnx"], providers=["CPUExecutionProvider"])
    extra = {"metadata.json": ""}
    torch.jit.load(files["torchscript"], _extra_files=extra)
    model = openvino.Core().read_model(files["openvino"])
    assert (
        session.get_modelmeta().custom_metadata_map
        == json.loads(extra["metadata.json"])
        == dict(model.get_rt_info("fadepth").value)
    )


def test_graph_is_convolutions_and_little_else(files: dict[Format, Path]) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(files["onnx"])
    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert {kind: kinds.pop(kind) for kind in ("Conv", "Relu", "Resize", "Sigmoid")} == {
        "Conv": 35, "Relu": 34, "Resize": 5, "Sigmoid": 1,
    }  # fmt: skip
    assert kinds.keys() <= {"Add", "Shape", "Squeeze", "Reshape", "Concat", "Div"}
    (image,), (disparity,) = model.graph.input, model.graph.output
    for value, channels in ((image, 3), (disparity, 1)):
        batch, depth, *size = value.type.tensor_type.shape.dim
        assert depth.dim_value == channels
        assert [side.dim_param for side in (batch, *size)] == ["batch", "height", "width"]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_file_holds_no_path_of_this_machine(
    format: Format, files: dict[Format, Path], repository: Path
) -> None:
    content = files[format].read_bytes()
    assert str(repository).encode() not in content
    assert b".py" not in content


# What cannot be free


class Bound(nn.Module):
    """For one size of images, with what HQDecV2 has and SmallDepth has not."""

    def __init__(self, batch: int | None = None) -> None:
        super().__init__()
        self.batch = batch
        self.conv = nn.Conv2d(3, 16, 3, 2, 1)
        self.attention = ChannelAttention(16)
        self.tokens = GlobalMap(16, Level(16, 8, 1, 1.0), 2)
        self.last = nn.Conv2d(self.tokens.width, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2:] != SIZE:
            raise FadepthError(f"only {SIZE}")
        if self.batch and image.shape[0] != self.batch:
            raise FadepthError(f"only {self.batch} images")
        x = self.tokens(self.attention(self.conv(image)))
        return torch.sigmoid(nn.functional.interpolate(self.last(x), scale_factor=2.0))


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
@pytest.mark.parametrize(("batch", "free"), [(None, "batch"), (1, "")])
@torch.no_grad()
def test_what_the_network_cannot_vary_is_fixed_and_told(
    format: Format, batch: int | None, free: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = Bound(batch).eval()
    path = tmp_path / f"bound{SUFFIXES[format]}"
    export_network(network, path, format, height=SIZE[0], width=SIZE[1])
    assert read_metadata(path, format)["free_axes"] == free
    call = in_its_runtime(path, format)
    for number in (1, 3) if free else (1,):
        image = torch.rand(number, 3, *SIZE)
        assert torch.allclose(call(image), network(image), rtol=0, atol=1e-4)


class Strided(nn.Module):
    """Takes sizes that are multiples of 32, as U-Nets with concatenation do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        coarse = nn.functional.avg_pool2d(image, 32)
        return torch.sigmoid(
            self.conv(image + nn.functional.interpolate(coarse, scale_factor=32.0))
        )


def test_sizes_that_the_network_refuses_are_no_failure(tmp_path: Path) -> None:
    network = Strided().eval()
    path = export_network(network, tmp_path / "a.pt", "torchscript", height=96, width=160)
    assert read_metadata(path, "torchscript")["free_axes"] == "batch height width"


@torch.no_grad()
def test_hqdecv2_takes_any_number_of_images_of_one_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = HQDecV2(0.05, 0.01).eval()
    path = export_network(network, tmp_path / "t.pt", "torchscript", height=64, width=96)
    assert read_metadata(path, "torchscript")["free_axes"] == "batch"
    image = torch.rand(3, 3, 64, 96)
    assert torch.allclose(torch.jit.load(path)(image), network(image), rtol=0, atol=1e-4)


# What is kept, and what is refused


def disturbed(by: float) -> Callable[..., Callable[[Tensor], Tensor]]:
    """A stand-in for a runtime that computes something else at odd sizes only."""

    def load(path: Path, format: Format, weights: Path | None = None) -> Callable[[Tensor], Tensor]:
        call = LOAD(path, format, weights)
        return lambda image: call(image) + (by if image.shape[-1] % 2 else 0)

    return load


LOAD = export.load_exported


@pytest.fixture
def run(unfolded: nn.Module, tmp_path: Path) -> Path:
    """The folder of a trained run in `tmp_path/runs/`."""
    folder = tmp_path / "runs" / "tiny-s1-0123456789"
    folder.mkdir(parents=True)
    config = tiny_config(
        tmp_path, student__width=0.5, student__etm__space="activation", student__etm__branches="ac",
        data__height=SIZE[0], data__width=SIZE[1],
    )  # fmt: skip
    content = {
        "kind": "student",
        "config": config.model_dump(mode="json"),
        "depth": unfolded.state_dict(),
    }
    torch.save(content, folder / "model.pt")
    (folder / "manifest.json").write_text(json.dumps({"commit": "abc123"}))
    return folder


@pytest.mark.parametrize(
    ("format", "by"),
    [("torchscript", 2e-4), ("torchscript", float("nan")), ("openvino", 2e-4)],
)
def test_a_file_that_computes_something_else_is_not_kept(
    format: Format,
    by: float,
    run: Path,
    files: dict[Format, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if format == "openvino":  # from the ONNX that is there: making it takes seconds
        model = export.optional_package("onnx").load(files["onnx"])
        monkeypatch.setattr(export, "_onnx_model", lambda *_: (model, export.EVERY))
    older = run / "export" / f"{run.name}{SUFFIXES[format]}"
    older.parent.mkdir()
    older.write_text("older")
    monkeypatch.setattr(export, "load_exported", disturbed(by))
    with pytest.raises(FadepthError, match=r"is not kept: .*(differs by .* from PyTorch)"):
        export_run(run.name, run.parent, format)
    assert [path.name for path in older.parent.iterdir()] == [older.name]
    assert older.read_text() == "older"


def test_a_runtime_that_fails_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Callable[[Tensor], Tensor]:
        def call(image: Tensor) -> Tensor:
            raise RuntimeError("no such\noperation")

        return call

    monkeypatch.setattr(export, "load_exported", load)
    with pytest.raises(FadepthError, match=r"fails \(no such operation\): use another --format"):
        export_run(run.name, run.parent, "torchscript")
    assert not list((run / "export").iterdir())


@pytest.mark.parametrize(
    ("format", "package"), [("onnx", "onnx"), ("onnx", "onnxruntime"), ("openvino", "openvino")]
)
def test_a_missing_package_is_told_before_any_work(
    format: Format, package: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FadepthError, match=rf"^{package} .*pip install -e '\.\[export\]'"):
        export_run(run.name, run.parent, format)
    assert not (run / "export").exists()


def test_runtimes_report_to_nobody(tmp_path: Path, repository: Path) -> None:
    """`import openvino` leaves an identity in the home folder when it is about to report."""
    code = (
        "import os, sys; from fadepth.export import optional_package as package; "
        "package('openvino').Core(); package('onnxruntime'); "
        "print(os.environ['ORT_DISABLE_TELEMETRY'], sys.modules['openvino_telemetry'])"
    )
    names = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY")  # these keep it quiet, too
    environment = {k: v for k, v in os.environ.items() if k not in names} | {"HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.stdout.split() == ["1", "None"], result.stderr
    assert not (tmp_path / "intel").exists()


def test_export_refuses_what_it_cannot_mean(run: Path, unfolded: nn.Module) -> None:
    with pytest.raises(FadepthError, match=r"ends in '\.onnx'"):
        export_run(run.name, run.parent, "onnx", run / "model.pt")
    with pytest.raises(FadepthError, match="train the run first"):
        export_run("other-s1-0123456789", run.parent, "torchscript")
    with pytest.raises(FadepthError, match=f"'runs/{run.name}' is no name of a run"):
        export_run(f"runs/{run.name}", run.parent, "torchscript")
    training = fold(unfolded).train()
    with pytest.raises(FadepthError, match="in training mode"):
        export_network(training, run / "a.pt", "torchscript", height=64, width=96)


def test_command_writes_the_run_with_its_facts(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["export", run.name, "--format", "torchscript"])
    assert result.exit_code == 0, result.output
    path = Path("runs") / run.name / "export" / f"{run.name}.pt"
    assert f"{path}: " in result.output
    assert "any number of images of any size" in result.output
    facts = read_metadata(path, "torchscript")
    assert facts | {
        "run": run.name,
        "kind": "student",
        "scale": "smoke",
        "dataset": "tiny",
        "commit": "abc123",
        "model_sha256": file_digest(run / "model.pt"),
        "height": "96",
        "width": "160",
    } == facts  # fmt: skip


# Programs without fadepth


def alone(script: Path, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """A program in which neither fadepth nor torch can be imported."""
    code = (
        "import runpy, sys; sys.modules |= dict.fromkeys(('fadepth', 'torch')); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", code, str(script), *map(str, arguments)]
    folder = arguments[0].parent
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["depth.npy", "depth.png"])
def test_example_gives_the_networks_depth(
    name: str, files: dict[Format, Path], unfolded: nn.Module, repository: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (120, 200, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    result = alone(repository / EXAMPLE, files["onnx"], tmp_path / "photo.png", tmp_path / name)
    assert result.returncode == 0, result.stderr

    resized = np.array(photo.resize(SIZE[::-1], Image.Resampling.LANCZOS), dtype=np.float32)
    with torch.no_grad():
        disparity = unfolded(torch.from_numpy(resized).permute(2, 0, 1)[None] / 255)
    expected = disparity_to_depth(disparity)[0, 0].numpy()
    if name.endswith(".npy"):
        assert np.load(tmp_path / name) == pytest.approx(expected, rel=1e-3)
    else:
        found = np.asarray(Image.open(tmp_path / name))
        assert found.dtype == np.uint16
        assert np.abs(found / 256 - expected).max() <= 1e-3 * expected.max() + 1 / 256


def test_example_has_at_most_20_lines_of_code(repository: Path) -> None:
    text = (repository / EXAMPLE).read_text(encoding="utf-8")
    code = text.split('"""')[2].splitlines()
    assert sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in code) <= 20


def test_snippets_of_the_documentation_run(
    files: dict[Format, Path], repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (repository / "docs" / "export.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(snippets) == 2
    monkeypatch.chdir(files["onnx"].parent)  # holds depth.pt and depth.xml
    for number, snippet in enumerate(snippets):
        script = tmp_path / f"{number}.py"
        script.write_text(snippet)
        assert runpy.run_path(str(script))["disparity"].shape == (1, 1, *SIZE)


def test_documentation_names_every_fact(files: dict[Format, Path], repository: Path) -> None:
    text = (repository / "docs" / "export.md").read_text(encoding="utf-8")
    facts = itertools.chain.from_iterable(read_metadata(p, f) for f, p in files.items())
    assert not {fact for fact in facts if f"`{fact}`" not in text}
