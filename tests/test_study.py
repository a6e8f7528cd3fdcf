"""Studies: rows, ids, and what changes which run's identity."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fadepth import fingerprint
from fadepth import run as run_module
from fadepth.config import load_yaml, merge
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import FOLDER
from fadepth.fingerprint import digest
from fadepth.run import (
    EVALUATION_CODE,
    GRID_CODE,
    ODOMETRY_CODE,
    OWN_NETWORK_CODE,
    ROBUSTNESS_CODE,
    STUDENT_CODE,
    TEACHER_CODE,
    TRAINING_CODE,
    Run,
)
from fadepth.study import (
    Study,
    resolve_all,
    resolve_and_leave_out,
    resolve_study,
    unique_runs,
    variants,
)
from fadepth.study_file import load_study_file

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fadepth"
COMPONENTS = ROOT / "ablations" / "components.yaml"
RUN_ID = re.compile(r"[a-z0-9_]+-s\d+-[0-9a-f]{10}")

#: The eight variants, fewest changes first, by the part of the id that is for people.
SLUGS = [
    "plain",
    "etm",
    "pyramid",
    "apx",
    "etm_pyramid",
    "apx_etm",
    "apx_pyramid",
    "apx_etm_pyramid",
]
TEACHER = "hqdecv2"
BASELINES = {"constant", "row_median", "pixel_median"}


def preset(**overrides: Any) -> dict[str, Any]:
    return merge(load_yaml(ROOT / "config" / "smoke.yaml"), overrides)


def resolved(path: Path = COMPONENTS, /, **overrides: Any) -> Study:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return resolve_study(path, preset(**dotted), "config/smoke.yaml")


def by_slug(study: Study) -> dict[str, Run]:
    return {run.slug: run for run in study.runs}


def ids(study: Study) -> dict[str, str]:
    return {slug: run.id for slug, run in by_slug(study).items()}


def changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
    assert one.keys() == other.keys()
    return {slug for slug in one if one[slug] != other[slug]}


def with_(part: str) -> set[str]:
    return {slug for slug in SLUGS if part in slug.split("_")}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the components study with changes (None removes a key) to `FILE.yaml`."""

    def write(file: str = "mine", /, **changes: Any) -> Path:
        content = {k: v for k, v in (load_yaml(COMPONENTS) | changes).items() if v is not None}
        path = tmp_path / f"{file}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def factors(*extra: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {**load_yaml(COMPONENTS)["factors"], **dict(extra)}


# Rows


def test_components_are_the_full_factorial_fewest_changes_first() -> None:
    study = resolved()
    rows = [row for row in study.rows if row.kind == "variant"]
    assert [row.runs[0].slug for row in rows] == SLUGS
    on = [[name for name, level in row.factors.items() if level == "on"] for row in rows]
    assert [len(names) for names in on] == [0, 1, 1, 1, 2, 2, 2, 3]
    assert len({tuple(names) for names in on}) == 8
    assert rows[0].label == "SmallDepth"
    assert rows[-1].label == "+ ETM + pyramid loss + APX"
    assert [row.kind for row in study.rows[8:]] == ["teacher"] + ["baseline"] * 3


def test_switches_reach_the_settings_of_their_runs() -> None:
    for slug, run in by_slug(resolved()).items():
        if run.kind != "student":
            continue
        parts = set(slug.split("_"))
        config = run.config
        assert (config.student.etm.branches != "off") == ("etm" in parts)
        assert config.loss.pyramid.enabled == ("pyramid" in parts)
        assert config.loss.apx.enabled == ("apx" in parts)
        assert (run.teacher is not None) == ("apx" in parts)


def test_ids_are_unique_and_well_formed() -> None:
    found = [run.id for run in resolved(seeds=[1, 2]).runs]
    assert len(found) == len(set(found)) == 8 * 2 + 1 + 3
    assert all(RUN_ID.fullmatch(name) for name in found)


