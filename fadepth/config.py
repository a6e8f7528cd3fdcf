"""Every setting of fadepth, typed, with its default, in one place.

A preset (`config/NAME.yaml`) and a study (`ablations/NAME.yaml`) only override these defaults. The
defaults are the paper-scale reading of the method; where no source gives a value the field says
[derived]. The identity of a run is a hash of the settings that differ from these defaults
(`fadepth.study`), so a new setting whose default is neutral leaves old runs valid, and a default
that changes its value must be treated as a change of every run that relies on it.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from fadepth.errors import FadepthError
from fadepth.own_code import SPEC

Named = TypeVar("Named")

Scale = Literal["smoke", "quick", "full"]
Split = Literal["train", "val", "test"]
Source = Literal["kitti", "ddad", "video", "synthetic", "make3d", "cityscapes"]

#: Marks a field that says where or how fast, not what: it never enters a run's identity.
NO_IDENTITY: JsonDict = {"identity": False}


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class SyntheticSettings(Settings):
    """The embedded street (`fadepth.data.synthetic`); read only where `data.source: synthetic`."""

    seed: int = Field(0, description="seed of the scenes' layout, textures and motion")
    scenes: dict[Split, int] = Field(
        default={"train": 24, "val": 2, "test": 16}, description="number of scenes of each split"
    )
    frames: dict[Split, int] = Field(
        default={"train": 34, "val": 8, "test": 8}, description="frames of each scene"
    )
    height: int = Field(96, ge=32, description="rendered image height, pixels")
    width: int = Field(312, ge=32, description="rendered image width, pixels")

    @model_validator(mode="after")
    def _every_split_has_frames(self) -> "SyntheticSettings":
        for split in ("train", "val", "test"):
            if self.scenes.get(split, 0) < 1:
                raise ValueError(f"scenes.{split} must be at least 1")
            if self.frames.get(split, 0) < 3:
                raise ValueError(
                    f"frames.{split} must be at least 3 (a frame needs both neighbours)"
                )
        return self


class JitterSettings(Settings):
    """Photometric augmentation, one draw per sample (monodepth2 `datasets/mono_dataset.py`)."""

    probability: float = Field(0.5, ge=0, le=1, description="share of samples that are relit")
    brightness: float = Field(0.2, ge=0, lt=1, description="b: factor drawn from [1 - b, 1 + b]")
    contrast: float = Field(0.2, ge=0, lt=1, description="the same for contrast")
    saturation: float = Field(0.2, ge=0, lt=1, description="the same for saturation")
    hue: float = Field(
        0.1, ge=0, le=0.5, description="h: shift drawn from [-h, h], turns of the colour circle"
    )


def names_checked(named: dict[str, Named]) -> dict[str, Named]:
    """Names become parts of folder names and columns: lower-case letters, digits, underscore."""
    for name in named:
        if not re.fullmatch(r"[a-z0-9_]+", name):
            raise ValueError(f"name '{name}' may have only a-z, 0-9 and _, since folders carry it")
    return named


def _folder_name(value: str) -> str:
    """A label that folders, log files and MLflow's experiments carry."""
    if not re.fullmatch(r"\w[\w.+-]{0,49}", value):
        raise ValueError(
            "must be at most 50 letters, digits, '_', '.', '+' or '-', the first none of the last "
            "three, since folders carry it"
        )
    return value


