"""The loop: it stops at the first bad number, resumes to the bit, and keeps its schedule."""

import json
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.amp import GradScaler

from fadepth import cli
from fadepth.checkpoint import Identity
from fadepth.config import Config, PoseSettings, identity_settings
from fadepth.data.augment import mirrored_where
from fadepth.data.dataset import EpochBatches, TrainingFrames, collate
from fadepth.data.manifest import Manifest
from fadepth.errors import FadepthError
from fadepth.execution.train import predict_teacher, train_run
from fadepth.run import Run
from fadepth.training import (
    Job,
    Kind,
    Training,
    Watch,
    load_depth_network,
    reduced_precision,
    source_poses,
)
from tests.tiny import tiny_config, tiny_manifest

SEED = 3
STEPS = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def manifest(root: Path) -> Manifest:
    return tiny_manifest(root)


@pytest.fixture
def make(root: Path, manifest: Manifest, tmp_path: Path) -> Callable[..., Training]:
    """A training in the folder `name`, not begun; settings with `__` for dots."""

    def make_training(name: str = "run", kind: Kind = "student", **changes: Any) -> Training:
        config = tiny_config(root, **changes)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        identity = Identity(config_hash="c", data_hash="d", code_hash="e")
        return Training(Job(name, kind, config, SEED, identity, folder, manifest, root))

    return make_training