def test_seeds_make_one_run_each() -> None:
    one, three = resolved(seeds=[2]), resolved(seeds=[1, 2, 7])
    for row in three.rows:
        expected = [1, 2, 7] if row.kind == "variant" else [row.runs[0].seed]
        assert [run.seed for run in row.runs] == expected
        assert all(f"-s{run.seed}-" in run.id for run in row.runs)
        assert len({run.config_hash for run in row.runs}) == len(row.runs)
    # Another seed leaves the runs of the old ones valid.
    assert {run.id for run in one.runs} <= {run.id for run in three.runs}


def test_same_input_same_ids() -> None:
    assert ids(resolved()) == ids(resolved())


def test_three_levels_and_their_names(write: Callable[..., Path]) -> None:
    sets = {"off": {}, "rep": {"student.etm.branches": "rep"}, "ac": {"student.etm.branches": "ac"}}
    pair = {"off": {}, "on": {"loss.pyramid.enabled": True}}
    path = write(factors={"etm": {"label": "ETM", "levels": sets},
                          "pyramid": {"label": "pyramid loss", "levels": pair}})  # fmt: skip
    study = resolved(path)
    labels = [row.label for row in study.rows if row.kind == "variant"]
    assert labels == [
        "SmallDepth",
        "+ ETM rep",
        "+ ETM ac",
        "+ pyramid loss",
        "+ ETM rep + pyramid loss",
        "+ ETM ac + pyramid loss",
    ]
    assert len(variants(study.file)) == 6
    # Nothing in this study needs a teacher.
    assert {row.kind for row in study.rows} == {"variant", "baseline"}
    # A level's name is for people: `ac` here is `on` of the components, and the same run.
    assert by_slug(study)["etm"].id == by_slug(resolved())["etm"].id


# What changes an id


def test_swapping_two_switches_changes_ids(write: Callable[..., Path]) -> None:
    names = factors()
    swapped = {
        **names,
        "pyramid": {**names["pyramid"], "levels": names["apx"]["levels"]},
        "apx": {**names["apx"], "levels": names["pyramid"]["levels"]},
    }
    one, other = (
        {tuple(row.factors.values()): row.runs[0].id for row in study.rows if row.factors}
        for study in (resolved(), resolved(write(factors=swapped)))
    )
    moved = {levels for levels in one if one[levels] != other[levels]}
    assert moved == {levels for levels in one if levels[1] != levels[2]}
    # What a study calls its switches is in no id: the same eight runs, in other rows.
    assert set(one.values()) == set(other.values())


def test_a_factor_at_its_neutral_default_changes_no_id(write: Callable[..., Path]) -> None:
    levels = {"md2": {"loss.ssim_weight": 0.85}, "l1": {"loss.ssim_weight": 0.0}}
    path = write(factors=factors(("photometric", {"label": "loss", "levels": levels})))
    one, other = ids(resolved()), ids(resolved(path))
    assert one.items() <= other.items()
    assert len(other) == len(one) + 8


def test_names_labels_and_comments_change_no_id(tmp_path: Path) -> None:
    text = COMPONENTS.read_text()
    assert "title: Components of FA-Depth" in text
    text = text.replace("title: Components of FA-Depth", "title: Else  # words")
    text = text.replace("name: components", "name: other").replace("label: ETM", "label: E")
    path = tmp_path / "other.yaml"
    path.write_text("# A comment.\n" + text)
    assert ids(resolved(path)) == ids(resolved())
    assert by_slug(resolved(path))["etm"].label == "+ E"


def test_spelled_out_defaults_change_no_id() -> None:
    changes = {"loss__ssim_weight": 0.85, "training__weight_decay": 0, "teacher__seed": 1}
    assert ids(resolved(**changes)) == ids(resolved())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data__root", "elsewhere"),
        ("data__cache", "disk"),
        ("training__workers", 3),
        ("training__log_every", 77),
        ("training__checkpoint_every", 77),
        ("training__device", "cpu"),
        ("evaluation__panels", 0),
    ],
)
def test_where_and_how_fast_change_no_id(key: str, value: object) -> None:
    assert ids(resolved(**{key: value})) == ids(resolved())


