"""One run: a trained network or a fitted baseline, and what its result depends on.

A run's name says what it is and holds its identity: settings, seed, data, teacher and scale, but
not the study that asks for it, so that tables share runs. Everything here is pure Python that runs
while Snakemake parses: no torch, no image is read.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fadepth.config import (
    NO_IDENTITY,
    Config,
    EvaluationSettings,
    OdometrySettings,
    Settings,
    TeacherSettings,
    ego_mask_path,
    expand,
    identity_settings,
)
from fadepth.data.kitti import CAMERAS
from fadepth.data.prepare import benchmark_identity
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import deciding_content, find_protocol
from fadepth.files import file_digest as file_digest  # costs.py, whose text counts, finds it here
from fadepth.fingerprint import code_fingerprint, digest, module_fingerprints
from fadepth.own_code import OwnCode, check_arguments, find_own_code

RunKind = Literal["student", "teacher", "baseline", "official"]

#: Kinds that are trained here.
TRAINED = ("student", "teacher")
Baseline = Literal["constant", "row_median", "pixel_median"]

#: Modules that a training's result depends on, whatever it trains (paths below the package).
TRAINING_CODE = (
    "geometry.py", "training.py", "optimizer.py", "data/dataset.py", "data/augment.py",
    "data/kitti.py", "data/cache.py",
    "models/posenet.py", "losses/masks.py", "losses/photometric.py", "losses/ssim.py",
)  # fmt: skip
STUDENT_CODE = ("models/smalldepth.py", "models/etm.py")
OWN_NETWORK_CODE = ("models/own.py",)

#: Begins the names of the user's own files and packages where they stand beside fadepth's modules.
OWN = "own:"

#: Settings of the student that count with an own network.
_OF_OWN_NETWORK = ("network", "arguments")
TEACHER_CODE = ("models/hqdec.py", "models/hqdec_v1.py", "models/efficientnetv2.py")
EVALUATION_CODE = (
    "evaluation/metrics.py", "evaluation/protocols.py", "evaluation/evaluate.py",
    "evaluation/baselines.py", "data/kitti.py", "data/ddad.py", "data/make3d.py",
    "data/cityscapes.py", "geometry.py",
)  # fmt: skip

#: What `odometry/` depends on beside the trained network.
ODOMETRY_CODE = (
    "evaluation/odometry.py", "data/kitti_odometry.py", "data/kitti.py", "models/posenet.py",
    "geometry.py",
)  # fmt: skip

#: What `robustness.json` depends on beside the evaluation.
ROBUSTNESS_CODE = (*EVALUATION_CODE, "evaluation/robustness.py")

#: What `grid.json` depends on beside the trained network.
GRID_CODE = ("evaluation/grid.py", *TEACHER_CODE)


def _ego_mask_digest(config: Config) -> str | list[str]:
    """Digest of the ego mask's bytes: what is drawn on it counts, not where it lies."""
    name = config.loss.ego_mask or ""
    if "{camera}" not in name:
        return _file_digest(ego_mask_path(name, ""))
    of_source = {"ddad": config.data.ddad.cameras, "video": ("l",)}
    cameras = of_source.get(config.data.source, tuple(CAMERAS))
    return [_file_digest(ego_mask_path(name, camera)) for camera in cameras]


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    except OSError:
        raise FadepthError(
            f"ego mask {path} cannot be read: set 'loss.ego_mask' to an image file, black where "
            "the camera sees its own vehicle ('fadepth data ego-mask' estimates one), or to null"
        ) from None