def _distinct_cameras(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or len({name.lower() for name in value}) != len(value):
        raise ValueError("must be distinct camera names such as [CAMERA_01, CAMERA_05]")
    return value


class DdadSettings(Settings):
    """DDAD (`fadepth.data.ddad`); read only where `data.source: ddad`."""

    cameras: tuple[str, ...] = Field(
        ("CAMERA_01",), description="cameras that give frames; CAMERA_01 looks ahead"
    )
    held_out_scenes: int = Field(
        5, ge=0, description="whole training scenes that are kept for `val` instead [derived]"
    )

    @field_validator("cameras")
    @classmethod
    def _cameras_are_distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct_cameras(value)


class DataSettings(Settings):
    """Which frames, where they lie, and the size at which the networks see them."""

    name: str = Field("kitti", description="label of the data set in tables and run folders")
    source: Literal["kitti", "ddad", "video", "synthetic"] = Field(
        "kitti",
        description="kitti: files in the KITTI raw layout; ddad: in DDAD's; video: frames made by "
        "`fadepth data prepare video`; synthetic: rendered on demand",
    )
    root: str = Field(
        "${KITTI_ROOT:-data/kitti_raw}",
        description="folder of the raw data; ${NAME:-default} reads the environment",
        json_schema_extra=NO_IDENTITY,
    )
    splits: str = Field(
        "${KITTI_SPLITS:-data/splits/eigen_zhou}",
        description="folder with {train,val,test}_files.txt, or DDAD's scene list (ddad.json); "
        "their content is part of the identity",
        json_schema_extra=NO_IDENTITY,
    )
    height: int = Field(192, ge=32, description="of the images that networks see, pixels")
    width: int = Field(640, ge=32, description="of the images that networks see, pixels")
    high_resolution: tuple[int, int] = Field(
        (320, 1024),
        description="height and width of studies with `resolution: high`, pixels",
        json_schema_extra=NO_IDENTITY,
    )
    source_frames: tuple[int, ...] = Field(
        (-1, 1), description="neighbours that are warped, frames from the target"
    )
    flip_probability: float = Field(
        0.5, ge=0, le=1, description="share of samples that are mirrored"
    )
    jitter: JitterSettings = JitterSettings()
    synthetic: SyntheticSettings = SyntheticSettings()
    ddad: DdadSettings = DdadSettings()
    cache: Literal["off", "memory", "disk"] = Field(
        "off",
        description="where decoded, resized training images are kept: nowhere; in memory, made at "
        "each start; in one memory-mapped file beside the manifest, made once",
        json_schema_extra=NO_IDENTITY,
    )

    @field_validator("name")
    @classmethod
    def _name_fits_folders(cls, value: str) -> str:
        return _folder_name(value)

    @field_validator("cache", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        # YAML 1.1 reads a bare `off` as the boolean false.
        return "off" if value is False else value

    @field_validator("source_frames")
    @classmethod
    def _sources_are_neighbours(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or 0 in value or len(set(value)) != len(value):
            raise ValueError("must be distinct, non-zero frame offsets such as [-1, 1]")
        return value


class EtmSettings(Settings):
    """Equivalent transformation module (`fadepth.models.etm`) [paper: idea; derived: branches]."""

    branches: Literal["off", "rep", "ac", "seq", "dbb", "ctx", "all"] = Field(
        "off",
        description="set of linear branches beside each convolution while training; docs/method.md "
        "lists them",
    )
    space: Literal["activation", "kernel"] = Field(
        "activation", description="where branches are summed; kernel space is the cheap one"
    )

    @field_validator("branches", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        # YAML 1.1 reads a bare `off` as the boolean false.
        return "off" if value is False else value


#: What an own network can be given: YAML's plain values, and lists of them.
Plain = bool | int | float | str | None


class StudentSettings(Settings):
    """SmallDepth (`fadepth.models.smalldepth`), or with `network` one's own depth network."""

    sparsity: Literal["dense", "group32", "group16", "depthwise", "pconv"] = Field(
        "group32",
        description="zero pattern of the late 3x3 kernels: none, groups of 32 or 16 channels, one "
        "channel each, or a quarter of the channels only [derived]",
    )
    width: float = Field(1.0, gt=0, le=4, description="factor on all channel counts")
    etm: EtmSettings = EtmSettings()
    network: str | None = Field(
        None,
        description="one's own network in place of SmallDepth, module:factory "
        "(docs/how-to/your-own-network.md); the settings above do not count then",
    )
    arguments: dict[str, Plain | list[Plain]] = Field(
        default={}, description="keyword arguments of that factory"
    )

    @field_validator("network")
    @classmethod
    def _network_is_an_import_path(cls, value: str | None) -> str | None:
        if value is not None and not SPEC.fullmatch(value):
            raise ValueError(
                "must be module:factory, such as mynet:build for 'def build() -> nn.Module' in "
                "mynet.py beside the Snakefile"
            )
        return value

    @field_validator("arguments")
    @classmethod
    def _arguments_are_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not name.isidentifier():
                raise ValueError(f"'{name}' can be no argument of a Python function")
        return value

    @model_validator(mode="after")
    def _arguments_have_a_network(self) -> "StudentSettings":
        if self.arguments and self.network is None:
            raise ValueError(
                "arguments are for one's own network: set student.network to module:factory, too"
            )
        return self


class TeacherSettings(Settings):
    """HQDecv2 (`fadepth.models.hqdec`), its own training budget included."""

    width: float = Field(1.0, gt=0, le=2, description="factor on all channel counts")
    depth: float = Field(1.0, gt=0, le=2, description="factor on the encoder's block counts")
    adacoeff: bool = Field(
        True, description="coefficients from the image; false: HQDec's learned maps, of one size"
    )
    upsampler_v2: bool = Field(True, description="blurred detail; false: HQDec's sub-pixel maps")
    global_map: bool = Field(
        True, description="global feature maps; false: HQDec's patch transformer, of one size"
    )
    encoder_weights: str | None = Field(
        None, description="file of torchvision's efficientnet_v2_s weights; none: random start"
    )
    seed: int = Field(1, ge=0, description="the one teacher is trained with it for all students")
    epochs: int | None = Field(None, ge=1, description="none: as training.epochs")
    learning_rate: float | None = Field(None, gt=0, description="none: as training.learning_rate")


class PoseSettings(Settings):
    """Pose network (`fadepth.models.posenet`)."""

    width: float = Field(1.0, gt=0, le=4, description="factor on all channel counts")
    downscale: int = Field(1, ge=1, le=4, description="the network sees images this much smaller")
    mirror: bool = Field(
        False,
        description="average each motion with that of the mirrored pair, mirrored back [derived]",
    )


class PyramidSettings(Settings):
    """Pyramid loss (`fadepth.losses.pyramid`) [paper: idea; derived: all values]."""

    enabled: bool = Field(False, description="whether this loss is added; a study turns it on")
    kind: Literal["inputs", "outputs", "features"] = Field(
        "inputs",
        description="what the levels are: small images; the decoder's output scales, each judged "
        "alone; small images whose encoder features agree with the full one's",
    )
    weight: float = Field(0.5, ge=0, description="lambda_pyr, factor on the whole term")
    levels: int = Field(3, ge=1, le=4, description="number of pyramid levels, level 0 included")
    flip: bool = Field(True, description="mirror each level's batch with probability 1/2")
    jitter: bool = Field(
        True, description="relight each image of a level by data.jitter's strengths, and gamma"
    )
    photometric: bool = Field(True, description="photometric term on the altered views")
    consistency_weight: float = Field(
        0.1, ge=0, description="w_c, of the agreement with the reference"
    )
    warmup_epochs: float = Field(2.0, ge=0, description="epochs over which w_c grows from 0")
    reference: Literal["clean", "post_processed"] = Field(
        "clean",
        description="what altered views agree with: the clean image's disparity, or its mean with "
        "the mirrored image's, mirrored back (one more pass)",
    )

    @model_validator(mode="after")
    def _kind_has_it(self) -> "PyramidSettings":
        if self.kind == "outputs" and self.levels > 3:
            raise ValueError("levels must be at most 3 with kind: outputs, SmallDepth's scales")
        if self.kind == "features" and self.reference != "clean":
            raise ValueError("reference must be clean with kind: features, which compares no depth")
        return self


class ApxSettings(Settings):
    """Function approximation loss (`fadepth.losses.apx`) [paper: idea; derived: all values]."""

    enabled: bool = Field(False, description="whether this loss is added; a study turns it on")
    weight: float = Field(1.0, ge=0, description="lambda_apx, factor on the whole term")
    value_weight: float = Field(1.0, ge=0, description="a0, of log inverse depths")
    slope_weight: float = Field(
        1.0, ge=0, description="a1, of their differences over 1 to 8 pixels"
    )
    curvature_weight: float = Field(0.0, ge=0, description="a2, of their Laplacian")
    align: Literal["none", "median"] = Field(
        "median",
        description="median: a shift of each image's log inverse depth is free, since monocular "
        "scale is open; none: teacher and student share one scale",
    )
    mask: bool = Field(True, description="weigh pixels by the teacher's reliability")
    alone_epochs: float = Field(0.0, ge=0, description="first epochs without the other losses")


class CbwSettings(Settings):
    """Bidirectional base loss (`fadepth.losses.cbw`) [derived]; only where `loss.base: cbw`."""

    feature_weight: float = Field(0.1, ge=0, description="of the difference of early features")
    consistency_weight: float = Field(0.1, ge=0, description="of the difference of depths")
    occlusion: Literal["weight", "depth", "none"] = Field(
        "weight",
        description="how occluded pixels are treated: weighed by depths and flows, left out where "
        "depths differ by 0.2 or more, or not at all",
    )


class LossSettings(Settings):
    """Self-supervised base loss and the two added losses."""

    base: Literal["md2", "cbw"] = Field(
        "md2",
        description="md2: monodepth2's (arXiv 1806.01260), smallest error over the sources; cbw: "
        "each pair both ways, weighted by the agreement of depths and flows [derived]",
    )
    ssim_weight: float = Field(
        0.85, ge=0, le=1, description="share of SSIM in the photometric error, the rest is L1"
    )
    smoothness_weight: float = Field(
        1e-3,
        ge=0,
        description="of disparity's edges where the image has none; smaller scales weigh less",
    )
    automask: bool = Field(
        True, description="leave out pixels that the unwarped neighbour explains better"
    )
    warp_at: Literal["full", "scale"] = Field(
        "full",
        description="size at which coarse scales are compared: full (monodepth2), or their own, "
        "as before monodepth2 (SfMLearner); the latter is cheap",
    )
    ego_mask: str | None = Field(
        None,
        description="image of the camera, black where it sees its own vehicle; those pixels do not "
        "count in any self-supervised loss; {camera} in the name stands for CAMERA_01 and so on, "
        "or l and r; the file's content is part of the identity",
    )
    border: int = Field(
        0, ge=0, le=15, description="pixels at the image's edge that no loss counts"
    )
    cbw: CbwSettings = CbwSettings()
    pyramid: PyramidSettings = PyramidSettings()
    apx: ApxSettings = ApxSettings()


class TrainingSettings(Settings):
    """Optimisation; the defaults are monodepth2's, since no source gives FA-Depth's."""

    epochs: int = Field(20, ge=1, description="passes over the frames, or steps_per_epoch each")
    steps_per_epoch: int | None = Field(None, ge=1, description="none: one pass over the frames")
    batch_size: int = Field(12, ge=1, description="target frames in a step")
    learning_rate: float = Field(1e-4, gt=0, description="AdamW's, at the schedule's height")
    schedule: Literal["step", "cosine"] = Field(
        "step", description="step: x0.1 after 3/4 of the epochs; cosine: warm-up, then to 1 %"
    )
    beta2: float = Field(
        0.999, gt=0, lt=1, description="Adam's memory of squared gradients, 1 / (1 - beta2) steps"
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, apart from the gradient")
    clip_gradient: float | None = Field(None, gt=0, description="largest gradient norm")
    amp: Literal["off", "bf16", "fp16"] = Field(
        "off",
        description="precision of the networks' forward and backward passes; losses and weights "
        "are float32 always; fp16 needs a GPU",
    )
    device: str = Field(
        "auto",
        description="auto: cuda where present, else cpu",
        json_schema_extra=NO_IDENTITY,
    )
    workers: int = Field(
        0, ge=0, description="data loading processes", json_schema_extra=NO_IDENTITY
    )
    log_every: int = Field(
        20, ge=1, description="steps between lines of the log", json_schema_extra=NO_IDENTITY
    )
    checkpoint_every: int = Field(
        200,
        ge=1,
        description="steps between checkpoints, beside one at each epoch's end",
        json_schema_extra=NO_IDENTITY,
    )

    @field_validator("amp", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        # YAML 1.1 reads a bare `off` as the boolean false.
        return "off" if value is False else value


class EvaluationSettings(Settings):
    """How depth is compared with ground truth (`fadepth.evaluation.protocols`)."""

    protocol: str = Field(
        "kitti_eigen_raw",
        description="name of a file of fadepth/protocols/, or the path of one's own, NAME.yaml",
    )
    split: Split = Field("test", description="list of frames that are compared")
    panels: int = Field(4, ge=0, description="frames drawn as input | disparity | error images")


class BenchmarkSettings(Settings):
    """Frames of another list or data set, and the protocol to evaluate runs on them with."""

    source: Source = Field(description="layout of the data")
    root: str = Field(description="folder of the data; ${NAME:-default} reads the environment")
    frames: str | None = Field(
        None,
        description="kitti: a split list; ddad: its scene list (ddad.json), of which the "
        "validation scenes count; make3d, cityscapes: a list of names; none: all that is there",
    )
    protocol: str = Field(description="name or path of a protocol, as in `evaluation`")
    title: str | None = Field(
        None, description="what tables call it; none: the name. It tells where data stand in"
    )
    cameras: tuple[str, ...] = Field(("CAMERA_01",), description="of DDAD")
    folder: Literal["test", "val", "train"] = Field("test", description="of Cityscapes")
    synthetic: SyntheticSettings | None = Field(
        None, description="with source: synthetic, the street whose test scenes count"
    )

    @field_validator("cameras")
    @classmethod
    def _cameras_are_distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct_cameras(value)

    @model_validator(mode="after")
    def _list_is_named(self) -> "BenchmarkSettings":
        if self.source in ("kitti", "ddad") and self.frames is None:
            raise ValueError("frames must name a list of frames with source: kitti or ddad")
        if (self.source == "synthetic") != (self.synthetic is not None):
            raise ValueError("synthetic describes the street with source: synthetic, and only then")
        return self


class DatasetSettings(Settings):
    """Where a study that asks for a data set by name (`data: ddad`) finds it."""

    preset: str | None = Field(
        None, description="settings file to use in place of this preset; none: this preset"
    )
    overrides: dict[str, Any] = Field(default={}, description="settings on top of it")


class OdometrySettings(Settings):
    """KITTI odometry (`fadepth.data.kitti_odometry`), for the pose networks of finished runs."""

    root: str = Field(
        "${KITTI_ODOMETRY_ROOT:-data/kitti_odometry}",
        description="holds poses/09.txt; and sequences/09, unless raw_root holds the drives",
        json_schema_extra=NO_IDENTITY,
    )
    raw_root: str | None = Field(
        None,
        description="folder of the KITTI raw drives, read where there is no sequences/",
        json_schema_extra=NO_IDENTITY,
    )
    sequences: tuple[str, ...] = Field(
        ("09", "10"), description="sequences with ground truth", json_schema_extra=NO_IDENTITY
    )

    @field_validator("sequences")
    @classmethod
    def _names_fit_folders(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"[0-9]{2}", name):
                raise ValueError("must be numbers of two digits in quotes, such as ['09', '10']")
        return value


class Config(Settings):
    """One complete set of settings: a preset, with a study's overrides applied."""

    scale: Scale = Field("full", description="what results of this preset may be used for")
    seeds: tuple[int, ...] = Field(
        (1, 2, 3), description="seeds of every trained variant; one run each"
    )
    data: DataSettings = DataSettings()
    student: StudentSettings = StudentSettings()
    teacher: TeacherSettings = TeacherSettings()
    pose: PoseSettings = PoseSettings()
    loss: LossSettings = LossSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    benchmarks: dict[str, BenchmarkSettings] = Field(
        default={},
        description="other data and protocols that finished runs are evaluated on, by name",
        json_schema_extra=NO_IDENTITY,
    )
    datasets: dict[str, DatasetSettings] = Field(
        default={},
        description="data sets that studies ask for by name, and the settings that stand for them; "
        "studies on others are left out",
        json_schema_extra=NO_IDENTITY,
    )
    odometry: OdometrySettings = OdometrySettings()

    @field_validator("benchmarks")
    @classmethod
    def _names_fit_folders(
        cls, value: dict[str, BenchmarkSettings]
    ) -> dict[str, BenchmarkSettings]:
        return names_checked(value)

    @model_validator(mode="after")
    def _pyramid_fits_the_images(self) -> "Config":
        pyramid, side = self.loss.pyramid, min(self.data.height, self.data.width)
        if pyramid.enabled and pyramid.kind != "outputs" and side >> (pyramid.levels - 1) < 32:
            raise ValueError(
                f"loss.pyramid.levels is {pyramid.levels}, but of images {side} pixels high the "
                "last level has less than 32: choose fewer levels or larger images"
            )
        return self

    @field_validator("seeds")
    @classmethod
    def _seeds_are_distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value) or min(value) < 0:
            raise ValueError("must be distinct, non-negative integers such as [1, 2, 3]")
        return value


def ego_mask_path(name: str, camera: str) -> Path:
    """File of `loss.ego_mask` for a camera."""
    return Path(expand(name.replace("{camera}", camera)))


def find_benchmark(config: Config, name: str) -> BenchmarkSettings:
    """The benchmark of that name in the preset.

    Raises:
        FadepthError: the preset has none; those that there are are listed.
    """
    if name not in config.benchmarks:
        known = ", ".join(config.benchmarks) or "none"
        raise FadepthError(
            f"the preset has no benchmark '{name}' (there are: {known}): describe it in "
            "'benchmarks' of the preset"
        )
    return config.benchmarks[name]


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an absent file, broken YAML or another type is told in one sentence."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FadepthError(f"{path} does not exist: expected a YAML file of settings") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise FadepthError(f"{path}{line} is not readable YAML: mend it or restore it") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise FadepthError(f"{path} holds a {type(content).__name__}: expected 'key: value' lines")
    return content


def parse_config(content: dict[str, Any], origin: str) -> Config:
    """Turn nested settings into a `Config`; `origin` (a file) is named in the error.

    Raises:
        FadepthError: names the key, the file, and the nearest right key or the expected value.
    """
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise FadepthError(_first_problem(error, origin)) from None


def load_config(path: Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read a preset and apply nested `overrides` on top of it."""
    return parse_config(merge(merge({}, load_yaml(path)), overrides or {}), str(path))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; lists are values, and an empty mapping is nothing."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def merge(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `overrides` laid over it, mapping by mapping; inputs stay as they are.

    A dotted key (`loss.apx.weight: 0.2`) means the nested one, as studies write it.
    """
    result = dict(base)
    for key, value in overrides.items():
        head, _, tail = str(key).partition(".")
        value = {tail: value} if tail else value
        old = result.get(head)
        if isinstance(value, dict):
            result[head] = merge(old if isinstance(old, dict) else {}, value)
        else:
            result[head] = value
    return result


def expand(text: str) -> str:
    """Replace `${NAME}` and `${NAME:-default}` by environment variables.

    Raises:
        FadepthError: a variable without default is not set.
    """

    def value_of(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        # As in a shell's ${NAME:-default}, an empty variable counts as unset.
        value = os.environ.get(name) or default
        if value is None:
            raise FadepthError(f"environment variable {name} is not set, but '{text}' needs it")
        return value

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value_of, text)


def identity_settings(settings: Settings) -> dict[str, Any]:
    """Nested settings that differ from their defaults, without those marked `NO_IDENTITY`."""
    result: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("identity") is False:
            continue
        value = getattr(settings, name)
        if isinstance(value, Settings):
            if nested := identity_settings(value):
                result[name] = nested
        elif value != field.get_default():
            result[name] = list(value) if isinstance(value, tuple) else value
    return result


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")


def _initials(name: str) -> str:
    """`lr` of `learning_rate`."""
    return "".join(part[0] for part in name.split("_"))


def _first_problem(error: ValidationError, origin: str) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = list(_keys(Config))
        section, _, last = key.rpartition(".")
        # A right name in the wrong place (`training.smoothness_weight`) is found by its last part;
        # a wrong name (`loss.pyramid.wieght`) is nearest to one of the same section.
        by_last = [name for name in known if name.rpartition(".")[2] == last]
        near = [key] if key in by_last else sorted(by_last, key=lambda name: name.count("."))[:1]
        if not near:
            prefix = f"{section}." if section else ""
            siblings = {k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == section}
            matches = [name for name in siblings if last == _initials(name)]
            matches += difflib.get_close_matches(last, sorted(siblings), n=1, cutoff=0.25)
            near = [prefix + name for name in matches]
        hint = (
            f"did you mean '{near[0]}'?"
            if near
            else f"known keys: {', '.join(Config.model_fields)}"
        )
        return f"unknown key '{key}' in {origin}: {hint}"
    given = repr(problem.get("input"))
    given = given if len(given) < 60 else given[:57] + "..."
    expected = problem["msg"].removeprefix("Value error, ")
    expected = expected[:1].lower() + expected[1:]
    return f"wrong value {given} for '{key or 'the whole file'}' in {origin}: {expected}"