TRAINED = {*SLUGS, TEACHER}
APX = with_("apx")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        # The weights of a loss matter where it is on, and nowhere else.
        ("loss__pyramid__weight", 0.25, with_("pyramid")),
        ("loss__pyramid__levels", 1, with_("pyramid")),
        ("loss__pyramid__flip", False, with_("pyramid")),
        ("loss__apx__weight", 0.25, APX),
        ("loss__apx__align", "none", APX),
        ("student__etm__space", "activation", with_("etm")),
        # A teacher is its own run, and what APX learns from.
        ("teacher__width", 0.15, APX | {TEACHER}),
        ("teacher__seed", 5, APX | {TEACHER}),
        ("teacher__epochs", 9, APX | {TEACHER}),
        # What only students have.
        ("student__width", 0.5, set(SLUGS)),
        # What all trainings share.
        ("training__batch_size", 3, TRAINED),
        ("training__learning_rate", 3e-4, TRAINED),
        ("loss__smoothness_weight", 0.01, TRAINED),
        ("loss__warp_at", "full", TRAINED),
        ("loss__base", "cbw", TRAINED),
        ("loss__border", 3, TRAINED),
        ("loss__cbw__feature_weight", 0.3, set()),
        ("pose__width", 0.5, TRAINED),
        ("data__flip_probability", 0.0, TRAINED),
        ("data__jitter__hue", 0.0, TRAINED),
        # Size and scale concern everything; ground truth the baselines that are fitted to it.
        ("data__width", 160, TRAINED | BASELINES),
        ("scale", "quick", TRAINED | BASELINES),
        ("data__synthetic__seed", 3, TRAINED | BASELINES),
        ("evaluation__protocol", str(FOLDER / "synthetic_dense.yaml"), BASELINES),
    ],
)
def test_a_setting_changes_exactly_the_runs_that_depend_on_it(
    key: str, value: object, expected: set[str]
) -> None:
    assert changed(ids(resolved()), ids(resolved(**{key: value}))) == expected


KITTI = {"data__source": "kitti", "evaluation__protocol": "kitti_eigen_raw"}


def test_content_of_a_split_list_changes_ids_and_its_place_does_not(tmp_path: Path) -> None:
    for name in ("one", "same", "other"):
        (tmp_path / name).mkdir()
        for split in ("train", "val", "test"):
            text = f"day/drive {5 + (name == 'other' and split == 'val')} l\n"
            (tmp_path / name / f"{split}_files.txt").write_text(text)
    one, same, other = (
        ids(resolved(**KITTI, data__splits=str(tmp_path / name)))
        for name in ("one", "same", "other")
    )
    assert one == same
    assert changed(one, other) == TRAINED | BASELINES
    # Relative folders start from `base`.
    relative = preset(
        **{"data.source": "kitti", "data.splits": "one", "evaluation.protocol": "kitti_eigen_raw"}
    )
    assert ids(resolve_study(COMPONENTS, relative, "p", base=tmp_path)) == one
    with pytest.raises(FadepthError, match=r"split list .*train_files\.txt does not exist"):
        resolve_study(COMPONENTS, relative, "p", base=tmp_path / "nowhere")


