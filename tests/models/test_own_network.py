"""A user's own network: trained and judged like ours, part of the identity, no back door."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fadepth.config import Config, load_yaml, parse_config
from fadepth.errors import FadepthError
from fadepth.evaluation.evaluate import image_function
from fadepth.evaluation.robustness import altered_predictions
from fadepth.execution import train
from fadepth.execution.plan.times import cost_key, cost_settings
from fadepth.execution.reruns import code_changes
from fadepth.execution.train import train_run, try_own_network
from fadepth.export import export_run, load_exported
from fadepth.geometry import disparity_to_inverse_depth
from fadepth.lint import lint_studies
from fadepth.models import fold
from fadepth.models.own import OwnNetwork
from fadepth.own_code import find_own_code
from fadepth.run import Run, slug_of
from fadepth.study import Study, resolve_study
from fadepth.training import Training, build_depth_network, load_depth_network
from tests.documents import blocks
from tests.tiny import SIZE, tiny_config, tiny_manifest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "your-own-network.md"
SMOKE = load_yaml(ROOT / "config" / "smoke.yaml")

#: A network of one convolution, whose output the tests spoil.
PLAIN = """
from torch import nn, sigmoid

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, image):
        out = sigmoid(self.conv(image))
        return OUT

def build() -> nn.Module:
    return Net()
