"""Networks as files that other programs run: TorchScript, ONNX and OpenVINO.

ONNX comes from `torch.export` (the older exporter lacks operations of HQDecV2), and OpenVINO reads
that ONNX. Every file tells what it is: run, versions, what goes in and comes out, and how disparity
becomes depth.
"""

import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fadepth import __version__
from fadepth.errors import FadepthError
from fadepth.files import atomic_path, file_digest, json_object
from fadepth.geometry import MAX_DEPTH, MIN_DEPTH
from fadepth.models import HQDecV2, fold

log = logging.getLogger(__name__)

Format = Literal["torchscript", "onnx", "openvino"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[Format, str] = {"torchscript": ".pt", "onnx": ".onnx", "openvino": ".xml"}

TOLERANCE = 1e-4
"""Largest difference of disparity, which lies in (0, 1), between a file and PyTorch."""

Axis = Literal["batch", "height", "width"]
Axes = tuple[Axis, ...]

EVERY: Axes = get_args(Axis)
"""All that can be free: any number of images, of any size that the network itself takes."""

_PLACES: dict[Axis, int] = {"batch": 0, "height": 2, "width": 3}
_ANY_SIZE = (96, 160)  # of the example where the size is free
# Two sizes that no stride divides, and one for networks that want multiples of 32.
_OTHER_SHAPES = ((3, 188, 620), (2, 33, 47), (2, 64, 224))
_EXTRA_FILE = "metadata.json"  # in a TorchScript archive

Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        path: the file; of OpenVINO the .xml.
        weights: OpenVINO's second file, the .bin.
        free: which axes of the image may have any length; the others are fixed.
        difference: largest one from PyTorch's disparity; None if it was not compared.
    """

    path: Path
    weights: Path | None
    free: Axes
    difference: float | None

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.stat().st_size for file in (self.path, self.weights) if file)

    @property
    def use(self) -> str:
        """For people: which images it takes."""
        fixed = [axis for axis in EVERY if axis not in self.free]
        if not fixed:
            return "for any number of images of any size"
        number = "any number of images" if "batch" in self.free else "one image"
        return f"for {number} of the size that it was trained at"


# Writing


def export_network(
    network: nn.Module,
    path: Path,
    format: Format,
    *,
    height: int,
    width: int,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a network as a file: image (B, 3, H, W) in [0, 1] -> disparity (B, 1, H, W) in (0, 1).

    B, H and W are free where the network allows it, as SmallDepth does; HQDecV2 has only B free.
    `read_metadata` tells which. The file appears in one step; nothing is left behind on an error.
    It is not compared with PyTorch, which `export_run` does.

    Args:
        network: on the CPU, float32, in evaluation mode and folded (`fadepth.models.fold`).
        path: the file to write; of OpenVINO the .xml, its weights go beside it (.bin).
        format: which kind of file.
        height, width: of the images, pixels; only where these cannot be free they are fixed.
        metadata: more facts for the file.

    Raises:
        FadepthError: the suffix is another format's, a package is missing, or the network does
            not go into this format.
    """
    return _export(network, path, format, (height, width), metadata or {}, compare=False).path


def export_run(run_id: str, runs: Path, format: Format, output: Path | None = None) -> Exported:
    """Write the folded depth network of a run and compare the file with PyTorch.

    Args:
        run_id: name of the run's folder, which holds `model.pt`.
        runs: folder of all runs.
        format: which kind of file.
        output: default `runs/<id>/export/<id>` and the format's suffix.

    Raises:
        FadepthError: as `export_network`; or there is no such run or no model in it; or the file
            computes something else, and is not kept.
    """
    from fadepth.training import load_depth_network  # a bare network needs no training loop

    if Path(run_id).name != run_id:
        raise FadepthError(f"'{run_id}' is no name of a run: 'fadepth runs' lists them")
    model = runs / run_id / "model.pt"
    network, config = load_depth_network(model)
    kind = "teacher" if isinstance(network, HQDecV2) else "student"
    size = config.data.height, config.data.width
    metadata = {
        "run": run_id,
        "kind": kind,
        "scale": config.scale,
        "dataset": config.data.name,
        "commit": str(json_object(model.parent / "manifest.json").get("commit") or "unknown"),
        "model_sha256": file_digest(model),
    }
    path = output or model.parent / "export" / f"{run_id}{SUFFIXES[format]}"
    return _export(fold(network), path, format, size, metadata, compare=True)


def _export(
    network: nn.Module,
    path: Path,
    format: Format,
    size: tuple[int, int],
    metadata: Mapping[str, str],
    *,
    compare: bool,
) -> Exported:
    _refuse(network, path, format)
    for package in _packages(format, compare):
        optional_package(package)
    difference = None
    beside = path.with_suffix(".bin") if format == "openvino" else None
    with ExitStack() as stack:
        # The last one opened is renamed first: whoever sees the .xml also sees its weights.
        first = stack.enter_context(atomic_path(path))
        weights = stack.enter_context(atomic_path(beside)) if beside else None
        with _quiet(), torch.no_grad():
            if format == "torchscript":
                free = _write_torchscript(network, first, size, metadata)
            else:
                model, free = _onnx_model(network, size)
                if weights is None:
                    _write_onnx(model, first, _facts(size, free, metadata))
                else:
                    _write_openvino(model, first, weights, _facts(size, free, metadata))
        if compare:
            call = load_exported(first, format, weights)
            difference = _compare(network, call, path, format, size, free)
        if weights is not None:
            path.unlink(missing_ok=True)  # an older .xml must not meet the new weights
    return Exported(path, beside, free, difference)


def _refuse(network: nn.Module, path: Path, format: Format) -> None:
    if path.suffix != SUFFIXES[format]:
        raise FadepthError(
            f"{path} is to be {format}: give it a name that ends in '{SUFFIXES[format]}'"
        )
    if network.training:
        name = type(network).__name__
        raise FadepthError(f"this {name} is in training mode: export fold(network), or .eval()")


def _packages(format: Format, compare: bool) -> tuple[str, ...]:
    """What has to be there, asked for before work that takes a while."""
    if format == "torchscript":
        return ()
    runtime = {"onnx": ("onnxruntime",) if compare else (), "openvino": ("openvino",)}
    return ("onnx", "onnxscript", *runtime[format])


def _facts(size: tuple[int, int], free: Axes, metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file tells of itself, all text."""
    return {
        "fadepth": __version__,
        "torch": str(torch.__version__),
        "input": "image: float32 (batch, 3, height, width), RGB, 0 to 1",
        "output": "disparity: float32 (batch, 1, height, width), 0 to 1",
        "depth": "1 / (1/max_depth + (1/min_depth - 1/max_depth) * disparity)",
        "depth_unit": "metres, up to the scale that monocular training leaves open",
        "min_depth": str(MIN_DEPTH),
        "max_depth": str(MAX_DEPTH),
        "height": str(size[0]),
        "width": str(size[1]),
        "free_axes": " ".join(free),
        **metadata,
    }


def _attempts(network: nn.Module) -> tuple[Axes, ...]:
    """What to leave free, the best first."""
    # HQDecV2's grids of tokens depend on the size of the image, and hold for one.
    return (("batch",), ()) if isinstance(network, HQDecV2) else (EVERY, ("batch",), ())


def _example(size: tuple[int, int], free: Axes) -> Tensor:
    # torch.export takes a length of 1 for a constant: two images, and 3 x 5 pixels at stride 32.
    return _image(2 if "batch" in free else 1, *(_ANY_SIZE if free == EVERY else size))


def _image(batch: int, height: int, width: int) -> Tensor:
    """Noise (B, 3, H, W) in [0, 1]."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def _write_torchscript(
    network: nn.Module, path: Path, size: tuple[int, int], metadata: Mapping[str, str]
) -> Axes:
    traced, free = _traced(network, size)
    content = io.BytesIO()  # written to a path, the archive would be named after that path
    facts = json.dumps(_facts(size, free, metadata), indent=1)
    torch.jit.save(torch.jit.freeze(traced.eval()), content, _extra_files={_EXTRA_FILE: facts})
    path.write_bytes(content.getbuffer())
    return free


def _traced(network: nn.Module, size: tuple[int, int]) -> tuple[Any, Axes]:
    """A trace with as many axes free as can be, and which these are.

    A trace records lengths silently, so it is tried at others.
    """
    reason = "it computes something else"
    for free in _attempts(network):
        try:
            traced = torch.jit.trace(network, _example(size, free), check_trace=False)
            if all(
                torch.allclose(traced(image), expected, rtol=0, atol=TOLERANCE)
                for image, expected in _trials(network, size, free)
            ):
                return traced, free
        except (RuntimeError, FadepthError) as error:
            reason = _one_line(error)
            log.info("no TorchScript with free axes %s: %s", free, reason)
    raise FadepthError(
        f"{type(network).__name__} does not go into TorchScript at {size[0]}x{size[1]} ({reason})"
    )


def _trials(
    network: nn.Module, size: tuple[int, int], free: Axes
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and PyTorch's disparity, at several lengths of what is free.

    Raises:
        FadepthError: the size is free, but the network takes no other one.
    """
    for batch in (1, 3) if "batch" in free else (1,):
        image = _image(batch, *size)
        yield image, network(image)
    if "height" not in free:
        return
    taken = 0
    for shape in _OTHER_SHAPES:
        image = _image(*shape)
        try:
            expected = network(image)
        except (RuntimeError, FadepthError):
            continue  # not every network takes every size
        taken += 1
        yield image, expected
    if not taken:
        raise FadepthError(f"{type(network).__name__} takes images of {size[0]}x{size[1]} only")


def _onnx_model(network: nn.Module, size: tuple[int, int]) -> tuple[Any, Axes]:
    """An `onnx.ModelProto` with as many axes free as can be, and which these are."""
    last: Exception | None = None
    for free in _attempts(network):
        try:
            return _torch_to_onnx(network, _example(size, free), free), free
        except Exception as error:  # the exporter raises whatever it meets
            log.info("no ONNX with free axes %s: %s", free, _one_line(error))
            last = error
    assert last is not None
    raise FadepthError(
        f"{type(network).__name__} does not go into ONNX at {size[0]}x{size[1]} "
        f"({_one_line(last)}): use --format torchscript"
    ) from last


def _torch_to_onnx(network: nn.Module, image: Tensor, free: Axes) -> Any:
    dynamic = {_PLACES[axis]: torch.export.Dim.DYNAMIC for axis in free}
    program = torch.export.export(network, (image,), dynamic_shapes=(dynamic,), strict=False)
    exported = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["image"],
        output_names=["disparity"],
        external_data=False,
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    _name_axes(model.graph, free)
    _drop_traces(model.graph)
    return model


def _name_axes(graph: Any, free: Axes) -> None:
    """`batch`, `height` and `width` for torch.export's `s40` and the like, also inside formulas."""
    shape = graph.input[0].type.tensor_type.shape.dim
    names = {shape[_PLACES[axis]].dim_param: axis for axis in free}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for length in value.type.tensor_type.shape.dim:
            if length.dim_param:
                named = re.sub(r"\w+", lambda m: names.get(m[0], m[0]), length.dim_param)
                length.dim_param = named


def _drop_traces(graph: Any) -> None:
    """Leave out the exporter's notes: they hold stack traces with this machine's paths."""
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")


def _write_onnx(model: Any, path: Path, facts: Mapping[str, str]) -> None:
    model.ClearField("metadata_props")
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())


def _write_openvino(model: Any, path: Path, weights: Path, facts: Mapping[str, str]) -> None:
    """Unlike `openvino.save_model`, this keeps float32 weights, and takes both names."""
    converted = optional_package("openvino").Core().read_model(model.SerializeToString(), b"")
    for key, value in facts.items():
        converted.set_rt_info(value, ["fadepth", key])
    serialise = optional_package("openvino.passes").Serialize(str(path), str(weights))
    serialise.run_on_model(converted)


# Reading back


def load_exported(path: Path, format: Format, weights: Path | None = None) -> Call:
    """A file in its own runtime on the CPU, as many threads as torch has: image -> disparity.

    Args:
        path: what `export_network` wrote.
        format: what kind of file it is.
        weights: OpenVINO's, where they do not lie beside the .xml.

    Raises:
        FadepthError: the runtime is not installed.
    """
    threads = torch.get_num_threads()
    if format == "torchscript":
        with _quiet():
            loaded: Call = torch.jit.load(str(path))
        return torch.no_grad()(loaded)
    if format == "onnx":
        runtime = optional_package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    core = optional_package("openvino").Core()
    model = core.read_model(str(path), str(weights or path.with_suffix(".bin")))
    # Without the hint it computes in bfloat16 where the CPU can.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(model, "CPU", settings)
    return lambda image: torch.from_numpy(compiled([image.numpy()])[0].copy())


def read_metadata(path: Path, format: Format) -> dict[str, str]:
    """What a file that `export_network` wrote tells of itself.

    `free_axes` are the words of `Axes`; `input`, `output` and `depth` say how to use it.

    Raises:
        FadepthError: the format's package is not installed.
    """
    if format == "torchscript":
        files = {_EXTRA_FILE: ""}
        with _quiet():
            torch.jit.load(str(path), _extra_files=files)
        return dict(json.loads(files[_EXTRA_FILE]))
    if format == "onnx":
        model = optional_package("onnx").load(str(path))
        return {entry.key: entry.value for entry in model.metadata_props}
    model = optional_package("openvino").Core().read_model(str(path))
    return dict(model.get_rt_info("fadepth").value)


@torch.no_grad()
def _compare(
    network: nn.Module, call: Call, path: Path, format: Format, size: tuple[int, int], free: Axes
) -> float:
    """Largest difference of disparity at several lengths of what is free.

    Raises:
        FadepthError: it is above `TOLERANCE`, or the runtime fails.
    """
    worst = 0.0
    for image, expected in _trials(network, size, free):
        batch, _, height, width = image.shape
        what = f"{path} is not kept: {format} at {batch} image(s) of {height}x{width}"
        try:
            found = call(image)
        except Exception as error:  # runtimes raise whatever they meet
            raise FadepthError(
                f"{what} fails ({_one_line(error)}): use another --format"
            ) from error
        if found.shape != expected.shape:
            raise FadepthError(
                f"{what} gives the shape {tuple(found.shape)} where PyTorch gives "
                f"{tuple(expected.shape)}: use another --format"
            )
        difference = float((found - expected).abs().max())
        if not difference <= TOLERANCE:  # so that NaN does not pass
            raise FadepthError(
                f"{what} differs by {difference:.1e} from PyTorch, where {TOLERANCE:.0e} is "
                "allowed: use another --format"
            )
        worst = max(worst, difference)
    return worst


# Other people's packages


def optional_package(name: str) -> Any:
    """A module of the extra `export`, kept from reporting its use over the network.

    ONNX Runtime does so unless a variable is set when it is loaded; `import openvino` does at once,
    unless a package that it can do without is absent.

    Raises:
        FadepthError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return import_module(name)
    except ImportError as error:
        raise FadepthError(
            f"{name} cannot be imported ({_one_line(error)}): pip install -e '.[export]'"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what exporters tell of deprecations, and of packages that no network here needs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