def test_an_ego_mask_counts_by_its_content(tmp_path: Path) -> None:
    """The same picture elsewhere is the same run; another picture is another; none is told."""
    for name, content in (("a.png", b"one"), ("b.png", b"one"), ("c.png", b"two")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (
        ids(resolved(loss__ego_mask=str(tmp_path / name))) for name in ("a.png", "b.png", "c.png")
    )
    assert a == b
    trained = {slug for slug in a if slug not in BASELINES}
    assert changed(a, c) == changed(a, ids(resolved())) == trained
    with pytest.raises(FadepthError, match=r"ego mask .*none\.png cannot be read"):
        ids(resolved(loss__ego_mask=str(tmp_path / "none.png")))


def test_order_of_factors_changes_no_id(write: Callable[..., Path]) -> None:
    """ablations/README.md: comments, order and spelling of defaults change nothing."""
    reverse = dict(reversed(factors().items()))
    one, other = resolved(), resolved(write(factors=reverse))
    assert {r.config_hash for r in one.runs} == {r.config_hash for r in other.runs}
    assert {r.id for r in one.runs} == {r.id for r in other.runs}


def test_a_factor_over_the_teacher_is_refused_or_has_an_effect(write: Callable[..., Path]) -> None:
    levels = {"small": {}, "large": {"teacher.width": 0.2}}
    path = write(factors=factors(("teacher", {"label": "teacher", "levels": levels})))
    try:
        runs = by_slug(resolved(path))
    except FadepthError as error:
        assert "teacher" in str(error)  # noqa: PT017
        return
    assert runs["apx"].config_hash != runs["apx_teacher_width_0_2"].config_hash


# What changes the code of a run


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's code that fingerprints are taken of."""
    copy = tmp_path / "fadepth"
    shutil.copytree(PACKAGE, copy, ignore=lambda folder, names: [
        name for name in names if not name.endswith(".py") and not (Path(folder) / name).is_dir()
    ])  # fmt: skip
    monkeypatch.setattr(fingerprint, "PACKAGE", copy)
    return copy


def codes() -> dict[str, str]:
    return {slug: run.code_hash for slug, run in by_slug(resolved()).items()}


@pytest.fixture
def by_bytes(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick fingerprint for tests of which modules count, not of what counts in them."""

    def fingerprint_of_bytes(modules: Iterable[str]) -> str:
        return digest({module: (package / module).read_text() for module in modules})

    monkeypatch.setattr(run_module, "code_fingerprint", fingerprint_of_bytes)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path.name} no longer holds '{old}': adapt the test"
    path.write_text(text.replace(old, new))


def append_to(path: Path) -> None:
    path.write_text(path.read_text() + "\n\nADDED = 1\n")


def test_comments_and_docstrings_of_all_modules_change_no_code_hash(package: Path) -> None:
    before = codes()
    for path in package.rglob("*.py"):
        text = path.read_text()
        if text.startswith('"""'):
            text = text.replace('"""', '"""Other words. ', 1)
        path.write_text(text + "\n# A comment.\n")
    assert codes() == before


def test_a_formula_of_the_pyramid_loss_is_code_of_its_runs_only(package: Path) -> None:
    before = codes()
    replace_in(package / "losses" / "pyramid.py", "0.5**view.level", "0.25**view.level")
    assert changed(before, codes()) == with_("pyramid")


@pytest.mark.usefixtures("by_bytes")
@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("losses/apx.py", APX),
        ("targets.py", APX),
        ("losses/photometric.py", TRAINED),
        ("losses/ssim.py", TRAINED),
        ("losses/masks.py", TRAINED),
        ("training.py", TRAINED),
        ("data/augment.py", TRAINED),
        ("models/posenet.py", TRAINED),
        ("models/smalldepth.py", set(SLUGS)),
        ("models/etm.py", set(SLUGS)),
        ("models/hqdec.py", {TEACHER}),
        ("models/efficientnetv2.py", {TEACHER}),
        ("geometry.py", TRAINED | BASELINES),
        ("evaluation/baselines.py", BASELINES),
        ("evaluation/metrics.py", BASELINES),
        ("report/table.py", set()),
        ("report/writers.py", set()),
        ("tracking/__init__.py", set()),
        ("cli/common.py", set()),
    ],
)
def test_a_module_is_code_of_exactly_the_runs_that_use_it(
    module: str, expected: set[str], package: Path
) -> None:
    before, old_ids = codes(), ids(resolved())
    append_to(package / module)
    assert changed(before, codes()) == expected
    # Code is not in the id: the folder stays, and the workflow trains in it again.
    assert ids(resolved()) == old_ids


def test_cbw_is_code_and_setting_of_runs_with_that_base(package: Path) -> None:
    def of(**overrides: Any) -> dict[str, tuple[str, str]]:
        runs = by_slug(resolved(**overrides))
        return {slug: (run.code_hash, run.id) for slug, run in runs.items()}

    md2, cbw = of(), of(loss__base="cbw")
    weighted = of(loss__base="cbw", loss__cbw__feature_weight=0.3)
    assert {slug for slug in cbw if cbw[slug][1] != weighted[slug][1]} == TRAINED
    replace_in(package / "losses" / "cbw.py", "noise: torch.Generator", "other: torch.Generator")
    assert of() == md2
    after = of(loss__base="cbw")
    assert {slug for slug in cbw if cbw[slug][0] != after[slug][0]} == TRAINED


