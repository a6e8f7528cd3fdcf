"""Settings: what a wrong preset is told, overrides, the environment, what enters an identity."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, create_model

from fadepth.config import (
    Config,
    PyramidSettings,
    Settings,
    TrainingSettings,
    expand,
    identity_settings,
    load_config,
    load_yaml,
    merge,
    parse_config,
)
from fadepth.errors import FadepthError

PRESETS = sorted((Path(__file__).resolve().parent.parent / "config").glob("*.yaml"))


def nested(key: str, value: object) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def message(content: dict[str, Any], origin: str = "some.yaml") -> str:
    with pytest.raises(FadepthError) as caught:
        parse_config(content, origin)
    text = str(caught.value)
    assert "\n" not in text
    assert origin in text
    return text


# Wrong input


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("loss.pyramid.wieght", "loss.pyramid.weight"),
        ("loss.apx.wieght", "loss.apx.weight"),
        ("training.epoch", "training.epochs"),
        ("trainning", "training"),
        ("data.hight", "data.height"),
        ("data.synthetic.scene", "data.synthetic.scenes"),
        ("student.etm.branch", "student.etm.branches"),
        # Right names in the wrong place.
        ("training.smoothness_weight", "loss.smoothness_weight"),
        ("batch_size", "training.batch_size"),
        ("student.branches", "student.etm.branches"),
        ("pyramid", "loss.pyramid"),
        ("loss.jitter", "data.jitter"),
    ],
)
def test_unknown_key_is_named_with_file_and_nearest_key(key: str, nearest: str) -> None:
    text = message(nested(key, 1), "config/mine.yaml")
    assert f"'{key}'" in text
    assert "config/mine.yaml" in text
    assert f"did you mean '{nearest}'?" in text


def test_unknown_key_without_a_near_one_lists_the_sections() -> None:
    text = message({"zzz": 1})
    assert "'zzz'" in text
    assert all(section in text for section in Config.model_fields)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("training.epochs", 0, "greater than or equal to 1"),
        ("training.epochs", 2.5, "integer"),
        ("training.epochs", "many", "integer"),
        ("training.schedule", "linear", "'step' or 'cosine'"),
        ("data.height", 16, "greater than or equal to 32"),
        ("data.source_frames", [0, 1], "non-zero frame offsets such as [-1, 1]"),
        ("data.source_frames", [], "non-zero frame offsets"),
        ("seeds", [1, 1], "distinct, non-negative integers such as [1, 2, 3]"),
        ("seeds", [-1], "distinct, non-negative"),
        ("seeds", [], "distinct, non-negative"),
        ("loss.pyramid.levels", 9, "less than or equal to 4"),
        ("loss.pyramid", True, "dictionary"),
        ("student.etm.branches", True, "'off', 'rep'"),
        ("data.synthetic.frames", {"train": 2, "val": 3, "test": 3}, "frames.train must be at"),
        ("data.synthetic.scenes", {"train": 2}, "scenes.val must be at least 1"),
        ("scale", "big", "'smoke', 'quick' or 'full'"),
    ],
)
def test_wrong_value_is_named_with_key_file_and_expectation(
    key: str, value: object, expected: str
) -> None:
    text = message(nested(key, value))
    assert key.rpartition(".")[0] in text
    assert expected in text


def test_long_values_are_cut_in_messages() -> None:
    assert len(message({"scale": "x" * 500})) < 200


@pytest.mark.parametrize("text", ["off", '"off"', "no", "false"])
def test_bare_off_of_yaml_means_the_word(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"student: {{etm: {{branches: {text}}}}}\n")
    assert load_config(path).student.etm.branches == "off"


def test_unreadable_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    with pytest.raises(FadepthError, match=r"p\.yaml does not exist: expected a YAML file"):
        load_yaml(path)
    path.write_text("scale: full\ndata: [1, 2\nseeds: 3\n")
    with pytest.raises(FadepthError, match=r"p\.yaml, line \d is not readable YAML"):
        load_yaml(path)
    path.write_bytes(b"scale: \xff\xfe\n")
    with pytest.raises(FadepthError, match=r"p\.yaml is not readable YAML"):
        load_yaml(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(FadepthError, match="holds a list: expected 'key: value' lines"):
        load_yaml(path)
    path.write_text("# nothing\n")
    assert load_yaml(path) == {}


def test_settings_cannot_be_changed_after_loading() -> None:
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]


# The environment


def test_expand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FADEPTH_A", "/data")
    monkeypatch.setenv("FADEPTH_EMPTY", "")
    monkeypatch.delenv("FADEPTH_NONE", raising=False)
    assert expand("${FADEPTH_A:-b}/x") == "/data/x"
    assert expand("${FADEPTH_A}/${FADEPTH_NONE:-b}") == "/data/b"
    assert expand("${FADEPTH_NONE:-b/c}/x") == "b/c/x"
    assert expand("${FADEPTH_EMPTY:-b}") == "b"  # as a shell does
    assert expand("${FADEPTH_NONE:-}x") == "x"
    assert expand("plain/$HOME") == "plain/$HOME"
    for unset in ("FADEPTH_NONE", "FADEPTH_EMPTY"):
        with pytest.raises(FadepthError, match=f"environment variable {unset} is not set"):
            expand(f"a/${{{unset}}}")


# Overrides


def test_merge_understands_dotted_keys_and_leaves_its_inputs_alone() -> None:
    base = {"loss": {"apx": {"weight": 1, "mask": True}, "base": "md2"}, "seeds": [1]}
    overrides = {"loss.apx.weight": 0.2, "loss": {"apx": {"align": "none"}}, "pose.width": 2}
    before = copy.deepcopy((base, overrides))
    assert merge(base, overrides) == {
        "loss": {"apx": {"weight": 0.2, "mask": True, "align": "none"}, "base": "md2"},
        "seeds": [1],
        "pose": {"width": 2},
    }
    assert (base, overrides) == before
    assert merge({"a": 1}, {"a.b": 2}) == {"a": {"b": 2}}
    assert merge({"a": {"b": 2}}, {"a": 1}) == {"a": 1}
    assert merge(base, {}) == base


def test_overrides_of_a_preset_are_checked_like_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("loss: {apx: {enabled: true}}\n")
    config = load_config(path, {"loss.apx.weight": 0.2, "loss.pyramid": {"enabled": True}})
    assert (config.loss.apx.enabled, config.loss.apx.weight) == (True, 0.2)
    assert config.loss.pyramid.enabled
    with pytest.raises(FadepthError, match=r"unknown key 'loss\.apx\.wait'"):
        load_config(path, {"loss.apx.wait": 0.2})


# Identity


def test_identity_holds_only_what_differs_and_matters() -> None:
    assert identity_settings(Config()) == {}
    spelled_out = parse_config(Config().model_dump(mode="json"), "x")
    assert identity_settings(spelled_out) == {}
    config = parse_config(
        {
            "seeds": [4],
            "data": {"root": "/elsewhere", "splits": "s", "cache": "memory", "height": 64},
            "loss": {"pyramid": {"weight": 0.25}},
            "training": {
                "device": "cpu",
                "workers": 3,
                "log_every": 7,
                "checkpoint_every": 9,
                "epochs": 3,
            },
        },
        "x",
    )
    assert identity_settings(config) == {
        "seeds": [4],
        "data": {"height": 64},
        "loss": {"pyramid": {"weight": 0.25}},
        "training": {"epochs": 3},
    }


def test_spelling_of_a_number_does_not_matter() -> None:
    spellings = ["1.0e-3", "0.001", "1e-3"]  # YAML 1.1 reads the last one as text
    identities = [
        identity_settings(parse_config(yaml.safe_load(f"training: {{learning_rate: {s}}}"), "x"))
        for s in spellings
    ]
    assert identities == [{"training": {"learning_rate": 0.001}}] * 3
    assert identity_settings(parse_config({"student": {"width": 1}}, "x")) == {}


def test_a_new_setting_at_its_default_changes_no_identity() -> None:
    class Extra(Settings):
        strength: float = 0.0

    wider: Any = create_model(
        "wider",
        __base__=PyramidSettings,
        kind=(str, Field("inputs")),
        extra=(Extra, Extra()),
        sizes=(dict[str, int], Field(default={"a": 1})),
    )
    old = {"weight": 0.3, "enabled": True}
    found = identity_settings(wider.model_validate(old))
    assert found == identity_settings(PyramidSettings.model_validate(old)) == old
    new = {"kind": "outputs", "extra": {"strength": 2}}
    assert identity_settings(wider.model_validate(new)) == {
        "kind": "outputs",
        "extra": {"strength": 2.0},
    }


def test_fields_without_identity_are_those_that_say_where_or_how_fast() -> None:
    free = {
        f"{section}.{name}"
        for section in ("data", "training", "odometry")
        for name, field in type(getattr(Config(), section)).model_fields.items()
        if field.json_schema_extra == {"identity": False}
    }
    assert free == {
        "data.root",
        "data.splits",
        "data.high_resolution",
        "data.cache",
        "odometry.root",
        "odometry.raw_root",
        "odometry.sequences",
        "training.device",
        "training.workers",
        "training.log_every",
        "training.checkpoint_every",
    }
    assert TrainingSettings(workers=2) != TrainingSettings()


def test_a_pyramid_too_deep_for_the_images_is_told_before_a_training() -> None:
    """The networks halve five times, so the smallest level needs 32 pixels."""
    data = {"height": 96, "width": 320}
    parse_config({"data": data, "loss": {"pyramid": {"enabled": True, "levels": 2}}}, "p")
    with pytest.raises(FadepthError, match="levels is 3, but of images 96 pixels high the last"):
        parse_config({"data": data, "loss": {"pyramid": {"enabled": True, "levels": 3}}}, "p")
    outputs = {"enabled": True, "levels": 3, "kind": "outputs"}
    parse_config({"data": data, "loss": {"pyramid": outputs}}, "p")  # no small image there


# Presets


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITTI_ROOT", "/k")
    monkeypatch.setenv("KITTI_SPLITS", "/s")
    monkeypatch.setenv("FADEPTH_TEST_DATA", "/t")
    config = load_config(path)
    assert all("$" not in expand(text) for text in (config.data.root, config.data.splits))
    assert path.stem != "smoke" or config.scale == "smoke"
    if config.data.source == "synthetic":
        assert config.evaluation.protocol == "synthetic_dense"
    else:
        assert config.evaluation.protocol.startswith(config.data.source)


def test_presets_are_there_and_kitti_has_the_papers_scale() -> None:
    presets = {path.stem: path for path in PRESETS}
    assert presets.keys() >= {"smoke", "quick", "kitti_mini", "kitti"}
    kitti = load_config(presets["kitti"])
    assert (kitti.scale, kitti.data.height, kitti.data.width) == ("full", 192, 640)
    assert len(kitti.seeds) >= 3
    # What the preset does not say is the method's default: no cheap setting slips in.
    assert set(identity_settings(kitti)) <= {"data", "training", "seeds"}
    for name in ("smoke", "quick", "kitti_mini"):
        assert load_config(presets[name]).scale != "full"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=path.stem,
        )
        for path in PRESETS
    ],
)
def test_every_pyramid_level_is_a_picture_that_smalldepth_takes(path: Path) -> None:
    config = load_config(path)
    coarsest = 2 ** (config.loss.pyramid.levels - 1)
    assert min(config.data.height, config.data.width) / coarsest >= 32


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        pytest.param(
            "loss.apx.weight",
            "loss.apx.weight",
        ),
        pytest.param(
            "training.lr",
            "training.learning_rate",
        ),
    ],
)
def test_hint_of_a_flat_key(key: str, nearest: str) -> None:
    content: dict[str, Any] = {key: 1} if key == nearest else nested(key, 1)
    assert f"'{nearest}'" in message(content).partition(": ")[2]
