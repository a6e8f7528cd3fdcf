"""Training samples: target, neighbours and intrinsics, with reproducible augmentation.

No random state is carried from sample to sample. The augmentation of a sample depends on the
seed, the epoch and the sample's index alone, and the order of an epoch on the seed and the epoch.
Loading processes, their number, the order of batches and a resumed run therefore change nothing.
"""

import multiprocessing.util
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fadepth.config import DataSettings
from fadepth.data.augment import apply_jitter, draw_jitter
from fadepth.data.cache import ImageCache
from fadepth.data.kitti import read_image, resize_image, scale_intrinsics
from fadepth.data.manifest import Frame
from fadepth.errors import FadepthError

# First words of the seed sequences: without them the draws of a sample and the order of an epoch
# could share a stream.
_SAMPLE, _ORDER = 1, 2
#: Batches that each loading process has ready or under way.
PREFETCH = 2


#: Bytes of a socket's name, its final zero included (Linux, `unix(7)`).
_LONGEST_SOCKET = 108


class TrainingFrames(Dataset[dict[str, Tensor]]):
    """Augmented training samples; the key of an item is (epoch, index).

    Items hold, with S source frames in the order of `settings.source_frames`:

    - `index`: () int64; `flipped`: () bool;
    - `target` (3, H, W) and `sources` (S, 3, H, W): float32 in [0, 1], not jittered, for the loss;
    - `target_input`, `source_inputs`: the same, jittered by one draw shared by all of them, for
      the networks (monodepth2 `datasets/mono_dataset.py`);
    - `intrinsics`: (3, 3) float32 in pixels at H x W.

    A flip mirrors all images; it moves the principal point to W - 1 - cx, which monodepth2 need
    not do because it fixes cx at the centre.

    Args:
        frames: targets with all their neighbours, from a manifest.
        root: folder that the frames' paths start from.
        settings: sizes and augmentation; `cache: memory` decodes and resizes every image now and
            keeps it as uint8, which loading processes started by fork share.
        seed: of the run.
        images: the cache on disk, which is read instead of the files where it is given; `cache:
            disk` demands it.

    Raises:
        FadepthError: an image is absent or damaged, or the cache on disk is not given or of another
            size.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        root: Path,
        settings: DataSettings,
        seed: int,
        images: ImageCache | None = None,
    ) -> None:
        self.frames = list(frames)
        self.root = root
        self.settings = settings
        self.seed = seed
        self.images = images
        if images is None and settings.cache == "disk":
            raise FadepthError(
                "'data.cache' is disk but no cache of images was given: make it with 'fadepth data "
                "cache', or set 'data.cache' to memory or off"
            )
        if images is not None and images.size != (settings.height, settings.width):
            raise FadepthError(
                f"{images.path} holds images of {images.size[0]}x{images.size[1]} but the settings "
                f"say {settings.height}x{settings.width}: make the cache of that size"
            )
        self._memory: dict[str, Tensor] = {}
        if settings.cache == "memory":
            paths = sorted({path for frame in self.frames for path in self._paths(frame)})
            self._memory = {path: self._load(path) for path in paths}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        frame, size = self.frames[index], (self.settings.height, self.settings.width)
        rng = np.random.default_rng(np.random.SeedSequence([_SAMPLE, self.seed, epoch, index]))
        flipped = bool(rng.random() < self.settings.flip_probability)
        jitter = draw_jitter(self.settings.jitter, rng)

        images = torch.stack([self._image(path) for path in self._paths(frame)]).float() / 255
        assert frame.intrinsics is not None, "training frames have a camera"
        matrix = scale_intrinsics(frame.intrinsics, (frame.height, frame.width), size)
        if flipped:
            images = images.flip(-1)
            matrix[0, 2] = self.settings.width - 1 - matrix[0, 2]
        inputs = images if jitter is None else apply_jitter(images, jitter)
        return {
            "index": torch.tensor(index),
            "flipped": torch.tensor(flipped),
            "target": images[0],
            "sources": images[1:],
            "target_input": inputs[0],
            "source_inputs": inputs[1:],
            "intrinsics": torch.from_numpy(matrix).float(),
        }

    def clean(self, index: int) -> Tensor:
        """The target image of a frame without augmentation, (3, H, W) float32 in [0, 1]."""
        return self._image(self.frames[index].image).float() / 255

    def _paths(self, frame: Frame) -> list[str]:
        """Target first, then the sources."""
        try:
            return [frame.image, *(frame.neighbours[o] for o in self.settings.source_frames)]
        except KeyError as error:
            raise FadepthError(
                f"frame {frame} has no neighbour at offset {error.args[0]:+d} in the manifest: "
                "'data.source_frames' changed since then, prepare the data again"
            ) from None

    def _image(self, path: str) -> Tensor:
        kept = self._memory.get(path)
        return self._load(path) if kept is None else kept

    def _load(self, path: str) -> Tensor:
        if self.images is not None:
            return torch.from_numpy(self.images[path])
        image = read_image(self.root / path)
        return torch.from_numpy(resize_image(image, self.settings.height, self.settings.width))


def collate(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack samples of `TrainingFrames` along a new first axis B."""
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