@pytest.mark.usefixtures("by_bytes")
def test_metrics_are_code_of_every_evaluation(package: Path) -> None:
    before = {run.id: run.evaluation_identity for run in resolved().runs}
    append_to(package / "report" / "table.py")
    append_to(package / "losses" / "apx.py")
    assert {run.id: run.evaluation_identity for run in resolved().runs} == before
    append_to(package / "evaluation" / "metrics.py")
    after = {run.id: run.evaluation_identity for run in resolved().runs}
    assert all(before[name]["code"] != after[name]["code"] for name in before)
    panels = {run.id: run.evaluation_identity for run in resolved(evaluation__panels=1).runs}
    assert all(panels[name]["evaluation"] != after[name]["evaluation"] for name in after)


#: Imported by trainings without an influence on their numbers: settings are in the id, data in the
#: data's hash, and the rest moves bytes.
NEUTRAL = {
    *("config.py", "errors.py", "files.py", "filestate.py", "fingerprint.py", "checkpoint.py"),
    *("data/manifest.py", "data/parallel.py"),
    # What a user's own network is, and where it lies: it has a fingerprint of its own.
    "own_code.py",
}


def imported(module: str) -> set[str]:
    """Modules of the package that a module imports, as paths below the package."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fadepth."):
            parts = (node.module or "").split(".")[1:]
            # `from fadepth.data import kitti` imports a module, too.
            for path in (Path(*parts), *(Path(*parts, name.name) for name in node.names)):
                if (PACKAGE / path.with_suffix(".py")).is_file():
                    found.add(str(path.with_suffix(".py")))
    return found


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param(
            (
                *(*TRAINING_CODE, *STUDENT_CODE, *TEACHER_CODE, *OWN_NETWORK_CODE),
                *("losses/cbw.py", "losses/pyramid.py", "losses/apx.py", "targets.py"),
            ),
            id="training",
        ),
        pytest.param(EVALUATION_CODE, id="evaluation"),
        pytest.param(ROBUSTNESS_CODE, id="robustness"),
        pytest.param(ODOMETRY_CODE, id="odometry"),
        pytest.param(GRID_CODE, id="grid"),
    ],
)
def test_fingerprinted_modules_import_only_fingerprinted_ones(modules: tuple[str, ...]) -> None:
    missing = set().union(*(imported(module) for module in modules)) - set(modules) - NEUTRAL
    assert missing == set()


# Bad study files


def problem(path: Path) -> str:
    with pytest.raises(FadepthError) as caught:
        resolved(path)
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    return text


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "does not exist" in problem(tmp_path / "none.yaml")


def test_unknown_key_is_named_with_the_known_ones(write: Callable[..., Path]) -> None:
    text = problem(write(factor={}))
    assert "'factor'" in text
    assert "known keys: name, title, table, design, base_label, factors" in text


@pytest.mark.parametrize("missing", ["name", "title", "table"])
def test_missing_key_is_named(missing: str, write: Callable[..., Path]) -> None:
    text = problem(write(**{missing: None}))
    assert f"key '{missing}'" in text
    assert "required" in text


def test_a_design_without_its_rows_is_told(write: Callable[..., Path]) -> None:
    assert "a factorial study has factors, and no rows" in problem(write(factors=None))
    assert "an explicit study has rows" in problem(write(design="explicit"))
    rows = [{"label": "a"}, {"label": "a"}]
    twice = write(design="explicit", factors=None, rows=rows)
    assert "two rows are called 'a'" in problem(twice)


@pytest.mark.parametrize(
    ("key", "value"), [("name", "My Study"), ("table", "ablation"), ("design", "random")]
)
def test_wrong_value_is_named(key: str, value: str, write: Callable[..., Path]) -> None:
    assert f"key '{key}'" in problem(write(**{key: value}))


def test_bare_on_and_off_are_explained(tmp_path: Path) -> None:
    text = COMPONENTS.read_text()
    assert '"on"' in text
    path = tmp_path / "bare.yaml"
    path.write_text(text.replace('"on":', "on:").replace('"off":', "off:"))
    assert "put level names in quotes: YAML reads a bare on or off as a boolean" in problem(path)


def test_one_level_is_no_factor(write: Callable[..., Path]) -> None:
    only = {"label": "x", "levels": {"on": {}}}
    text = problem(write(factors=factors(("x", only))))
    assert "factors.x.levels" in text
    assert "at least two levels" in text


def test_unknown_setting_in_a_level_is_named_with_both_files(write: Callable[..., Path]) -> None:
    levels = {"off": {}, "on": {"loss.apx.wieght": 2}}
    text = problem(write(factors=factors(("x", {"label": "x", "levels": levels}))))
    assert "'loss.apx.wieght'" in text
    assert "did you mean 'loss.apx.weight'?" in text
    assert "config/smoke.yaml" in text


def test_unknown_baseline_is_named(write: Callable[..., Path]) -> None:
    assert "'constant', 'row_median' or 'pixel_median'" in problem(write(baselines=["mean"]))


def test_two_studies_cannot_feed_one_table(write: Callable[..., Path], tmp_path: Path) -> None:
    write("a")
    write("b", name="b")
    with pytest.raises(FadepthError, match=r"b\.yaml: another study already feeds"):
        resolve_all(tmp_path, preset(), "p")
    write("b", name="b", table="table_b")
    assert list(resolve_all(tmp_path, preset(), "p")) == ["table_ablation", "table_b"]


def test_a_folder_without_studies_is_told(tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match=r"no study file \(\*\.yaml\) in .*restore"):
        resolve_all(tmp_path, preset(), "p")


def test_runs_of_two_studies_are_shared(write: Callable[..., Path], tmp_path: Path) -> None:
    write("a")
    write("b", name="b", table="table_b")
    one, other = resolve_all(tmp_path, preset(), "p").values()
    assert {run.id for run in one.runs} == {run.id for run in other.runs}


@pytest.mark.parametrize("name", ["0.5", "a/b", "Two Words", ".."])
def test_names_that_make_bad_folders_are_refused(name: str, write: Callable[..., Path]) -> None:
    levels = {"off": {}, name: {"loss.ssim_weight": 0.5}}
    path = write(factors=factors(("x", {"label": "x", "levels": levels})))
    try:
        names = [run.id for run in resolved(path).runs]
    except FadepthError as error:
        assert "mine.yaml" in str(error)  # noqa: PT017
        return
    assert all(RUN_ID.fullmatch(name) for name in names)


# Data sets by name, sizes, and rows that do not fit


def explicit(write: Callable[..., Path], **changes: Any) -> Path:
    rows = [{"label": "plain"}, {"label": "all", "settings": {"loss.pyramid.enabled": True}}]
    base = {"design": "explicit", "factors": None, "rows": rows, "baselines": []}
    return write(**(base | changes))


def test_a_study_is_resolved_on_the_data_that_it_asks_for(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    """The preset itself, the preset with other settings, or another preset; overrides on top."""
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(preset(**{"data.name": "elsewhere", "student.width": 0.5})))
    datasets = {
        "same": {},
        "wide": {"overrides": {"data.synthetic.seed": 9}},
        "file": {"preset": str(other)},
    }

    def study(data: str, **overrides: Any) -> Study:
        given = merge(preset(datasets=datasets), overrides)
        path = explicit(write, data=data)
        return resolve_study(path, given, "p", overrides=overrides)

    plain = by_slug(resolved())["plain"]
    assert by_slug(study("same"))["plain"].id == plain.id
    assert study("wide").config.data.synthetic.seed == 9
    assert by_slug(study("wide"))["plain"].data_folder != plain.data_folder
    assert study("file").config.data.name == "elsewhere"
    assert study("file").config.student.width == 0.5
    # What is said on the command line holds there, too.
    assert study("file", seeds=[4, 5]).config.seeds == (4, 5)


def test_a_study_without_its_data_is_left_out_with_the_reason(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copyfile(COMPONENTS, tmp_path / "components.yaml")
    explicit(write, name="moon", table="table_moon", data="moon")
    given = preset(datasets={"kitti": {}})
    assert list(resolve_all(tmp_path, given, "p")) == ["table_ablation"]
    studies, left_out = resolve_and_leave_out(tmp_path, given, "p")
    assert list(studies) == ["table_ablation"]
    assert left_out.keys() == {"table_moon"}
    assert left_out["table_moon"].startswith("p has no data set 'moon' for table_moon (there are:")


def test_high_resolution_is_the_presets(write: Callable[..., Path]) -> None:
    study = resolved(explicit(write, resolution="high"), data__high_resolution=[96, 320])
    assert {(run.config.data.height, run.config.data.width) for run in study.runs} == {(96, 320)}
    assert [run.slug for run in study.runs] == ["96x320", "96x320_pyramid"]


def test_rows_that_images_are_too_small_for_are_left_out(write: Callable[..., Path]) -> None:
    border = {"loss.border": 2}
    rows = [{"label": "plain"}, {"label": "deep", "settings": border, "least_side": 128}]
    study = resolved(explicit(write, rows=rows))
    assert [row.label for row in study.rows] == ["plain"]
    assert study.left_out == ["'deep' is left out: it needs images of 128 pixels or more"]
    large = resolved(explicit(write, rows=rows), data__height=128)
    assert [row.label for row in large.rows] == ["plain", "deep"]
    assert large.left_out == []


def test_a_study_of_teachers_has_all_seeds_and_shares_the_students_teacher() -> None:
    study = resolved(ROOT / "ablations" / "hqdecv2.yaml", seeds=[1, 2])
    assert [row.kind for row in study.rows] == ["variant"] * 4
    assert [run.seed for run in study.runs] == [1, 2] * 4
    slugs = ["hqdec", "hqdec_adacoeff", "hqdec_adacoeff_upsampler_v2", "hqdecv2"]
    assert [row.runs[0].slug for row in study.rows] == slugs
    teacher = by_slug(resolved(seeds=[1, 2]))["hqdecv2"]
    assert study.rows[-1].runs[0].id == teacher.id


def test_all_settings_of_a_teachers_row_count(write: Callable[..., Path]) -> None:
    rows = [
        {"label": "plain", "network": "teacher"},
        {"label": "no mask", "network": "teacher", "settings": {"loss.automask": False}},
    ]
    one, other = resolved(explicit(write, rows=rows)).runs
    assert not other.config.loss.automask
    assert one.id != other.id


def test_rows_that_are_the_same_run_are_refused(write: Callable[..., Path]) -> None:
    rows = [{"label": "a"}, {"label": "b", "settings": {"loss.pyramid.weight": 3}}]
    assert "rows 'a' and 'b' are the same run" in problem(explicit(write, rows=rows))


def test_a_baseline_that_is_no_row_is_told(write: Callable[..., Path]) -> None:
    text = problem(explicit(write, baseline="plian"))
    assert "baseline 'plian' is no row: there are plain, all" in text
    assert resolved(explicit(write, baseline="all")).baseline.label == "all"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"columns": ["parameters"]}, "columns must hold metrics, primary or conditions"),
        ({"shown": {"x": "loss.pyramid.lvl"}}, "there is no setting 'loss.pyramid.lvl'"),
    ],
)
def test_columns_that_cannot_be_filled_are_told(
    changes: dict[str, Any], told: str, write: Callable[..., Path]
) -> None:
    assert told in problem(explicit(write, **changes))


def test_what_is_said_of_one_data_set_is_not_said_of_another(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(preset(**{"data.name": "elsewhere"})))
    overrides = {"data.name": "mine", "evaluation.panels": 7, "seeds": [4]}
    given = merge(preset(datasets={"file": {"preset": str(other)}}), overrides)
    study = resolve_study(explicit(write, data="file"), given, "p", overrides=overrides)
    assert study.config.data.name == "elsewhere"
    assert study.config.evaluation.panels != 7
    assert study.config.seeds == (4,)


def test_a_shared_run_cannot_be_evaluated_in_two_ways() -> None:
    given = preset(datasets={"kitti": {"overrides": {"evaluation.protocol": "synthetic_full"}}})
    with pytest.raises(FadepthError, match=r"share the run .* but evaluate it differently"):
        resolve_all(ROOT / "ablations", given, "p")


def test_settings_without_an_effect_are_in_no_slug(write: Callable[..., Path]) -> None:
    rows = [{"label": "a", "settings": {"training.workers": 3, "evaluation.panels": 1}}]
    (run,) = resolved(explicit(write, rows=rows)).runs
    assert run.id == by_slug(resolved())["plain"].id


def test_a_teacher_beside_students_is_no_variant() -> None:
    study = resolved(ROOT / "ablations" / "complexity.yaml", seeds=[1, 2])
    assert study.rows[-1].kind == "teacher"
    assert len(study.rows[-1].runs) == 1
    apx = resolved(ROOT / "ablations" / "apx.yaml")
    names = [row.label for row in apx.rows if row.kind == "teacher"]
    assert names == ["HQDecv2 (teacher)", "HQDec (teacher)"]


def test_a_shared_run_is_called_as_its_factorial_calls_it() -> None:
    studies = resolve_all(ROOT / "ablations", preset(), "p")
    run = by_slug(studies["table_ablation"])["etm"]
    for order in (list(studies.values()), list(studies.values())[::-1]):
        assert unique_runs(order)[run.id].factors == run.factors


def test_eleven_tables_share_their_runs() -> None:
    """At one seed 34 trainings: 28 students and 6 teachers. Alone, the tables would train 54."""
    studies = resolve_all(ROOT / "ablations", preset(), "p")
    assert len(studies) == 11
    runs = unique_runs(studies.values())
    kinds = [run.kind for run in runs.values()]
    assert (kinds.count("student"), kinds.count("teacher")) == (28, 6)
    assert sum(1 for study in studies.values() for _ in study.networks) == 54
    # A run that differed only by its name would be trained twice.
    assert len({(run.kind, run.config_hash) for run in runs.values()}) == len(runs)


# The repository's own studies and presets


@pytest.fixture
def data_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "splits", tmp_path / "kitti_mini" / "splits" / "tiny"):
        folder.mkdir(parents=True)
        for split in ("train", "val", "test"):
            (folder / f"{split}_files.txt").write_text("day/drive 5 l\n")
    monkeypatch.setenv("KITTI_ROOT", str(tmp_path))
    monkeypatch.setenv("KITTI_SPLITS", str(tmp_path / "splits"))
    monkeypatch.setenv("FADEPTH_TEST_DATA", str(tmp_path))
    (tmp_path / "ddad.json").write_text("{}")
    monkeypatch.setenv("DDAD_SPLITS", str(tmp_path / "ddad.json"))
    (tmp_path / "prepared.json").write_text("{}")
    monkeypatch.setenv("VIDEO_ROOT", str(tmp_path))


@pytest.mark.usefixtures("data_folders")
@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_study_resolves_with_every_preset(path: Path) -> None:
    studies = resolve_all(ROOT / "ablations", load_yaml(path), str(path))
    assert "table_ablation" in studies
    for study in studies.values():
        runs = list(study.runs)
        assert len({run.id for run in runs}) == len(runs)
        assert all(RUN_ID.fullmatch(run.id) for run in runs)
        assert {run.config.scale for run in runs} == {study.config.scale}
    assert load_study_file(COMPONENTS).table == "table_ablation"


def test_resolving_imports_neither_torch_nor_images() -> None:
    """Snakemake resolves the studies in every process that it starts."""
    code = (
        "import sys; from pathlib import Path; from fadepth.config import load_yaml;"
        "from fadepth.study import resolve_all;"
        "found = resolve_all(Path('ablations'), load_yaml(Path('config/smoke.yaml')), 'p');"
        "[run.identity for study in found.values() for run in study.runs];"
        "print([name for name in ('torch', 'mlflow', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