@dataclass(frozen=True)
class Run:
    """One folder below `runs/`: a trained network or a fitted baseline.

    Attributes:
        kind: what it is.
        slug: for people; part of the id (`slug_of`).
        label: the row of the table that it belongs to.
        factors: level of each factor; empty for teacher, baselines and rows of explicit studies.
        seed: of everything random in it.
        config: resolved settings.
        data_hash: identity of the data (`data_identity`).
        study: name of the study that it was resolved from.
        teacher: the run whose predictions APX approximates.
        predictions: of kind official, the file with its disparities (`read_predictions`).
    """

    kind: RunKind
    slug: str
    label: str
    factors: Mapping[str, str]
    seed: int
    config: Config
    data_hash: str
    study: str
    teacher: "Run | None" = None
    predictions: str | None = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The non-default settings that this run's result depends on, and no others."""
        if self.kind == "official":
            assert self.predictions is not None, "the study has looked"
            return {"predictions": file_digest(Path(expand(self.predictions)))}
        own = {"data", "pose", "loss", "training", self.kind}
        settings = {k: v for k, v in identity_settings(self.config).items() if k in own}
        if self.kind == "baseline":
            size = [self.config.data.height, self.config.data.width]
            # A baseline is fitted to ground truth, and the protocol says to which.
            protocol = self.config.evaluation.protocol
            return {"baseline": self.slug, "size": size, "protocol": protocol}
        loss = dict(settings.pop("loss", {}))
        for name in ("pyramid", "apx"):
            # A switched-off loss has no effect, whatever its weights; the teacher never uses them.
            if self.kind == "teacher" or not getattr(self.config.loss, name).enabled:
                loss.pop(name, None)
        if self.config.loss.base != "cbw":
            loss.pop("cbw", None)
        if loss.get("ego_mask"):
            loss["ego_mask"] = _ego_mask_digest(self.config)
        if loss:
            settings["loss"] = loss
        if self.kind == "student" and self.config.student.network:
            student = {k: v for k, v in settings["student"].items() if k in _OF_OWN_NETWORK}
            settings["student"] = student
        elif self.kind == "student" and self.config.student.etm.branches == "off":
            student = {k: v for k, v in settings.get("student", {}).items() if k != "etm"}
            settings["student"] = student
        if self.kind == "teacher":
            teacher = {k: v for k, v in settings.get("teacher", {}).items() if k != "seed"}
            settings["teacher"] = teacher
        return settings

    @cached_property
    def config_hash(self) -> str:
        """Digest of settings, seed, teacher, data and scale: the hash in the run's id."""
        return digest(
            {
                "kind": self.kind,
                "settings": self.settings,
                "seed": self.seed,
                "teacher": self.teacher.id if self.teacher else None,
                "data": self.data_hash,
                "scale": self.config.scale,
            }
        )

    @cached_property
    def id(self) -> str:
        """`<slug>-s<seed>-<10 hex>`."""
        return f"{self.slug}-s{self.seed}-{self.config_hash}"

    @property
    def code_modules(self) -> tuple[str, ...]:
        """Modules that this run's result depends on, as paths below the package."""
        if self.kind not in TRAINED:
            return EVALUATION_CODE
        modules = list(TRAINING_CODE)
        if self.own_code:
            modules += [*OWN_NETWORK_CODE, *self.own_code.modules]
        else:
            modules += STUDENT_CODE if self.kind == "student" else TEACHER_CODE
        if self.config.loss.base == "cbw":
            modules.append("losses/cbw.py")
        if "pyramid" in self.settings.get("loss", {}):
            modules.append("losses/pyramid.py")
        if "apx" in self.settings.get("loss", {}):
            modules += ["losses/apx.py", "targets.py"]
        return tuple(modules)

    @cached_property
    def own_code(self) -> OwnCode | None:
        """Source of the user's own network; None for fadepth's.

        Raises:
            FadepthError: `student.network` names something that is not there, or `arguments` what
                it does not take.
        """
        student = self.config.student
        if self.kind != "student" or student.network is None:
            return None
        code = find_own_code(student.network)
        check_arguments(code, student.arguments)
        return code

    @cached_property
    def code_hash(self) -> str:
        """Fingerprint of the code that trains this run."""
        code = code_fingerprint(self.code_modules)
        return digest([code, self.own_code.fingerprints]) if self.own_code else code

    @property
    def code_fingerprints(self) -> dict[str, str]:
        """The same, each module and file by itself: tells which one has changed."""
        own = self.own_code.fingerprints if self.own_code else {}
        named = {f"{OWN}{name}": value for name, value in own.items()}
        return module_fingerprints(self.code_modules) | named

    @property
    def identity(self) -> dict[str, Any]:
        """What Snakemake watches: values that change when the run has to be trained again."""
        return {"config": self.config_hash, "code": self.code_hash, "settings": self.settings}

    @property
    def evaluation_identity(self) -> dict[str, Any]:
        """What Snakemake watches for the evaluation of this run."""
        return self._evaluation_identity(EVALUATION_CODE)

    @property
    def robustness_identity(self) -> dict[str, Any]:
        """What Snakemake watches for `robustness.json` of this run."""
        return self._evaluation_identity(ROBUSTNESS_CODE)

    def _evaluation_identity(self, modules: tuple[str, ...]) -> dict[str, Any]:
        settings: EvaluationSettings = self.config.evaluation
        return {
            "evaluation": settings.model_dump(mode="json"),
            "protocol": deciding_content(find_protocol(settings.protocol)),
            "code": code_fingerprint(modules),
        }

    @property
    def grid_identity(self) -> dict[str, Any]:
        """What Snakemake watches for `grid.json` of this run."""
        return {"code": code_fingerprint(GRID_CODE)}

    @property
    def data_folder(self) -> str:
        """Name of the folder below `data/` that holds the manifest of this run's frames."""
        return f"{self.config.data.name}-{self.data_hash}"

    def benchmark_identity(self, name: str, base: Path) -> dict[str, Any]:
        """What Snakemake watches for the evaluation of this run on a benchmark."""
        settings = self.config.benchmarks[name]
        return {
            "benchmark": benchmark_identity(settings, base),
            "protocol": deciding_content(find_protocol(settings.protocol)),
            "code": code_fingerprint(EVALUATION_CODE),
        }


