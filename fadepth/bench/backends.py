"""One network on one backend in one precision, ready to be called again and again.

All backends get the same number of threads, the same images in memory, and shapes that are fixed:
what a deployment at one size would do. Torch's threads wait as torch lets them, a millisecond awake
and then asleep. ONNX Runtime's do not spin while they wait and OpenVINO's are not pinned to cores:
threads that go on spinning would take the cores of whichever network has the next turn, and so do
torch's with OMP_WAIT_POLICY=active.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fadepth.errors import FadepthError, one_line
from fadepth.evaluation.latency import Call, captured
from fadepth.export import export_network, optional_package

PRECISIONS = ("fp32", "bf16", "int8")


class Unavailable(Exception):
    """A backend that is not there, or does not take this network; the text says why."""


@dataclass(frozen=True)
class Prepared:
    """A network that waits for its turn.

    Attributes:
        call: runs it on the images; what it returns is the backend's own.
        output: makes that a float32 tensor (B, 1, H, W) on the CPU.
    """

    call: Call
    output: Callable[[Any], Tensor]


@dataclass(frozen=True)
class Task:
    """What every network is asked.

    Attributes:
        images: (B, 3, H, W) in [0, 1], float32, on the CPU.
        calibration: more such batches of B, by whose activations int8 scales are chosen.
        device: where torch runs.
        threads: of every backend.
    """

    images: Tensor
    calibration: Sequence[Tensor]
    device: torch.device
    threads: int


class Subject:
    """A network, and its exported files, which several backends read.

    Args:
        network: in evaluation mode, float32, on the CPU; one tensor comes out. It stays as it is.
        task: what it is asked.
        folder: for its files.
        export: whether to write any; else what reads them is not available.
    """

    def __init__(
        self, network: nn.Module, task: Task, folder: Path, *, export: bool = True
    ) -> None:
        self.network, self.task, self.folder, self.export = network, task, folder, export
        self._made: dict[str, Path | Unavailable] = {}

    def copied(self, precision: str, layout: torch.memory_format) -> tuple[nn.Module, Tensor]:
        """A network and images of that type and layout, on the device."""
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        network = copy.deepcopy(self.network).to(self.task.device, dtype)
        network = network.to(memory_format=layout)  # type: ignore[call-overload]
        images = self.task.images.to(self.task.device, dtype, memory_format=layout)
        return network, images

    def onnx(self) -> Path:
        """The network as ONNX, with fixed shapes."""
        return self._once("onnx", self._export)

    def int8(self) -> Path:
        """The same with convolutions and what lies between them in 8 bits."""
        return self._once("int8", self._quantise)

    def _once(self, name: str, make: Callable[[], Path]) -> Path:
        # An export takes seconds to minutes, and what cannot be exported is not tried again.
        if name not in self._made:
            try:
                self._made[name] = make()
            except Unavailable as reason:
                self._made[name] = reason
            except FadepthError as error:
                self._made[name] = Unavailable(str(error))
            except Exception as error:  # exporters raise whatever they meet
                self._made[name] = Unavailable(f"{name} export failed: {one_line(error)}")
        found = self._made[name]
        if isinstance(found, Unavailable):
            raise found
        return found

    def _export(self) -> Path:
        if not self.export:
            raise Unavailable("its export to ONNX takes many minutes; --models with its name waits")
        onnx = optional_package("onnx")
        height, width = self.task.images.shape[-2:]
        path = self.folder / "network.onnx"
        with _quiet():
            export_network(self.network, path, "onnx", height=height, width=width)
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            sizes = value.type.tensor_type.shape.dim
            known = self.task.images.shape if value.name == model.graph.input[0].name else ()
            for size, number in zip(sizes, known, strict=False):
                size.dim_value = number
        onnx.save(model, path)
        return path

    def _quantise(self) -> Path:
        """Static quantisation by ONNX Runtime: 8-bit weights by channel, activations by tensor.

        What follows the last convolution (sigmoid, enlargement) stays in float32: 256 values of
        disparity are too few.
        """
        source = self.onnx()
        quantisation = optional_package("onnxruntime.quantization")
        shapes = optional_package("onnxruntime.quantization.shape_inference")
        onnx = optional_package("onnx")
        folded, path = self.folder / "folded.onnx", self.folder / "int8.onnx"
        with _quiet():
            shapes.quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
            nodes = onnx.load(folded).graph.node
            last = max(i for i, node in enumerate(nodes) if node.op_type == "Conv")
            quantisation.quantize_static(
                str(folded),
                str(path),
                _Calibration(nodes_input(onnx.load(folded)), self.task.calibration),
                quant_format=quantisation.QuantFormat.QDQ,
                per_channel=True,
                # Twice as fast as signed ones in ONNX Runtime's kernels for x86.
                activation_type=quantisation.QuantType.QUInt8,
                nodes_to_exclude=[node.name for node in nodes[last + 1 :]],
            )
        return path


def nodes_input(model: Any) -> str:
    """Name of the only input of an ONNX model."""
    return str(model.graph.input[0].name)


class _Calibration:
    """Images, one batch at a time, as ONNX Runtime's quantisation asks for them."""

    def __init__(self, name: str, batches: Sequence[Tensor]) -> None:
        self._left: Iterator[dict[str, Any]] = iter([{name: b.numpy()} for b in batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell of deprecations and of what they skip."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _torch_output(output: Tensor) -> Tensor:
    return output.float().cpu().contiguous()


def eager(subject: Subject, precision: str) -> Prepared:
    """Torch as it is, in the plain layout."""
    network, images = subject.copied(precision, torch.contiguous_format)
    return Prepared(lambda: network(images), _torch_output)


def channels_last(subject: Subject, precision: str) -> Prepared:
    """Torch as it is, weights and images with their channels innermost."""
    network, images = subject.copied(precision, torch.channels_last)
    return Prepared(lambda: network(images), _torch_output)


def torchscript(subject: Subject, precision: str) -> Prepared:
    """Traced, frozen and optimised for inference (weights in oneDNN's own layout on CPUs)."""
    network, images = subject.copied(precision, torch.contiguous_format)
    with _quiet(), torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(network, images, check_trace=False).eval())
        optimised = torch.jit.optimize_for_inference(traced)
    return Prepared(lambda: optimised(images), _torch_output)


def compiled(subject: Subject, precision: str) -> Prepared:
    """`torch.compile` for these shapes, with constants folded; the first call takes a minute."""
    network, images = subject.copied(precision, torch.channels_last)
    quick = torch.compile(network, dynamic=False, options={"freezing": True})
    return Prepared(lambda: quick(images), _torch_output)


def cudagraphs(subject: Subject, precision: str) -> Prepared:
    """The `channels_last` network as one CUDA graph."""
    if subject.task.device.type != "cuda":
        raise Unavailable("CUDA graphs need a GPU")
    network, images = subject.copied(precision, torch.channels_last)
    return Prepared(captured(lambda: network(images)), _torch_output)


def onnxruntime(subject: Subject, precision: str) -> Prepared:
    """ONNX Runtime on the CPU, all graph optimisations on."""
    _only_cpu(subject, "ONNX Runtime")
    runtime = optional_package("onnxruntime")
    path = subject.int8() if precision == "int8" else subject.onnx()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = subject.task.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: subject.task.images.numpy()}
    return Prepared(lambda: session.run(None, feed), lambda found: torch.from_numpy(found[0]))