class EpochBatches:
    """The batches of one epoch: lists of `batch_size` indices below `n`.

    The order is a permutation drawn from (seed, epoch); what remains after the last full batch is
    left out. If `steps` asks for more batches than one pass gives, further permutations follow.

    Args:
        n: number of samples.
        batch_size: samples per batch.
        seed: of the run.
        epoch: number of the epoch, from 0.
        steps: number of batches; None: one pass.

    Raises:
        FadepthError: one pass gives no full batch.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, epoch: int, steps: int | None = None
    ) -> None:
        if n < batch_size:
            raise FadepthError(
                f"{n} training frames do not fill a batch of {batch_size}: lower "
                "'training.batch_size' or add frames to train_files.txt"
            )
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.steps = n // batch_size if steps is None else steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        per_pass = self.n // self.batch_size
        order: list[int] = []
        for step in range(self.steps):
            number, position = divmod(step, per_pass)
            if position == 0:
                entropy = [_ORDER, self.seed, self.epoch, number]
                rng = np.random.default_rng(np.random.SeedSequence(entropy))
                order = rng.permutation(self.n).tolist()
            yield order[position * self.batch_size : (position + 1) * self.batch_size]


class TrainingBatches:
    """Keys (epoch, index) of all batches of a training from `first_step` on, epoch after epoch.

    One loader for all of them keeps its processes, and loads ahead across the end of an epoch.

    Args:
        n: number of samples.
        batch_size: samples per batch.
        seed: of the run.
        epochs: number of epochs.
        steps_per_epoch: batches of each.
        first_step: number of batches that were done earlier.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, epochs: int, steps_per_epoch: int,
        first_step: int = 0,
    ) -> None:  # fmt: skip
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.epochs, self.steps_per_epoch, self.first_step = epochs, steps_per_epoch, first_step

    def __len__(self) -> int:
        return max(0, self.epochs * self.steps_per_epoch - self.first_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        begun, done = divmod(self.first_step, self.steps_per_epoch)
        for epoch in range(begun, self.epochs):
            order = EpochBatches(self.n, self.batch_size, self.seed, epoch, self.steps_per_epoch)
            for batch in islice(order, done if epoch == begun else 0, None):
                yield [(epoch, index) for index in batch]


def load_batches(
    frames: TrainingFrames,
    keys: Iterable[list[tuple[int, int]]],
    workers: int = 0,
    *,
    pin_memory: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """The batches that `keys` asks for, in that order, by `workers` loading processes (0: none).

    Raises:
        FadepthError: an image is absent or damaged, whichever process met it; or the temporary
            folder's name is too long for the processes' sockets.
    """
    if workers:
        _require_short_sockets()
    loader = DataLoader(
        frames,
        batch_sampler=keys,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        collate_fn=collate,
        pin_memory=pin_memory,
    )
    try:
        yield from loader
    except FadepthError as error:
        # A loading process puts its traceback before the sentence.
        raise FadepthError(str(error).rsplit("FadepthError: ", 1)[-1].strip()) from None


def _require_short_sockets() -> None:
    """Refuse what torch would answer by waiting for ever.

    A loading process hands its images on through a socket in the temporary folder. Where the
    socket's name is too long, the process drops the batch, and the training waits for it.
    """
    folder = multiprocessing.util.get_temp_dir()
    if len(os.fsencode(folder)) + len("/listener-xxxxxxxx") >= _LONGEST_SOCKET:
        raise FadepthError(
            f"the name of the temporary folder {folder} is too long for loading processes: set "
            "TMPDIR to a shorter one such as /tmp, or 'training.workers' to 0"
        )
