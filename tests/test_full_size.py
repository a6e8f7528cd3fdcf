"""Optimisation steps of the full-size networks at 192x640, as the paper-scale presets train them.

Rendered frames of that size, batch 2 instead of 12. About a minute: nothing smaller shows that the
networks of kitti.yaml take a step. It needs 4 GB.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fadepth.checkpoint import Identity
from fadepth.config import Config, load_config
from fadepth.data.manifest import Manifest
from fadepth.data.prepare import prepare_data
from fadepth.evaluation.complexity import count_parameters
from fadepth.targets import predict_targets
from fadepth.training import Job, Kind, Training

pytestmark = pytest.mark.slow

#: Only what a street in the place of KITTI asks for; networks and losses stay the preset's.
STREET = {
    "data": {
        "source": "synthetic",
        "cache": "off",
        "synthetic": {
            "scenes": {"train": 1, "val": 1, "test": 1},
            "frames": {"train": 4, "val": 3, "test": 3},
            "height": 192,
            "width": 640,
        },
    },
    "evaluation": {"protocol": "synthetic_dense"},
    "training": {"batch_size": 2, "workers": 0, "device": "cpu"},
}
COMPONENTS = {
    "student.etm": {"branches": "ac", "space": "activation"},
    "loss.pyramid.enabled": True,
    "loss.apx.enabled": True,
}


@dataclass(frozen=True)
class Scene:
    """Rendered frames and the folder that they lie in."""

    folder: Path
    manifest: Manifest

    def training(self, kind: Kind, config: Config, targets: Path | None = None) -> Training:
        identity = Identity("config", "data", "code")
        root = self.folder / "street"
        job = Job(kind, kind, config, 1, identity, self.folder, self.manifest, root, targets)
        training = Training(job)
        training.networks.train()
        return training


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def config(repository: Path) -> Config:
    return load_config(repository / "config" / "kitti.yaml", {**STREET, **COMPONENTS})


@pytest.fixture(scope="module")
def scene(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("full")
    data = config.data.model_copy(update={"root": "street"})
    return Scene(folder, prepare_data(data, folder / "manifest.json", base=folder))


@dataclass(frozen=True)
class Stepped:
    """A network after some steps on one batch."""

    training: Training
    losses: list[dict[str, Tensor]]
    silent: list[set[str]]
    start: dict[str, Tensor]

    @property
    def unmoved(self) -> list[str]:
        """Parameters that are as they were before the first step."""
        weights = self.training.networks.named_parameters()
        return [name for name, weight in weights if torch.equal(weight, self.start[name])]


def take_steps(training: Training, count: int) -> Stepped:
    """Steps on the same batch; which parameters got no gradient in each."""
    weights = dict(training.networks.named_parameters())
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    batch = next(training.batches(0))
    assert batch["target"].shape == (2, 3, 192, 640)
    losses, silent = [], []
    for step in range(count):
        losses.append(training.step(batch, step))
        gradients = {name: weight.grad for name, weight in weights.items()}
        for name, gradient in gradients.items():
            assert gradient is not None and gradient.isfinite().all(), name
        silent.append({name for name, g in gradients.items() if g is not None and not g.any()})
    with torch.no_grad():
        losses.append(training.losses(batch, 0))
    return Stepped(training, losses, silent, start)


@pytest.fixture(scope="module")
def teacher(scene: Scene, config: Config) -> Stepped:
    return take_steps(scene.training("teacher", config), 3)


def test_teacher_learns(teacher: Stepped) -> None:
    assert all(value.isfinite() for losses in teacher.losses for value in losses.values())
    assert teacher.losses[0].keys() == {"total", "photometric", "smoothness", "automask_share"}
    assert teacher.losses[-1]["total"] < 0.98 * teacher.losses[0]["total"]


def test_teacher_wakes_up_within_three_steps(teacher: Stepped) -> None:
    """What AdaCoeff adds starts at zero, and some of it lies behind another such zero.

    The first step therefore reaches the plain decoder and the outer coefficients, the second one
    what they let through, the third one everything.
    """
    first, second, third = teacher.silent
    assert all(name.startswith("depth.decoder.") for name in first)
    assert first > second
    assert third == set()
    # Behind coefficients of 1e-4 a gradient is at first less than what Adam adds to its divisor.
    assert set(teacher.unmoved) <= first


def test_teacher_is_full_size(teacher: Stepped) -> None:
    """The encoder is torchvision's efficientnet_v2_s without classifier and last convolution."""
    encoder = teacher.training.networks.depth.get_submodule("encoder")
    assert count_parameters(encoder) == 21_458_488 - 1_281_000 - 330_240
    assert 22e6 < count_parameters(teacher.training.networks.depth) < 27e6


def test_student_with_all_components_learns(scene: Scene, config: Config, teacher: Stepped) -> None:
    targets = scene.folder / "targets.npy"
    network = teacher.training.networks.depth.eval()
    predict_targets(network, teacher.training.frames, targets, torch.device("cpu"))
    student = take_steps(scene.training("student", config, targets), 1)
    names = {"total", "photometric", "pyramid/photometric", "pyramid/consistency", "apx/slope"}
    assert names <= student.losses[0].keys()
    assert all(value.isfinite() for losses in student.losses for value in losses.values())
    assert all(float(student.losses[0][name]) > 0 for name in names)
    assert student.silent == [set()]
    assert student.unmoved == []
    assert student.losses[1]["total"] < student.losses[0]["total"]
    # ETM's branches, counted in the design of the network [derived].
    assert count_parameters(student.training.networks.depth) == 2_841_915