def results(folder: Path) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """All weights of a finished training, and its log without times."""
    content = torch.load(folder / "model.pt", weights_only=True)
    weights = {f"{n}/{key}": value for n in ("depth", "pose") for key, value in content[n].items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return weights, [{k: v for k, v in line.items() if k != "time"} for line in lines]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def first_batch(training: Training) -> dict[str, Tensor]:
    return next(training.batches(0))


def frames_at(step: int) -> list[int]:
    """Indices of the frames of a step's batch: six frames, three batches of two an epoch."""
    epoch, position = divmod(step, 3)
    return list(EpochBatches(6, 2, seed=SEED, epoch=epoch, steps=3))[position]


def rates_of(training: Training) -> list[float]:
    """The rate of each update, as the optimiser sees it."""
    rates: list[float] = []
    training.optimizer.register_step_post_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    return rates


# NaN and Inf


def poison_frame(monkeypatch: pytest.MonkeyPatch, epoch: int, index: int, key: str) -> None:
    """One pixel of one frame is NaN in one epoch, in one of the sample's images."""
    healthy = TrainingFrames.__getitem__

    def poisoned(self: TrainingFrames, where: tuple[int, int]) -> dict[str, Tensor]:
        item = healthy(self, where)
        if where == (epoch, index):
            item[key] = item[key].clone()
            item[key].view(-1)[2000] = torch.nan
        return item

    monkeypatch.setattr(TrainingFrames, "__getitem__", poisoned)


def at_step(monkeypatch: pytest.MonkeyPatch, bad: int, act: Callable[[Training], None]) -> None:
    """Call `act` before the step `bad`."""
    healthy = Training.step

    def step(self: Training, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        if number == bad:
            act(self)
        return healthy(self, batch, number)

    monkeypatch.setattr(Training, "step", step)


def spoil_weight(training: Training) -> None:
    with torch.no_grad():
        next(training.networks.depth.parameters()).view(-1)[0] = torch.nan


def spoil_gradient(training: Training) -> None:
    """The loss stays finite."""
    next(training.networks.pose.parameters()).register_hook(lambda gradient: gradient * torch.inf)


def assert_stopped(training: Training, message: str, bad: int, saved: int) -> None:
    """The sentence names the step and its frames; what is on disk is from step `saved`, before."""
    named = [str(training.frames.frames[i]) for i in frames_at(bad)]
    others = [str(f) for f in training.frames.frames if str(f) not in named]
    assert f"at step {bad + 1} of {STEPS}" in message
    assert all(name in message for name in named), message
    assert not any(name in message for name in others), message
    folder = training.job.folder
    assert not (folder / "model.pt").exists()
    state = torch.load(folder / "ckpt" / "last.pt", weights_only=True)
    assert state["resumed"]["step"] == saved
    assert all(torch.isfinite(value).all() for value in state["networks"].values())
    for moments in state["optimizer"]["state"].values():
        assert all(torch.isfinite(value).all() for value in moments.values())
    logged = (folder / "metrics.jsonl").read_text()
    assert "NaN" not in logged and "Infinity" not in logged


@pytest.mark.parametrize("fault", ["target", "source_inputs", "weight", "gradient"])
def test_the_first_bad_number_stops_the_run_and_names_its_frames(
    fault: str, make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the fault removed, the run ends as if there had not been one.

    NaN in the pose net's input shows in no image: the warp hides it.
    """
    undisturbed = make("undisturbed")
    undisturbed.run()
    bad = 7
    with monkeypatch.context() as patch:
        if fault in ("weight", "gradient"):
            at_step(patch, bad, {"weight": spoil_weight, "gradient": spoil_gradient}[fault])
        else:
            poison_frame(patch, epoch=bad // 3, index=frames_at(bad)[1], key=fault)
        training = make()
        updates = rates_of(training)
        with pytest.raises(FadepthError) as told:
            training.run()
    what = "the gradient's norm of run became inf" if fault == "gradient" else "the loss of run"
    assert what in str(told.value)
    # One checkpoint every other step, and one at the end of each epoch of three.
    assert_stopped(training, str(told.value), bad, saved=6)
    assert len(updates) == bad  # not even the bad batch's own

    resumed = make()
    resumed.run()
    weights, lines = results(resumed.job.folder)
    expected, expected_lines = results(undisturbed.job.folder)
    assert same(weights, expected)
    assert lines == expected_lines


@pytest.mark.parametrize("fault", ["target", "gradient"])
def test_late_verdicts_name_the_first_bad_batch(
    fault: str, make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: step 8 is made after the bad step 7, and the checkpoint of step 9 is not."""
    bad = 7

    def spoil(training: Training) -> None:
        if fault == "gradient":
            spoil_gradient(training)
        # A CPU dies of the NaN that this update would make of the weights; a GPU goes on.
        monkeypatch.setattr(training.scaler, "step", lambda _: None)

    at_step(monkeypatch, bad, spoil)
    if fault == "target":
        poison_frame(monkeypatch, epoch=bad // 3, index=frames_at(bad)[0], key="target")
    training = make(training__log_every=100, training__checkpoint_every=100)
    training.watch.at_once = False
    with pytest.raises(FadepthError) as told:
        training.run()
    assert_stopped(training, str(told.value), bad, saved=6)


def test_verdicts_wait_for_the_next_line_or_checkpoint_only(make: Callable[..., Training]) -> None:
    training = make(training__log_every=100, training__checkpoint_every=100)
    training.watch.at_once = False
    for number, batch in enumerate(training.batches(0)):
        if number == 5:
            break
        training.step(batch, number)
    noted = [(step, index) for _, _, step, index in training.watch.pending]
    # The loss and the gradient of each.
    assert noted == [(step, frames_at(step)) for step in range(5) for _ in range(2)]
    training.watch.check()
    assert training.watch.pending == []


def run_of(config: Config, kind: Kind = "student", teacher: Run | None = None) -> Run:
    slug = "hqdecv2" if kind == "teacher" else "apx" if teacher else "plain"
    return Run(kind, slug, slug, {}, 1, config, "0" * 10, "study", teacher)


def test_the_command_ends_with_an_error_code(
    root: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = run_of(tiny_config(root))
    manifest.write(tmp_path / "manifest.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "find_run", lambda *_: run)
    arguments = ["fadepth", "train", run.id, "--manifest", "manifest.jsonl"]
    monkeypatch.setattr(sys, "argv", arguments)
    with monkeypatch.context() as patch:
        at_step(patch, 4, spoil_weight)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 2
    sentences = [s for s in capsys.readouterr().err.splitlines() if s.startswith("fadepth: ")]
    assert len(sentences) == 1 and "became nan at step 5 of 12" in sentences[0]
    record = tmp_path / "runs" / run.id / "manifest.json"
    assert json.loads(record.read_text())["status"] == "failed"
    train_run(run, Path("runs"), Path("manifest.jsonl"), None, 1)
    assert json.loads(record.read_text())["status"] == "finished"


# Learning rate and gradient


@pytest.mark.parametrize(("epochs", "full"), [(20, 15), (4, 3), (8, 6), (6, 5), (1, 1), (30, 23)])
def test_the_rate_falls_at_the_end_of_an_epoch(
    epochs: int, full: int, make: Callable[..., Training]
) -> None:
    """As `StepLR` does that is stepped after each epoch: 15 of 20 epochs at the full rate."""
    training = make(training__epochs=epochs, training__schedule="step")
    parameter = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=full, gamma=0.1)
    expected = []
    for _ in range(epochs):
        for _ in range(3):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
        scheduler.step()
    assert [training.learning_rate(step) for step in range(3 * epochs)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
@pytest.mark.parametrize("stop", [8, 10])
def test_a_resumed_run_has_the_same_rates(
    schedule: str, stop: int, make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before and after the boundary of step 9 (three of four epochs)."""
    whole = make("whole", training__schedule=schedule)
    expected = rates_of(whole)
    whole.run()
    assert len(expected) == STEPS
    if schedule == "step":
        assert expected == pytest.approx([1e-3] * 9 + [1e-4] * 3)

    def stop_here(_: Training) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        at_step(patch, stop, stop_here)
        with pytest.raises(RuntimeError, match="killed"):
            make(training__schedule=schedule).run()
    resumed = make(training__schedule=schedule)
    rates = rates_of(resumed)
    resumed.run()
    assert rates == expected[-len(rates) :]
    assert len(rates) == STEPS - stop
    assert same(results(resumed.job.folder)[0], results(whole.job.folder)[0])


def gradient_of(training: Training) -> Tensor:
    """The gradient with which the first update is made."""
    seen: list[Tensor] = []
    training.optimizer.register_step_pre_hook(
        lambda *_: seen.append(
            torch.cat([p.grad.flatten() for p in training.networks.parameters()
                       if p.grad is not None])
        )
    )  # fmt: skip
    training.networks.train()
    training.step(first_batch(training), 0)
    return seen[0].double()


def test_long_gradients_are_shortened_and_short_ones_left(make: Callable[..., Training]) -> None:
    plain = gradient_of(make())
    norm = plain.norm().item()
    assert norm > 0.02
    clipped = gradient_of(make(training__clip_gradient=norm / 2))
    torch.testing.assert_close(clipped, plain / 2, rtol=1e-4, atol=1e-9)
    assert torch.equal(gradient_of(make(training__clip_gradient=2 * norm)), plain)


# Mixed precision


def test_half_precision_is_refused_on_the_cpu(make: Callable[..., Training]) -> None:
    with pytest.raises(FadepthError, match=r"training\.amp is 'fp16' but .* CPU.*: use 'off'"):
        make(training__amp="fp16")


def test_bfloat16_is_refused_on_a_gpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(FadepthError, match="this GPU has no bfloat16: use 'fp16'"):
        reduced_precision("bf16", gpu)
    assert reduced_precision("fp16", gpu) == torch.float16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert reduced_precision("bf16", gpu) == torch.bfloat16
    assert reduced_precision("off", gpu) is None


def test_off_is_the_default_a_word_and_nothing(make: Callable[..., Training]) -> None:
    assert Config().training.amp == "off"
    assert "amp" not in identity_settings(tiny_config(Path(), training__amp=False).training)
    assert identity_settings(tiny_config(Path(), training__amp="bf16").training)["amp"] == "bf16"
    training = make(training__amp=False)  # how YAML reads a bare off
    assert not training.scaler.is_enabled()
    assert "forward" not in vars(training.networks.depth)


def dtypes_of_convolutions(network: nn.Module) -> set[torch.dtype]:
    found: set[torch.dtype] = set()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # it follows every convolution
            module.register_forward_pre_hook(lambda _, inputs: found.add(inputs[0].dtype))
    return found


@pytest.mark.parametrize("kind", ["inputs", "outputs", "features"])
def test_networks_compute_in_bfloat16_and_losses_in_float32(
    kind: str, make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    pyramid = {"loss__pyramid__enabled": True, "loss__pyramid__kind": kind}
    exact = make("exact", **pyramid)
    reduced = make("reduced", training__amp="bf16", **pyramid)
    found: dict[str, dict[str, float]] = {}
    for name, training in (("exact", exact), ("reduced", reduced)):
        dtypes = [
            dtypes_of_convolutions(n) for n in (training.networks.depth, training.networks.pose)
        ]
        training.networks.train()
        losses = training.step(first_batch(training), 0)
        expected = torch.bfloat16 if name == "reduced" else torch.float32
        assert dtypes == [{expected}, {expected}]
        assert {value.dtype for value in losses.values()} == {torch.float32}
        assert {p.dtype for p in training.networks.parameters()} == {torch.float32}
        found[name] = {key: value.item() for key, value in losses.items()}
    assert found["reduced"] != found["exact"]
    assert found["reduced"]["total"] == pytest.approx(found["exact"]["total"], rel=0.02)


def test_bfloat16_resumes_to_the_bit(
    make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make("whole", training__amp="bf16")
    whole.run()
    with monkeypatch.context() as patch:
        at_step(patch, 5, spoil_weight)
        with pytest.raises(FadepthError):
            make(training__amp="bf16").run()
    resumed = make(training__amp="bf16")
    resumed.run()
    assert same(results(resumed.job.folder)[0], results(whole.job.folder)[0])
    network, _ = load_depth_network(resumed.job.folder / "model.pt")
    assert network(torch.rand(1, 3, 64, 96)).dtype == torch.float32


def scaled(training: Training, factor: float) -> Training:
    """The loss scaling of fp16, which needs no fp16: the CPU has it too."""
    training.scaler = GradScaler("cpu", init_scale=factor)
    return training


@pytest.mark.parametrize("clip", [None, 0.01])
def test_scaling_the_loss_changes_nothing(
    clip: float | None, make: Callable[..., Training]
) -> None:
    """A power of two is exact; clipping and the watch see gradients without it."""
    plain = make("plain", training__clip_gradient=clip)
    plain.run()
    other = scaled(make("scaled", training__clip_gradient=clip), 2.0**12)
    other.run()
    assert same(results(other.job.folder)[0], results(plain.job.folder)[0])
    state = torch.load(other.job.folder / "ckpt" / "last.pt", weights_only=True)
    assert state["scaler"]["scale"] == 2.0**12
    assert state["scaler"]["_growth_tracker"] == STEPS


def test_a_gradient_that_overflows_is_left_out_until_it_goes_on_too_long(
    make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = scaled(make(), 2.0**127)
    training.networks.train()
    before = {n: p.detach().clone() for n, p in training.networks.named_parameters()}
    training.step(first_batch(training), 0)
    assert training.scaler.get_scale() == 2.0**126
    assert all(torch.equal(p, before[n]) for n, p in training.networks.named_parameters())

    monkeypatch.setattr(Watch, "skips", 3)
    training = scaled(make("again", training__checkpoint_every=100), 2.0**16)
    spoil_gradient(training)  # from now on, whatever the scale
    with pytest.raises(FadepthError, match=r"gradient's norm of again became (inf|nan) at step 4"):
        training.run()


# Which images the networks see


class Seen:
    """Inputs of the depth and the pose network, in order."""

    def __init__(self, training: Training) -> None:
        self.depth: list[Tensor] = []
        self.pose: list[Tensor] = []
        training.networks.depth.register_forward_pre_hook(
            lambda _, inputs: self.depth.append(inputs[0].clone())
        )
        training.networks.pose.register_forward_pre_hook(
            lambda _, inputs: self.pose.append(inputs[0].clone())
        )


JITTERED = {"data__jitter__probability": 1.0}


@pytest.mark.parametrize(
    ("pyramid", "jitter", "clean"),
    [(False, True, False), (True, True, True), (True, False, False)],
)
def test_the_main_pass_is_clean_where_the_pyramid_brings_the_jitter(
    pyramid: bool, jitter: bool, clean: bool, make: Callable[..., Training]
) -> None:
    changes = {"loss__pyramid__enabled": pyramid, "loss__pyramid__jitter": jitter}
    training = make(**changes, **JITTERED)
    seen, batch = Seen(training), first_batch(training)
    assert not torch.equal(batch["target"], batch["target_input"])
    training.networks.train()
    training.step(batch, 0)
    assert torch.equal(seen.depth[0], batch["target" if clean else "target_input"])
    assert len(seen.depth) == (3 if pyramid else 1)
    # The pose net keeps its jittered pairs.
    before, after = seen.pose[0].split(2)
    assert torch.equal(before[:, 3:], batch["target_input"])
    assert torch.equal(after[:, :3], batch["target_input"])
    assert torch.equal(after[:, 3:], batch["source_inputs"][:, 1])


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "inputs"},
        {"kind": "outputs"},
        {"kind": "features"},
        {"kind": "inputs", "reference": "post_processed"},
    ],
)
@pytest.mark.parametrize("branches", ["off", "ac"])
def test_running_statistics_are_those_of_the_clean_images(
    changes: dict[str, str], branches: str, make: Callable[..., Training]
) -> None:
    """The same weights, shown the clean batch once per step, have the same statistics."""
    pyramid = {f"loss__pyramid__{key}": value for key, value in changes.items()}
    etm = {"student__etm": {"branches": branches, "space": "activation"}}
    training = make(loss__pyramid__enabled=True, **pyramid, **etm, **JITTERED)
    twin = make("twin", **etm).networks.depth
    training.networks.train()
    twin.train()
    for number, batch in enumerate(training.batches(0)):
        if number == 2:
            break
        with torch.no_grad():
            for own, other in zip(
                twin.parameters(), training.networks.depth.parameters(), strict=True
            ):
                own.copy_(other)
            twin(batch["target"])
        training.step(batch, number)
        expected = dict(twin.named_buffers())
        statistics = dict(training.networks.depth.named_buffers())
        assert any("running_var" in name for name in statistics)
        assert same(statistics, expected)


def test_a_jitter_is_drawn_once_per_sample(root: Path, manifest: Manifest) -> None:
    """All three frames of a sample are brightened by one factor; samples differ."""
    jitter = {"probability": 1.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    settings = tiny_config(root, data__jitter=jitter).data
    frames = TrainingFrames(manifest.splits["train"], root, settings, seed=1)
    batch = collate([frames[epoch, index] for epoch in range(4) for index in range(6)])
    clean = torch.cat([batch["target"][:, None], batch["sources"]], 1)
    relit = torch.cat([batch["target_input"][:, None], batch["source_inputs"]], 1)
    factors = []
    for one, other in zip(clean.unbind(), relit.unbind(), strict=True):
        # Neither black nor clipped at 1.
        pixels = (one > 0.1) & (other < 1)
        ratios = [(b / a)[p] for a, b, p in zip(one, other, pixels, strict=True)]
        factor = ratios[0].median().item()
        assert all((ratio - factor).abs().max() < 1e-5 for ratio in ratios)
        factors.append(factor)
    assert 0.8 <= min(factors) < 0.87
    assert 1.13 < max(factors) <= 1.2
    assert len({round(factor, 6) for factor in factors}) == len(factors)


# APX: a student and its teacher's predictions


@pytest.fixture
def apx(
    root: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Run, Path]:
    """A student, and the predictions of its (untrained) teacher in their place."""
    config = tiny_config(root, loss__apx__enabled=True)
    teacher = run_of(config, "teacher")
    monkeypatch.chdir(tmp_path)
    manifest.write(tmp_path / "manifest.jsonl")
    write_teacher(teacher, root, manifest, seed=1)
    targets = Path("runs") / teacher.id / "targets.npy"
    predict_teacher(teacher, Path("runs"), Path("manifest.jsonl"), targets, 1)
    earlier = targets.stat().st_mtime_ns - 3600 * 10**9
    os.utime(targets, ns=(earlier, earlier))
    return run_of(config, teacher=teacher), targets


def write_teacher(teacher: Run, root: Path, manifest: Manifest, seed: int) -> None:
    folder = Path("runs") / teacher.id
    folder.mkdir(parents=True, exist_ok=True)
    identity = Identity("c", "d", "e")
    job = Job(teacher.id, "teacher", teacher.config, seed, identity, folder, manifest, root)
    Training(job)._save_model()


def train(run: Run, targets: Path) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    train_run(run, Path("runs"), Path("manifest.jsonl"), targets, 1)
    return results(Path("runs") / run.id)


def rename_run(run: Run, name: str) -> None:
    (Path("runs") / run.id).rename(Path("runs") / name)


def test_a_student_mends_its_targets_before_it_starts(
    apx: tuple[Run, Path], caplog: pytest.LogCaptureFixture
) -> None:
    run, targets = apx
    content = targets.read_bytes()
    expected, lines = train(run, targets)
    record = json.loads((Path("runs") / run.id / "manifest.json").read_text())
    label = json.loads(targets.with_suffix(".json").read_text())
    assert record["targets_hash"] == label["sha256"]
    modified = targets.stat().st_mtime_ns
    rename_run(run, "first")

    targets.write_bytes(content[:-1000] + bytes(1000))
    with caplog.at_level(logging.WARNING):
        weights, again = train(run, targets)
    assert "does not match its checksum: the teacher predicts all frames again" in caplog.text
    assert targets.read_bytes() == content
    assert targets.stat().st_mtime_ns == modified
    assert same(weights, expected)
    assert again == lines


def test_a_student_does_not_go_on_with_other_targets(
    apx: tuple[Run, Path], root: Path, manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The teacher was trained again in the meantime: the student begins again as well."""
    run, targets = apx
    assert run.teacher is not None
    with monkeypatch.context() as patch:
        at_step(patch, 7, spoil_weight)
        with pytest.raises(FadepthError):
            train(run, targets)
    write_teacher(run.teacher, root, manifest, seed=2)
    with caplog.at_level(logging.WARNING):
        weights, lines = train(run, targets)
    assert "is for other weights of the teacher" in caplog.text
    assert "belongs to other targets: starting from step 0" in caplog.text
    rename_run(run, "resumed")
    afresh, expected = train(run, targets)
    assert same(weights, afresh)
    assert lines == expected


def test_a_file_from_elsewhere_is_only_read(apx: tuple[Run, Path], tmp_path: Path) -> None:
    run, targets = apx
    other = tmp_path / "elsewhere" / "targets.npy"
    other.parent.mkdir()
    other.write_bytes(targets.read_bytes())
    with pytest.raises(FadepthError, match=r"has no readable targets\.json.*hqdecv2"):
        train(run, other)
    other.with_suffix(".json").write_bytes(targets.with_suffix(".json").read_bytes())
    train(run, other)
    maps = np.load(other)
    maps[0, 0, 0, 0] += 0.25
    np.save(other, maps)
    with pytest.raises(FadepthError, match="does not match its checksum"):
        train(run, other)
    assert np.load(other)[0, 0, 0, 0] == maps[0, 0, 0, 0]


def test_a_student_without_targets_is_told(apx: tuple[Run, Path]) -> None:
    with pytest.raises(FadepthError, match="uses APX but no teacher predictions"):
        train_run(apx[0], Path("runs"), Path("manifest.jsonl"), None, 1)


def test_apx_alone_sees_jittered_images(apx: tuple[Run, Path], manifest: Manifest) -> None:
    """While APX is alone the pyramid loss waits, and the main pass keeps the augmentation."""
    _, targets = apx
    config = tiny_config(
        Path(manifest.root), loss__apx={"enabled": True, "alone_epochs": 1},
        loss__pyramid__enabled=True, **JITTERED,
    )  # fmt: skip
    folder = Path("runs") / "alone"
    folder.mkdir()
    job = Job("alone", "student", config, SEED, Identity("c", "d", "e"), folder, manifest,
              Path(manifest.root), targets)  # fmt: skip
    training = Training(job)
    seen, batch = Seen(training), first_batch(training)
    training.networks.train()
    assert "pyramid/consistency" not in training.step(batch, 0)
    assert torch.equal(seen.depth[-1], batch["target_input"])
    count = len(seen.depth)
    losses = training.step(batch, 3)
    assert math.isfinite(losses["pyramid/consistency"])
    assert torch.equal(seen.depth[count], batch["target"])


# The ego vehicle


def test_the_ego_mask_is_mirrored_with_its_sample(
    make: Callable[..., Training], tmp_path: Path
) -> None:
    """Black on the left half: a mirrored sample is masked on the right."""
    path = tmp_path / "ego.png"
    pixels = np.full((48, 96), 255, np.uint8)
    pixels[:, :48] = 0
    Image.fromarray(pixels).save(path)
    training = make(loss__ego_mask=str(path))
    assert training.worlds is not None
    height, width = training.worlds.shape[-2:]
    assert (height, width) == (training.config.data.height, training.config.data.width)
    both = mirrored_where(training.worlds[:1], torch.tensor([False, True]))
    assert not both[0, ..., : width // 2].any() and both[0, ..., width // 2 :].all()
    assert both[1, ..., : width // 2].all() and not both[1, ..., width // 2 :].any()
    with_mask = training.losses(first_batch(training), 0)["photometric"]
    without = make().losses(first_batch(training), 0)["photometric"]
    assert torch.isfinite(with_mask) and with_mask != without


def test_every_camera_has_its_own_ego_mask(make: Callable[..., Training], tmp_path: Path) -> None:
    """Frames of the left camera are masked by `l.png`, those of the right one by `r.png`."""
    for side, rows in (("l", slice(0, 10)), ("r", slice(30, 48))):
        pixels = np.full((48, 96), 255, np.uint8)
        pixels[rows] = 0
        Image.fromarray(pixels).save(tmp_path / f"{side}.png")
    training = make(loss__ego_mask=str(tmp_path / "{camera}.png"))
    batch = first_batch(training)
    world = training._world(batch)
    assert world is not None
    sides = {training.frames.frames[i].side for i in batch["index"].tolist()}
    for index, mask in zip(batch["index"].tolist(), world, strict=True):
        left = training.frames.frames[index].side == "l"
        assert bool(mask[0, 0].any()) is not left
        assert bool(mask[0, -1].any()) is left
    assert sides <= {"l", "r"}


def test_a_black_ego_mask_is_refused(make: Callable[..., Training], tmp_path: Path) -> None:
    path = tmp_path / "ego.png"
    Image.fromarray(np.zeros((48, 96), np.uint8)).save(path)
    with pytest.raises(FadepthError, match="is black everywhere"):
        make(loss__ego_mask=str(path))


class Listener(nn.Module):
    """A pose network that only remembers what it was given."""

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        self.pairs = pairs
        return pairs.new_zeros(len(pairs), 3), pairs.new_zeros(len(pairs), 3)


def test_the_pose_network_sees_small_pairs_in_temporal_order() -> None:
    generator = torch.Generator().manual_seed(0)
    target, before, after = torch.rand(3, 2, 3, 33, 47, generator=generator)
    batch = {"target_input": target, "source_inputs": torch.stack([before, after], 1)}
    for downscale in (1, 2, 3):
        for mirror in (False, True):
            pose = Listener()
            settings = PoseSettings(downscale=downscale, mirror=mirror)
            poses = source_poses(pose, batch, (-1, 1), settings)
            pairs = torch.cat([torch.cat([before, target], 1), torch.cat([target, after], 1)])
            # Rows and columns without a partner are left out.
            expected = torch.nn.functional.avg_pool2d(pairs, downscale)
            if mirror:
                expected = torch.cat([expected, expected.flip(-1)])
            torch.testing.assert_close(pose.pairs, expected, rtol=0, atol=1e-6)
            assert len(poses) == 2
            assert torch.equal(poses[0], torch.eye(4).expand(2, 4, 4))
