"""What the rules of workflow/rules/data.smk do: manifests, the cache of images, ego masks."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fadepth.config import Config, DataSettings, Split, find_benchmark
from fadepth.data import prepare
from fadepth.data.cache import CacheKey, ImageCache, checked_cache
from fadepth.data.kitti import read_image, resize_image
from fadepth.data.manifest import Frame, Manifest, evenly_spread
from fadepth.data.prepare import (
    benchmark_root,
    missing_truth,
    prepare_benchmark,
    prepare_data,
)
from fadepth.data.watch import changed_files, data_generation, has_notes, note_files
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import (
    Protocol,
    find_protocol,
    ground_truth_file,
    require_ground_truth,
)
from fadepth.files import atomic_path

log = logging.getLogger(__name__)

#: Frames of each camera, spread evenly, from which `ego_vehicle` is estimated [derived].
EGO_FRAMES = 64
EGO_FEWEST = 8


def data_root(settings: DataSettings) -> Path:
    """Folder of the raw data; a synthetic data set has one of its own for each identity."""
    return prepare.data_root(settings, Path.cwd())


def prepare_data_of(config: Config, output: Path, threads: int) -> None:
    """Rule `prepare_data`: render or check the data, and write the manifest."""
    settings, began = config.data, time.time()
    generation = data_generation(output, data_root(settings))
    if settings.source == "synthetic":
        settings = settings.model_copy(update={"root": str(data_root(settings))})

    def tell(done: int, total: int) -> None:
        log.info("%s: %d of %d", "scenes and files" if done < total else "done", done, total)

    def approve(frames: dict[Split, list[Frame]], root: Path) -> None:
        split = config.evaluation.split
        if reason := missing_truth(config.data, Path.cwd()):
            log.warning("trainings only: %s", reason)
            return
        require_truths(frames[split], root, find_protocol(config.evaluation.protocol))

    manifest = prepare_data(
        settings, output, base=Path.cwd(), workers=threads, progress=tell, approve=approve
    )
    note_files(manifest, output, data_root(config.data), began, generation)
    counts = ", ".join(f"{len(frames)} {split}" for split, frames in manifest.splits.items())
    log.warning("%s frames listed in %s", counts, output)


def cache_images_of(
    config: Config, manifest_path: Path, workers: int, size: tuple[int, int] | None = None
) -> Path:
    """`fadepth data cache`: every training image, decoded and resized, in one file.

    Args:
        config: settings of the preset.
        manifest_path: of the data; the cache lies beside it.
        workers: threads.
        size: height and width, pixels, where they are not the preset's (a study may vary them).
    """
    settings = config.data
    if size:
        settings = settings.model_copy(update={"height": size[0], "width": size[1]})
    key = CacheKey.of(Manifest.read(manifest_path), settings)
    cache = checked_cache(manifest_path, key, data_root(settings), workers)
    log.warning("%d images of %dx%d in %s", key.shape[0], *cache.size, cache.path)
    return cache.path


def images_for(
    settings: DataSettings, manifest: Manifest, manifest_path: Path, workers: int
) -> ImageCache | None:
    """The cache on disk for a training with `data.cache: disk`, mended if need be; else None."""
    if settings.cache != "disk":
        return None
    key = CacheKey.of(manifest, settings)
    return checked_cache(manifest_path, key, data_root(settings), workers)


def prepare_benchmark_of(config: Config, name: str, output: Path, threads: int) -> None:
    """Rule `prepare_benchmark`: check the frames of a benchmark, and write their manifest."""
    settings, began = find_benchmark(config, name), time.time()
    root = benchmark_root(settings, Path.cwd())
    generation = data_generation(output, root)
    tell = tell_progress("file")

    def approve(frames: dict[Split, list[Frame]], root: Path) -> None:
        require_truths(frames["test"], root, find_protocol(settings.protocol))

    manifest = prepare_benchmark(
        name, settings, output, base=Path.cwd(), workers=threads, progress=tell, approve=approve
    )
    note_files(manifest, output, root, began, generation)
    log.warning("%d frames listed in %s", len(manifest.splits["test"]), output)


def verify_files(manifest_path: Path, root: Path | None) -> list[str]:
    """`fadepth data verify`: files that have changed; those with other times than noted are read.

    Args:
        manifest_path: of the data.
        root: the data's folder, where it is no longer the one that the manifest names.

    Raises:
        FadepthError: the manifest is absent or damaged, or the folder is not there.
    """
    manifest = Manifest.read(manifest_path)
    root = root or Path(manifest.root)
    if not root.is_dir():
        raise FadepthError(
            f"the data's folder {root} does not exist: name the present one with --root"
        )
    if not has_notes(manifest_path):
        # Made by an older version, or copied alone: time 0, so that every file is read.
        note_files(manifest, manifest_path, root, 0.0, "")
    return list(changed_files(manifest_path, root, most=None))


def require_truths(frames: Sequence[Frame], root: Path, protocol: Protocol) -> None:
    """Told before days of training: which frames could not be evaluated.

    Raises:
        FadepthError: frames lack ground truth of the protocol's kind.
    """
    lacking = [frame for frame in frames if ground_truth_file(frame, protocol) is None]
    if not lacking:
        return
    try:
        require_ground_truth(lacking[0], root, protocol)
    except FadepthError as error:
        raise FadepthError(
            f"{len(lacking)} of {len(frames)} frames to evaluate have no ground truth; the first: "
            f"{error}"
        ) from None


def estimate_ego_masks(config: Config, manifest_path: Path, output: Path) -> None:
    """`fadepth data ego-mask`: one image for each camera, black where it sees its own vehicle.

    Beside each, a picture of the last frame with the vehicle in colour: an estimate is to be looked
    at before it is used.
    """
    from fadepth.losses.masks import ego_vehicle  # imports torch, which no other rule here needs

    manifest = Manifest.read(manifest_path)
    root, size = Path(manifest.root), (config.data.height, config.data.width)
    frames = manifest.splits["train"]
    for camera in sorted({frame.side for frame in frames}):
        chosen = evenly_spread([frame for frame in frames if frame.side == camera], EGO_FRAMES)
        drives = len({frame.drive for frame in chosen})
        if len(chosen) < EGO_FEWEST:
            raise FadepthError(
                f"camera {camera} has {len(chosen)} training frames in {manifest_path}, but its "
                f"vehicle is told from the scene by at least {EGO_FEWEST}, best of several drives"
            )
        if len(chosen) < EGO_FRAMES or drives < 2:
            log.warning(
                "%s: only %d frames of %d drive(s): plain road may pass for the vehicle",
                camera, len(chosen), drives,
            )  # fmt: skip
        images = np.stack([resize_image(read_image(root / f.image), *size) for f in chosen])
        images = images.transpose(0, 2, 3, 1)
        vehicle = ego_vehicle(images.astype(np.float32) / 255)
        seen = images[-1].copy()
        seen[vehicle] = seen[vehicle] // 2 + np.array([115, 0, 60], dtype=np.uint8)
        for name, picture in ((camera, np.where(vehicle, 0, 255)), (f"{camera}_seen", seen)):
            with atomic_path(output / f"{name}.png") as temporary:
                Image.fromarray(picture.astype(np.uint8)).save(temporary)
        if not vehicle.any():
            log.warning("%s: no vehicle is seen, by %d frames", camera, len(chosen))
            continue
        log.warning(
            "%s: %.1f %% of the image is the vehicle, by %d frames; look at %s, then set "
            "'loss.ego_mask' to %s",
            camera, 100 * vehicle.mean(), len(chosen), output / f"{camera}_seen.png",
            output / "{camera}.png",
        )  # fmt: skip


def tell_progress(what: str) -> Callable[[int, int], None]:
    """A line in the log for each of them; the terminal shows one now and then."""
    return lambda done, total: log.info("%s %d of %d", what, done, total)
