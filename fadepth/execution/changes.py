"""Which settings differ between two runs, or between two studies, in words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fadepth.config import NO_IDENTITY, Config, flat
from fadepth.errors import FadepthError
from fadepth.run import Run

#: Settings that name what a run is trained on and how; others say how it is evaluated and shown.
_IDENTITY = ("scale", "seeds", "data", "student", "teacher", "pose", "loss", "training")

#: What a switch switches: section, the switch, the values that mean off.
_SWITCHES: tuple[tuple[str, str, tuple[object, ...]], ...] = (
    ("loss.pyramid.", "loss.pyramid.enabled", (False,)),
    ("loss.apx.", "loss.apx.enabled", (False,)),
    ("loss.cbw.", "loss.base", ("md2",)),
    ("student.etm.", "student.etm.branches", ("off",)),
    ("student.arguments.", "student.network", (None,)),
)

#: Value of a key that one of the two does not have.
ABSENT = "(absent)"


@dataclass(frozen=True)
class Change:
    """One setting with two values; `identity` tells whether other runs come of it."""

    key: str
    old: Any
    new: Any
    identity: bool = True

    def __str__(self) -> str:
        return f"{self.key} {spoken(self.old)} → {spoken(self.new)}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {"key": self.key, "old": self.old, "new": self.new, "identity": self.identity}


def spoken(value: Any) -> str:
    """A value as YAML writes it, text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys with their values in either of two nested mappings, where these differ."""
    one, other = flat(old), flat(new)
    keys = dict.fromkeys([*one, *other])
    pairs = [(key, one.get(key, ABSENT), other.get(key, ABSENT)) for key in keys]
    return [(key, before, after) for key, before, after in pairs if before != after]


def config_changes(old: Config, new: Config) -> list[Change]:
    """Every setting that differs between two presets, those of a run's identity first."""
    one, other = old.model_dump(mode="json"), new.model_dump(mode="json")
    found = [
        Change(key, before, after, _is_identity(key))
        for key, before, after in differing(one, other)
    ]
    return sorted(found, key=lambda change: not change.identity)


@dataclass(frozen=True)
class Facts:
    """What a run's result depends on, flat.

    Attributes:
        values: of all settings, defaults included.
        counting: keys of those that are part of its identity.
        ego_mask: digest of what is drawn on it: that counts, not where it lies.
    """

    values: Mapping[str, Any]
    counting: frozenset[str]
    ego_mask: object

    @classmethod
    def of(cls, run: Run) -> "Facts":
        """Those of a run.

        Raises:
            FadepthError: the ego mask that it names cannot be read.
        """
        sections = {*_IDENTITY} - {"seeds"}
        content = run.config.model_dump(mode="json", include=sections)
        settings = run.settings
        mask = settings.get("loss", {}).get("ego_mask")
        return cls(flat(content), frozenset(flat(settings)), mask)


def run_changes(old: Facts, new: Facts) -> list[Change]:
    """Settings of a run's identity that differ between two runs of one kind.

    Of what is off in one of them only the switch is told.
    """
    found = []
    counting = {*old.counting, *new.counting}
    for key in dict.fromkeys([*old.values, *new.values]):
        if key not in counting:
            continue
        values = old.values.get(key, ABSENT), new.values.get(key, ABSENT)
        before, after = (old.ego_mask, new.ego_mask) if key == "loss.ego_mask" else values
        if before != after and not _is_off(key, old.values, new.values):
            found.append(Change(key, *values))
    return found


def _is_off(key: str, *configs: Mapping[str, Any]) -> bool:
    for section, switch, off in _SWITCHES:
        if key.startswith(section) and key != switch:
            return any(config.get(switch) in off for config in configs)
    return False


def _is_identity(key: str) -> bool:
    """Whether another value makes another run (`NO_IDENTITY` settings do not)."""
    head, *rest = key.split(".")
    if head not in _IDENTITY:
        return False
    model: Any = Config.model_fields[head].annotation
    for name in rest:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
        field = model.model_fields.get(name)
        if field is None or field.json_schema_extra == NO_IDENTITY:
            return False
        model = field.annotation
    return True


def read_settings(path: Path) -> Config | None:
    """Settings of an earlier run from its `config.yaml`; None where they cannot be read.

    Keys that are no longer known are left out: they have no effect any more.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)["settings"]
        return _tolerant(dict(content))
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, FadepthError):
        return None


def _tolerant(content: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        unknown = [p["loc"] for p in error.errors() if p["type"] == "extra_forbidden"]
        if not unknown:
            raise
    for place in unknown:
        section: Any = content
        for name in place[:-1]:
            section = section[name]
        del section[place[-1]]
    return Config.model_validate(content)