def openvino(subject: Subject, precision: str) -> Prepared:
    """OpenVINO on the CPU, one stream; int8 by the quantised ONNX file."""
    _only_cpu(subject, "OpenVINO")
    runtime = optional_package("openvino")
    path = subject.int8() if precision == "int8" else subject.onnx()
    core = runtime.Core()
    model = core.compile_model(
        core.read_model(str(path)),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": subject.task.threads,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "ENABLE_CPU_PINNING": False,
        },
    )
    request = model.create_infer_request()
    feed = {0: subject.task.images.numpy()}

    def call() -> Any:
        return request.infer(feed, share_inputs=True, share_outputs=True)

    return Prepared(call, lambda found: torch.from_numpy(found[0]).clone())


def _only_cpu(subject: Subject, name: str) -> None:
    if subject.task.device.type != "cpu":
        raise Unavailable(f"{name} is timed on CPUs only")


@dataclass(frozen=True)
class Backend:
    """How a backend prepares a network, and the precisions that it has."""

    prepare: Callable[[Subject, str], Prepared]
    precisions: tuple[str, ...]


BACKENDS = {
    "eager": Backend(eager, ("fp32", "bf16")),
    "channels_last": Backend(channels_last, ("fp32", "bf16")),
    "torchscript": Backend(torchscript, ("fp32", "bf16")),
    "compile": Backend(compiled, ("fp32", "bf16")),
    "cudagraphs": Backend(cudagraphs, ("fp32", "bf16")),
    "onnxruntime": Backend(onnxruntime, ("fp32", "int8")),
    "openvino": Backend(openvino, ("fp32", "bf16", "int8")),
}


@torch.inference_mode()
def prepare(subject: Subject, backend: str, precision: str) -> Prepared:
    """A network on a backend, called once.

    Raises:
        Unavailable: the backend is not installed, or does not take the network.
    """
    try:
        prepared = BACKENDS[backend].prepare(subject, precision)
        with _quiet():
            prepared.call()
    except Unavailable:
        raise
    except FadepthError as error:
        raise Unavailable(str(error)) from error
    except Exception as error:  # compilers and runtimes raise whatever they meet
        raise Unavailable(one_line(error)) from error
    return prepared