"""


def file_of_page(title: str) -> str:
    """A file that docs/how-to/your-own-network.md shows."""
    return next(block.text for block in blocks(PAGE.read_text()) if block.title == title)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's project folder, with the page's module; what is imported there is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = {*sys.modules}
    (tmp_path / "mynet.py").write_text(file_of_page("mynet.py"))
    importlib.invalidate_caches()
    yield tmp_path
    for name in {*sys.modules} - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


def run_of(network: str = "mynet:UNet", **changes: Any) -> Run:
    """A run on the tiny data; its root is `pictures`."""
    changes = {"student__network": network, **changes}
    config = tiny_config(Path("pictures"), **changes)
    return Run("student", "own", "U-Net", {}, 1, config, "0" * 10, "study")


def plain(output: str, folder: Path, name: str) -> Run:
    """A run of `PLAIN` with a certain output."""
    (folder / f"{name}.py").write_text(PLAIN.replace("OUT", output))
    return run_of(f"{name}:build")


def sentence_of(action: Callable[[], object]) -> str:
    with pytest.raises(FadepthError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


# Trained, loaded, exported


def trained(folder: Path, run: Run) -> Path:
    (folder / "pictures").mkdir(exist_ok=True)
    manifest = tiny_manifest(folder / "pictures")
    manifest.write(folder / "manifest.jsonl")
    train_run(run, Path("runs"), Path("manifest.jsonl"), None, 1)
    return folder / "runs" / run.id


def test_it_trains_and_everything_that_loads_a_run_takes_it(folder: Path) -> None:
    """The truth is the user's own class with the trained weights, without a line of ours."""
    run = run_of(student__arguments={"width": 4}, loss__pyramid__enabled=True)
    place = trained(folder, run)
    record = json.loads((place / "manifest.json").read_text())
    assert record["status"] == "finished"
    assert (place / "network" / "mynet.py").read_text() == (folder / "mynet.py").read_text()
    log = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    assert all("train/loss/pyramid/photometric" in line for line in log)

    weights = torch.load(place / "model.pt", weights_only=True)["depth"]
    theirs = sys.modules["mynet"].UNet(width=4)
    fresh = {name: value.clone() for name, value in theirs.state_dict().items()}
    theirs.load_state_dict({k.removeprefix("network."): v for k, v in weights.items()})
    moved = [n for n, p in theirs.named_parameters() if not torch.equal(p, fresh[n])]
    assert len(moved) == len([*theirs.parameters()])
    assert record["parameters_inference"] == sum(p.numel() for p in theirs.parameters())

    image = torch.rand(2, 3, *SIZE)
    expected = theirs.eval()(image)[0]
    network, config = load_depth_network(place / "model.pt")
    assert config == run.config
    torch.testing.assert_close(network(image), expected, rtol=0, atol=0)
    predict = image_function(fold(network), torch.device("cpu"))
    torch.testing.assert_close(predict(image), disparity_to_inverse_depth(expected))
    views = altered_predictions(predict, image[:1])
    half = F.interpolate(image[:1], [32, SIZE[1] // 2], mode="area")
    small = disparity_to_inverse_depth(theirs(half)[0])[0, 0].detach()
    torch.testing.assert_close(torch.from_numpy(views["half"]).float(), small)
    exported = export_run(run.id, Path("runs"), "torchscript")
    odd = torch.rand(1, 3, 33, 51)
    found = load_exported(exported.path, "torchscript")(odd)
    torch.testing.assert_close(found, theirs(odd)[0], rtol=0, atol=1e-5)


def test_a_training_that_was_cut_short_ends_with_the_same_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a network that draws random numbers of its own."""
    net = PLAIN.replace("OUT", "out").replace("(self.conv(", "(nn.functional.dropout(self.conv(")
    net = net.replace("conv(image))", "conv(image), 0.1, self.training))")
    (folder / "dropping.py").write_text(net)
    whole = trained(folder, run_of("dropping:build"))
    expected = torch.load(whole / "model.pt", weights_only=True)["depth"]
    whole.rename(folder / "whole")
    healthy = Training.step

    def cut(self: Training, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        if number == 7:
            raise RuntimeError("killed")
        return healthy(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", cut)
        with pytest.raises(RuntimeError, match="killed"):
            trained(folder, run_of("dropping:build"))
    steps: list[int] = []

    def counted(self: Training, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        steps.append(number)
        return healthy(self, batch, number)

    monkeypatch.setattr(Training, "step", counted)
    again = trained(folder, run_of("dropping:build"))
    assert steps == [*range(6, 12)]
    found = torch.load(again / "model.pt", weights_only=True)["depth"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("output", ["out", "[out]", "(out, out[..., ::2, ::3])"])
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_one_map_or_several(output: str, amp: str, folder: Path) -> None:
    """What is given is what is learnt from, and the first is what is evaluated."""
    run = plain(output, folder, "some")
    config = run.config.model_copy(
        update={"training": run.config.training.model_copy(update={"amp": amp})}
    )
    place = trained(folder, Run("student", "own", "", {}, 1, config, "0" * 10, ""))
    network, _ = load_depth_network(place / "model.pt")
    image = torch.rand(1, 3, *SIZE)
    maps = network.train()(image)
    assert [m.shape[2] for m in maps] == ([64, 32] if "::" in output else [64])
    torch.testing.assert_close(network.eval()(image), maps[0])


# Identity


def code_hash(folder: Path, files: dict[str, str]) -> str:
    """Of the run, with these files in the folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return run_of().code_hash


def test_a_formula_counts_and_a_comment_does_not(folder: Path) -> None:
    source = (folder / "mynet.py").read_text()
    first, name = run_of().code_hash, run_of().id
    commented = source.replace("import torch\n", "import torch  # of 2026\n", 1)
    assert commented != source
    assert code_hash(folder, {"mynet.py": commented}) == first
    changed = source.replace("nn.ELU()", "nn.ReLU()")
    assert changed != source
    second = code_hash(folder, {"mynet.py": changed})
    assert second != first
    assert run_of().id == name  # as with our own code, the name stays and Snakemake trains again
    assert code_hash(folder, {"mynet.py": source}) == first


def test_what_the_module_imports_of_the_users_files_counts(folder: Path) -> None:
    """Beside it, in packages, relatively, on PYTHONPATH; other files do not."""
    source = "from torch import nn\nfrom parts.blocks import block\n"
    source += "def UNet() -> nn.Module:\n    import helper\n    return helper.net(block)\n"
    files = {
        "helper.py": "net = 1",
        "mynet.py": source,
        "parts/__init__.py": "",
        "parts/blocks.py": "from . import deep\nfrom .sizes import N as block\n",
        "parts/deep.py": "A = 1",
        "parts/sizes.py": "N = 1",
        "stranger.py": "B = 1",
    }
    first = code_hash(folder, files)
    assert [*find_own_code("mynet:UNet").files] == [*files][:-1]
    for name, text in files.items():
        edited = code_hash(folder, {name: text + "\nEDITED = 2\n"})
        assert (edited != first) == (name != "stranger.py"), name
        assert code_hash(folder, {name: text}) == first


def test_files_on_pythonpath_and_installed_packages(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages count by version, torch not; modules of fadepth as elsewhere."""
    away = folder / "away"
    away.mkdir()
    (away / "faraway.py").write_text(
        "import json, numpy as np, no_such_package\nimport torch.nn as nn\n"
        "from fadepth.models.etm import EtmConv2d\ndef build() -> nn.Module: ...\n"
    )
    assert "there is no faraway.py in" in sentence_of(lambda: find_own_code("faraway:build"))
    monkeypatch.setenv("PYTHONPATH", str(away))
    own = find_own_code("faraway:build")
    assert own.files == {"faraway.py": away / "faraway.py"}
    assert {*own.modules} >= {"models/etm.py", "errors.py"}
    assert "models/smalldepth.py" in own.modules  # models/__init__.py imports it
    assert {**own.versions} == {"numpy": np.__version__, "no_such_package": None}


def test_the_default_is_neutral(folder: Path) -> None:
    """Runs of SmallDepth and their costs do not see the new settings, nor own runs the old ones."""
    ours = Run("student", "plain", "", {}, 1, Config(), "0" * 10, "")
    assert "student" not in ours.settings or ours.settings["student"] == {}
    assert ours.own_code is None
    assert "models/own.py" not in ours.code_modules
    settings = Config().model_dump(mode="json")
    new = cost_key(cost_settings("student", settings))
    for name in ("network", "arguments"):
        del settings["student"][name]  # as a config.yaml of before
    assert cost_key(cost_settings("student", settings)) == new

    own = run_of()
    assert own.settings["student"] == {"network": "mynet:UNet"}
    assert "models/smalldepth.py" not in own.code_modules
    idle = run_of(student__width=0.5, student__sparsity="dense", student__etm__space="activation")
    assert idle.id == own.id
    assert cost_key(cost_settings("student", idle.config.model_dump(mode="json"))) == cost_key(
        cost_settings("student", own.config.model_dump(mode="json"))
    )
    assert run_of(student__arguments={"width": 4}).id != own.id


def test_a_run_tells_that_the_users_network_has_changed(folder: Path) -> None:
    before = {"modules": run_of().code_fingerprints}
    assert code_changes(run_of(), before) == []
    source = (folder / "mynet.py").read_text()
    (folder / "mynet.py").write_text(source.replace("nn.ELU()", "nn.ReLU()"))
    told = "your own network mynet:UNet has changed (mynet.py)"
    assert code_changes(run_of(), before) == [told]
    (folder / "mynet.py").write_text(source + "\nimport helper\n")
    (folder / "helper.py").write_text("")
    told = "your own network mynet:UNet has changed (mynet.py, helper.py)"
    assert code_changes(run_of(), before) == [told]


def test_weights_are_not_loaded_into_other_code(folder: Path) -> None:
    """Same shapes, another formula: it would be another network with this one's name."""
    place = trained(folder, run_of(student__arguments={"width": 4}))
    source = (folder / "mynet.py").read_text()
    (folder / "mynet.py").write_text("# a comment\n" + source)
    load_depth_network(place / "model.pt")
    (folder / "mynet.py").write_text(source.replace("nn.ELU()", "nn.ReLU()"))
    told = sentence_of(lambda: load_depth_network(place / "model.pt"))
    assert "was trained with other code of mynet:UNet than" in told and "network/" in told


def test_names_of_folders(folder: Path) -> None:
    def slug(**student: Any) -> str:
        settings = {"student": student}
        return slug_of(settings, Config(), parse_config(settings, "test"))

    assert slug(network="nets.mine:build") == "network_nets_mine_build"
    named = slug(network="mynet:UNet", arguments={"width": 2, "note": "../" + 300 * "x"}, width=2)
    assert named == f"arg_note_{17 * 'x'}_arg_width_2_network_mynet_unet"


# Wrong contracts


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("out[..., 1:, :]", r"map 1 of .* has the shape \(2, 1, 63, 96\): expected \(2, 1, 64, 96"),
        ("out[:, 0]", r"has the shape \(2, 64, 96\)"),
        ("image", r"has the shape \(2, 3, 64, 96\)"),
        ("[out[..., ::2, ::2], out]", r"map 1 of .* \(2, 1, 32, 48\)"),
        ("[out, out.repeat(1, 1, 2, 2)]", r"map 2 .* no larger than the map before it"),
        ("[out, None]", "map 2 of .* is NoneType, not a tensor"),
        ("1 + out", r"values from 1\.\d+ to .*: expected disparities in \(0, 1\)"),
        ("out * float('nan')", "values from nan"),
        ("out.double()", r"torch\.float64: expected torch\.float32"),
        ("{'disp': out}", "gives dict in train mode: it must give one disparity"),
        ("[]", "gives an empty list in train mode"),
        ("self.nothing", "train mode|no attribute"),
        ("out.view(-1, 7)", "fails on images of 64x96, in train mode: RuntimeError: shape"),
        ("out if self.training else None", "gives NoneType in eval mode"),
    ],
)
def test_what_gives_something_else_is_refused(output: str, told: str, folder: Path) -> None:
    run = plain(output, folder, "wrong")
    with pytest.raises((FadepthError, AttributeError), match=told):
        try_own_network(run)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import torch.nn as nn\ndef build() -> nn.Module: return nn.ReLU()", "no trainable param"),
        ("import torch.nn as nn\ndef build() -> nn.Module: return 3", "gives int, not an nn.Mod"),
        ("import torch.nn as nn\ndef build() -> nn.Module: 1 / 0", "failed: ZeroDivisionError"),
        ("import nothing_at_all\ndef build() -> 'nn.Module': ...", "import of .* failed: Module"),
    ],
)
def test_factories_that_make_no_network(source: str, told: str, folder: Path) -> None:
    (folder / "none.py").write_text(source)
    with pytest.raises(FadepthError, match=told):
        build_depth_network(run_of("none:build").config, "student")