def odometry_identity(settings: OdometrySettings, sequence: str, base: Path) -> dict[str, Any]:
    """What Snakemake watches for the evaluation of a run's poses on a sequence.

    Images are not hashed; where they lie is compared.
    """
    roots = [expand(text) for text in (settings.root, settings.raw_root or "")]
    poses = base / roots[0] / "poses" / f"{sequence}.txt"
    return {
        "roots": roots,
        "poses": hashlib.sha256(poses.read_bytes()).hexdigest() if poses.is_file() else None,
        "code": code_fingerprint(ODOMETRY_CODE),
    }


# Names


def teacher_slug(teacher: TeacherSettings) -> str:
    """`hqdecv2`, or `hqdec` followed by those of the three changes that are on."""
    switches = ("adacoeff", "upsampler_v2", "global_map")
    on = [name for name in switches if getattr(teacher, name)]
    return "hqdecv2" if len(on) == len(switches) else "_".join(["hqdec", *on])


def slug_of(settings: Mapping[str, Any], plain: Config, resolved: Config) -> str:
    """For people: what a student has that the preset has not, such as `apx_etm`.

    It depends on settings alone and not on what a study calls them, so that studies share runs.

    Args:
        settings: nested overrides of the row.
        plain: settings of the preset.
        resolved: the preset with the overrides.
    """
    parts = set()
    for key in _leaves(settings):
        value = _value(resolved, key)
        if value == _value(plain, key) or not _counts(key, resolved):
            continue
        parts.add(_part(key, value, resolved))
    return "_".join(sorted(parts)) or "plain"


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part)
    return value


def _counts(key: str, config: Config) -> bool:
    """Whether a setting has an effect: those of what is switched off have none."""
    if key.partition(".")[0] not in ("data", "student", "teacher", "pose", "loss", "training"):
        return False
    if _is_free(key, config):
        return False
    off = {
        "loss.pyramid.": not config.loss.pyramid.enabled,
        "loss.apx.": not config.loss.apx.enabled,
        "teacher.": not config.loss.apx.enabled,
        "loss.cbw.": config.loss.base != "cbw",
        "student.etm.": config.student.etm.branches == "off",
        "student.sparsity": config.student.network is not None,
        "student.width": config.student.network is not None,
    }
    switches = ("loss.pyramid.enabled", "loss.apx.enabled", "student.etm.branches")
    return key in switches or not any(key.startswith(part) and off[part] for part in off)


def _is_free(key: str, config: Config) -> bool:
    """Whether a setting is marked as none of a run's identity (`NO_IDENTITY`)."""
    section, _, leaf = key.rpartition(".")
    owner = _value(config, section) if section else None
    field = type(owner).model_fields[leaf] if isinstance(owner, Settings) else None
    return field is not None and field.json_schema_extra == NO_IDENTITY


def _part(key: str, value: Any, config: Config) -> str:
    section, _, leaf = key.rpartition(".")
    if key in ("data.height", "data.width"):
        return f"{config.data.height}x{config.data.width}"
    if key == "student.etm.branches":
        return "etm" if value == "ac" else f"etm_{value}"
    if leaf == "enabled":
        name = section.rpartition(".")[2]
        return name if value else f"no_{name}"
    if section == "teacher":
        slug = teacher_slug(config.teacher)
        if leaf in ("adacoeff", "upsampler_v2", "global_map"):
            return slug
        leaf = f"teacher_{leaf}"
    elif section == "pose":
        leaf = f"pose_{leaf}"
    elif section == "student.arguments":
        leaf, value = f"arg_{leaf}", str(value)[:20]  # the user's words, and a folder's name
    return re.sub(r"[^a-z0-9]+", "_", f"{leaf}_{value}".lower()).strip("_")