def test_sizes_are_tried_before_hours_are_spent(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pyramid's levels are refused; half the size is only told, since few tables need it."""
    output = "interpolate(interpolate(out, scale_factor=1 / 64), scale_factor=64)"
    (folder / "even.py").write_text(
        "from torch.nn.functional import interpolate\n" + PLAIN.replace("OUT", output)
    )
    size = {"data__height": 64, "data__width": 128}
    levels = {"loss__pyramid__enabled": True, "loss__pyramid__levels": 2}
    try_own_network(run_of("even:build", data__height=128, data__width=128))
    assert not caplog.records
    try_own_network(run_of("even:build", **size))
    assert "even:build fails on images of 32x64, in eval mode" in caplog.text
    assert "robustness at half the size cannot be measured" in caplog.text
    told = sentence_of(lambda: try_own_network(run_of("even:build", **size, **levels)))
    assert told.startswith("even:build fails on images of 32x64, in train mode: ")
    # A training says so before it begins.
    called: list[object] = []
    monkeypatch.setattr(train, "Training", lambda job: called.append(job))
    with pytest.raises(FadepthError, match="fails on images of 32x64"):
        trained(folder, run_of("even:build", **size, **levels))
    assert not called


def test_memory_that_runs_out_is_told_as_such(folder: Path) -> None:
    class Greedy(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        OwnNetwork(Greedy(), "a:b", "")(torch.rand(1, 3, 32, 32))


# Studies


def study_of(folder: Path, rows: str) -> Callable[[], Study]:
    (folder / "ablations").mkdir(exist_ok=True)
    path = folder / "ablations" / "mine.yaml"
    head = "name: mine\ntitle: Mine\ntable: table_mine\ndesign: explicit\nrows:\n"
    path.write_text(head + rows)
    return lambda: resolve_study(path, SMOKE, "config/smoke.yaml")


def test_the_study_of_the_page(folder: Path) -> None:
    path = folder / "study.yaml"
    path.write_text(file_of_page("ablations/mynet.yaml"))
    study = resolve_study(path, SMOKE, "config/smoke.yaml")
    labels = [row.label for row in study.rows if row.kind == "variant"]
    assert labels[:2] == ["SmallDepth", "U-Net"]
    ids = [run.id for run in study.students]
    assert len({*ids}) == len(ids) == len(labels)
    levels = {f.level for f in lint_studies([path], SMOKE, "config/smoke.yaml")}
    assert levels <= {"warning", "note"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("student.etm.branches: ac", "'student.etm.branches' is ac, which needs layers of Small"),
        ("loss.base: cbw", "'loss.base' is cbw, which needs layers"),
        ("loss.pyramid: {enabled: true, kind: features}", "'loss.pyramid.kind' is features"),
        ("student.arguments.wdth: 2", "'student.arguments.wdth' is no argument of mynet:UNet, "
                                      "which takes width"),
        ("student.arguments: {a b: 1}", "'a b' can be no argument"),
        ("student.arguments.width: {a: 1}", "wrong value"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be(settings: str, told: str, folder: Path) -> None:
    rows = "  - label: SmallDepth\n  - label: mine\n    settings:\n"
    rows += f"      student.network: mynet:UNet\n      {settings}\n"
    resolve = study_of(folder, rows)
    assert told in sentence_of(resolve)
    found = lint_studies([folder / "ablations" / "mine.yaml"], SMOKE, "config/smoke.yaml")
    assert [f.sentence for f in found if f.level == "error" and told in f.sentence]


def test_settings_of_smalldepth_have_no_effect_beside_an_own_network(folder: Path) -> None:
    resolve = study_of(
        folder,
        "  - label: mine\n    settings: {student.network: 'mynet:UNet'}\n"
        "  - label: wide\n    settings: {student.network: 'mynet:UNet', student.width: 2}\n",
    )
    assert "rows 'mine' and 'wide' are the same run" in sentence_of(resolve)
    resolve = study_of(folder, "  - label: a\n    settings: {student.arguments: {width: 2}}\n")
    assert "set student.network to module:factory, too" in sentence_of(resolve)


def test_an_argument_is_a_factor_and_a_column(folder: Path) -> None:
    path = folder / "widths.yaml"
    path.write_text(
        "name: widths\ntitle: Widths\ntable: table_widths\nbase_label: U-Net\n"
        "shown: {width: student.arguments.width}\nfactors:\n  width:\n    label: wide\n"
        "    levels:\n      w16: {student.network: 'mynet:UNet', student.arguments.width: 16}\n"
        "      w32: {student.network: 'mynet:UNet', student.arguments.width: 32}\n"
    )
    study = resolve_study(path, SMOKE, "config/smoke.yaml")
    assert [run.config.student.arguments["width"] for run in study.students] == [16, 32]


# Strangers' names


EVIL = ["os:system", "subprocess:run", "torch.hub:load", "fadepth.files:write_atomic",
        "tests.tiny:tiny_config", "harmless:run", "harmless:alias", "harmless:wipe",
        "harmless:Path"]  # fmt: skip


@pytest.mark.parametrize("network", EVIL)
def test_nothing_is_called_that_does_not_say_that_it_makes_a_network(
    network: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study, or the settings in a downloaded model.pt, may name anything; nothing is imported."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (folder / "harmless.py").write_text(
        "from pathlib import Path\nfrom subprocess import run\n"
        "Path('mark').touch()\nalias = run\ndef wipe(path: str) -> None:\n    Path(path).unlink()\n"
    )
    (folder / "model.pt").parent.mkdir(exist_ok=True)
    config = tiny_config(folder, student__network=network).model_dump(mode="json")
    content = {"kind": "student", "config": config, "depth": {}, "pose": {}}
    torch.save(content, folder / "model.pt")
    row = f"  - label: mine\n    settings: {{student.network: '{network}'}}\n"
    for action in (study_of(folder, row), lambda: load_depth_network(folder / "model.pt")):
        assert f"student.network is '{network}'" in sentence_of(action)
    assert "harmless" not in sys.modules
    assert not (folder / "mark").exists()


@pytest.mark.parametrize("spec", ["mynet", "mynet:", ":UNet", "my net:UNet", "../x:y", "a:b:c",
                                  "a:b.c", "$(touch x):y", "a..b:c"])  # fmt: skip
def test_import_paths_have_one_form(spec: str) -> None:
    assert "must be module:factory" in sentence_of(
        lambda: parse_config({"student": {"network": spec}}, "test")
    )


def test_planning_reads_the_source_and_does_not_run_it(folder: Path) -> None:
    source = (folder / "mynet.py").read_text()
    (folder / "mynet.py").write_text("open('mark', 'w')\n" + source)
    run = run_of()
    assert run.own_code and run.code_hash and run.code_fingerprints
    assert "mynet" not in sys.modules
    assert not (folder / "mark").exists()
    build_depth_network(run.config, "student")
    assert (folder / "mark").exists()


def test_a_file_named_like_another_module_is_refused(folder: Path) -> None:
    """Python would take its own `json`, and the fingerprint would be of the wrong file."""
    (folder / "json.py").write_text(PLAIN.replace("OUT", "out"))
    told = sentence_of(lambda: build_depth_network(run_of("json:build").config, "student"))
    assert "Python has another module of that name" in told and "give your file another" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def UNet(:\n", r"mynet\.py, line 1 is no Python"),
        ("UNet = 3\n", r"mynet\.py defines no 'UNet': write 'def build\(\) -> nn\.Module'"),
        ("def UNet(): ...\n", "does not say that it makes a network"),
        ("def UNet() -> int: ...\n", "does not say that it makes a network"),
    ],
)
def test_a_file_without_a_factory(text: str, told: str, folder: Path) -> None:
    (folder / "mynet.py").write_text(text)
    with pytest.raises(FadepthError, match=told):
        _ = run_of().code_hash
