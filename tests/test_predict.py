"""`fadepth predict`: the network's own numbers in files that others read, none lost or mixed up."""

import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import matplotlib
import matplotlib.cm
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from fadepth.cli import app, predicting
from fadepth.errors import FadepthError
from fadepth.execution import predict as work
from fadepth.execution.prediction_record import SAVES
from fadepth.export import export_run
from fadepth.training import build_depth_network, load_depth_network
from tests.data.mounts import tmpfs
from tests.test_depth_files import read_ply
from tests.tiny import SIZE, tiny_config

RUN = "etm-s1-0123456789"
RECORD = "predictions.json"


def make_run(runs: Path, name: str, *, kind: str = "student", **manifest: Any) -> Path:
    """A run's folder with a network whose disparity varies over the image."""
    config = tiny_config(runs, student__etm__branches="ac")
    torch.manual_seed(len(name))
    network = build_depth_network(config, "student" if kind == "student" else "teacher")
    for name_, weight in network.named_parameters():
        if "head" in name_ and weight.dim() > 1:
            nn.init.normal_(weight, std=0.15)
    with torch.no_grad():  # statistics of images, as after a training
        for seed in range(8):
            image = torch.tensor(picture(seed, SIZE) / 255.0, dtype=torch.float32)
            network.train()(image.permute(2, 0, 1).expand(2, -1, -1, -1))
    folder = runs / name
    folder.mkdir(parents=True)
    depth = network.state_dict()
    content = {"kind": kind, "config": config.model_dump(mode="json"), "depth": depth}
    torch.save(content, folder / "model.pt")
    told = {"run_id": name, "kind": kind, "row": "+ ETM", "status": "finished", "seed": 1}
    (folder / "manifest.json").write_text(json.dumps({**told, "commit": "abc", **manifest}))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder `runs` with a student and a teacher."""
    runs = tmp_path_factory.mktemp("project") / "runs"
    make_run(runs, RUN)
    make_run(runs, "hqdecv2-s1-aaaaaaaaaa", kind="teacher", row="HQDecv2")
    return runs


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder; its runs may be added to."""
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def picture(seed: int, size: tuple[int, int] = (90, 140)) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC))


def save_picture(path: Path, seed: int, size: tuple[int, int] = (90, 140)) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture(seed, size)).save(path)
    return path


def call(*words: object) -> Result:
    """The command, which must not end by an exception of its own."""
    result = CliRunner().invoke(app, ["predict", *map(str, words), "--threads", "1"])
    if result.exception and not isinstance(result.exception, SystemExit | FadepthError):
        raise result.exception
    return result


def refusal(*words: object) -> str:
    """The one sentence that the command ends with."""
    result = call(*words)
    assert isinstance(result.exception, FadepthError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def by_hand(model: Path, image: NDArray[np.uint8], size: tuple[int, int] = SIZE) -> Any:
    """Depth (H, W) by the unfolded network: Lanczos, monodepth2's mapping, cv2's resize."""
    network, _ = load_depth_network(model)
    small = Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS)
    tensor = torch.tensor(np.asarray(small) / 255.0, dtype=torch.float32).permute(2, 0, 1)[None]
    with torch.no_grad():
        disparity = network(tensor)
    inverse = 0.01 + (10 - 0.01) * disparity
    inverse = nn.functional.interpolate(inverse, image.shape[:2], mode="bilinear")
    return (1 / inverse)[0, 0].numpy()


# Numbers


@pytest.mark.parametrize("run", [RUN, "hqdecv2"])
def test_depth_is_that_of_a_pass_by_hand(project: Path, run: str) -> None:
    model = next((project / "runs").glob(f"{run}*")) / "model.pt"
    for number in range(3):
        save_picture(project / "in" / f"{number}.png", number, (90 + number, 140))
    result = call("in", "--run", run, "--output", "out", "--scale", 2.5)
    assert result.exit_code == 0, result.output
    for number in range(3):
        depth = np.load(f"out/{number}.npy")
        expected = 2.5 * by_hand(model, picture(number, (90 + number, 140)))
        assert depth.dtype == np.float32 and depth.shape == (90 + number, 140)
        assert np.ptp(expected) > 0.05 * expected.mean(), "the network sees something"
        assert np.allclose(depth, expected, rtol=2e-3)
        steps = np.asarray(Image.open(f"out/{number}_depth.png"))
        assert steps.dtype == np.uint16
        assert np.abs(steps - 256.0 * depth).max() <= 0.5 + 1e-3
        drawn = Image.open(f"out/{number}_disparity.png")
        assert drawn.mode == "RGB" and drawn.size == (140, 90 + number)


def test_another_size_and_points(project: Path) -> None:
    image = save_picture(project / "a.png", 1)
    camera = (100.0, 110.0, 70.0, 44.0)
    words = ",".join(map(str, camera))
    result = call(image, "--run", RUN, "--output", "out", "--size", "96x128",
                  "--intrinsics", words, "--save", "npy")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in Path("out").glob("[!.]*")) == ["a.npy", "a.ply", RECORD]
    depth = np.load("out/a.npy")
    expected = by_hand(project / "runs" / RUN / "model.pt", picture(1), (96, 128))
    assert np.allclose(depth, expected, rtol=2e-3)
    points, colours = read_ply(Path("out/a.ply").read_bytes())
    x, y, z = points.astype(float).T
    u, v = (100 * x / z + 70).round().astype(int), (110 * y / z + 44).round().astype(int)
    assert np.array_equal(v * 140 + u, np.arange(90 * 140))
    assert np.allclose(z, depth[v, u], rtol=1e-6)
    assert np.array_equal(colours, picture(1)[v, u])


def test_colours_are_the_same_for_all_images_of_a_folder(project: Path) -> None:
    inverse = []
    for number in range(3):
        save_picture(project / "in" / f"{number}.png", number, SIZE)
        inverse.append(1 / by_hand(project / "runs" / RUN / "model.pt", picture(number, SIZE)))
    assert call("in", "--run", RUN, "--output", "out", "--scale", 3).exit_code == 0
    lows, highs = zip(*(np.percentile(values, (1, 99)) for values in inverse), strict=True)
    entry = json.loads(Path("out", RECORD).read_text())["inputs"][str(project / "in")]
    assert entry["complete"]
    low, high = np.percentile(lows, 10), np.percentile(highs, 90)
    assert np.allclose(entry["colours"], (low, high), rtol=1e-3)
    painter = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(low, high), "magma")
    for number, values in enumerate(inverse):
        drawn = np.asarray(Image.open(f"out/{number}_disparity.png")).astype(int)
        expected = 255 * painter.to_rgba(values)[..., :3]
        assert np.abs(drawn - expected).max() <= 8  # a step of the map, for rounding
        assert np.abs(drawn - expected).mean() < 0.5


def test_turned_photo_gives_a_turned_depth(project: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    # Row 0 of the file is the right side of the scene, column 0 its top (EXIF).
    stored = Image.fromarray(picture(1)).transpose(Image.Transpose.ROTATE_90)
    stored.save("phone.png", exif=exif)
    save_picture(project / "upright.png", 1)
    for name in ("phone.png", "upright.png"):
        assert call(name, "--run", RUN, "--output", "out", "--save", "npy").exit_code == 0
    assert np.array_equal(np.load("out/phone.npy"), np.load("out/upright.npy"))


def test_record_says_what_the_numbers_are(project: Path) -> None:
    image = save_picture(project / "a.png", 1)
    result = call(image, "--run", RUN, "--json", "--scale", "2")
    summary = json.loads(result.stdout)
    assert (summary["images"], summary["skipped"], summary["run"]) == (1, 0, RUN)
    record = json.loads(Path(summary["record"]).read_text())
    assert Path(summary["record"]) == Path("predictions") / RUN / RECORD
    network = record["network"]
    assert (network["run"], network["commit"], network["scale"]) == (RUN, "abc", "smoke")
    assert record["label"] == "smoke scale, trained on tiny: not a result"
    assert (record["size"], record["factor"]) == (list(SIZE), 2.0)
    assert record["images"] == {"a": str(image)}
    assert "256" in record["numbers"]["NAME_depth.png"]


def test_depth_beyond_the_png_is_told(project: Path) -> None:
    image = save_picture(project / "a.png", 1)
    result = call(image, "--run", RUN, "--scale", 1e5)
    assert result.exit_code == 0
    assert "100.0% of the pixels have no value in the depth PNG" in result.stderr
    assert not np.asarray(Image.open(f"predictions/{RUN}/a_depth.png")).any()


# Videos


def film(path: Path, count: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 90, 140, "yuv444p"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        frames = container.decode(container.streams.video[0])
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in frames]


def test_video_shows_frames_above_their_disparity(project: Path) -> None:
    source = film(project / "drive.mp4", 9)
    result = call(source, "--run", RUN, "--output", "out", "--save", "video,disparity,npy")
    assert result.exit_code == 0, result.output
    assert "out/drive_disparity.mp4: 9 frames predicted" in result.stdout
    shown, filmed = frames_of(Path("out/drive_disparity.mp4")), frames_of(source)
    assert len(shown) == len(filmed) == 9
    for number, (frame, original) in enumerate(zip(shown, filmed, strict=True)):
        drawn = np.asarray(Image.open(f"out/drive_{number:06d}_disparity.png")).astype(int)
        assert frame.shape == (180, 140, 3)
        assert np.abs(frame[:90].astype(int) - original).mean() < 6
        assert np.abs(frame[90:].astype(int) - drawn).mean() < 6
        expected = by_hand(project / "runs" / RUN / "model.pt", original)
        assert np.allclose(np.load(f"out/drive_{number:06d}.npy"), expected, rtol=2e-3)
    again = call(source, "--run", RUN, "--output", "out", "--save", "video,disparity,npy")
    assert "0 frames predicted, 9 there already" in again.stdout


def test_torn_video_is_predicted_as_far_as_it_goes(project: Path) -> None:
    source = film(project / "drive.mkv", 40)
    content = source.read_bytes()
    source.write_bytes(content[: len(content) * 6 // 10])
    result = call(source, "--run", RUN, "--output", "out")
    assert result.exit_code == 1
    assert "drive.mkv is damaged or truncated after" in result.stderr
    assert 0 < len(frames_of(Path("out/drive_disparity.mp4"))) < 40
    again = call(source, "--run", RUN, "--output", "out")
    assert again.exit_code == 1 and "drive.mkv is damaged" in again.stderr


# Going on, and not mixing up


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the next call end by Ctrl-C after some images."""

    def stop(after: int) -> None:
        left = [after]
        original = work.png_values

        def interrupted(depth: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                monkeypatch.setattr(work, "png_values", original)
                raise KeyboardInterrupt
            return original(depth)

        monkeypatch.setattr(work, "png_values", interrupted)

    return stop


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD}


def test_interrupted_call_goes_on(project: Path, stopped: Callable[[int], None]) -> None:
    for number in range(5):
        save_picture(project / "in" / f"{number}.png", number)
    assert call("in", "--run", RUN, "--output", "whole").exit_code == 0
    stopped(3)
    result = call("in", "--run", RUN, "--output", "out")
    assert result.exit_code == 130 and "the same command goes on" in result.stderr
    assert not [path for path in Path("out").iterdir() if ".part" in path.name]
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("[0-2]*")}
    assert len(before) == 9
    result = call("in", "--run", RUN, "--output", "out")
    # The thread that writes may have begun with another one.
    assert re.search("2 images predicted, 3 there|1 image predicted, 4 there", result.stdout)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(Path("out")) == contents(Path("whole"))


def test_changed_image_is_predicted_again(project: Path) -> None:
    image = save_picture(project / "in" / "a.png", 0)
    save_picture(project / "in" / "b.png", 1)
    assert call("in", "--run", RUN).exit_code == 0
    old = np.load(f"predictions/{RUN}/a.npy")
    save_picture(image, 2)
    later = Path(f"predictions/{RUN}/a.npy").stat().st_mtime + 10
    os.utime(image, (later, later))
    assert "1 image predicted, 1 there already" in call("in", "--run", RUN).stdout
    assert not np.allclose(np.load(f"predictions/{RUN}/a.npy"), old)


def test_other_settings_or_inputs_are_not_mixed(project: Path) -> None:
    image = save_picture(project / "a.png", 0)
    other = save_picture(project / "other" / "a.png", 1)
    words = (image, "--output", "out", "--run")
    assert call(*words, RUN).exit_code == 0
    before = contents(Path("out"))
    assert "another --scale (1.0, now 2.0)" in refusal(*words, RUN, "--scale", 2)
    assert "another size ([64, 96], now [64, 64])" in refusal(*words, RUN, "--size", "64x64")
    assert f"another network ({RUN})" in refusal(*words, "hqdecv2")
    told = refusal(other, "--output", "out", "--run", RUN)
    assert f"is there already, from {image}" in told and "--overwrite" in told
    Path("out", RECORD).unlink()
    assert "from elsewhere" in refusal(*words, RUN)
    assert contents(Path("out")) == before
    assert call(other, "--output", "out", "--run", RUN, "--overwrite").exit_code == 0
    assert contents(Path("out")) != before
    assert json.loads(Path("out", RECORD).read_text())["images"] == {"a": str(other)}


def test_one_unreadable_image_does_not_lose_the_others(project: Path) -> None:
    for number in range(3):
        save_picture(project / "in" / f"{number}.png", number)
    Path("in/1.png").write_bytes(b"no image")
    result = call("in", "--run", RUN, "--json")
    assert result.exit_code == 1
    assert "in/1.png is damaged, or no image" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["images"] == 2 and len(summary["unreadable"]) == 1
    assert {path.stem for path in Path(summary["output"]).glob("*.npy")} == {"0", "2"}
    assert call("in", "--run", RUN).exit_code == 1, "it is told each time"


def test_full_disk_leaves_whole_files(project: Path) -> None:
    for number in range(8):
        save_picture(project / "in" / f"{number}.png", number)
    with tmpfs(project / "small", "size=300k") as small:
        result = CliRunner().invoke(app, ["predict", "in", "--run", RUN, "--output", f"{small}"])
        assert isinstance(result.exception, OSError) and result.exception.errno == 28
        files = [path for path in small.iterdir() if path.suffix != ".lock"]
        assert 4 < len(files) < 25
        for path in files:
            if path.suffix == ".npy":
                assert np.load(io.BytesIO(path.read_bytes())).shape == (90, 140)
            elif path.suffix == ".png":
                assert np.asarray(Image.open(path)).shape[:2] == (90, 140)


# Which network


def test_runs_by_beginning_folder_file_and_export(project: Path) -> None:
    image = save_picture(project / "a.png", 1)
    exported = export_run(RUN, project / "runs", "torchscript").path
    copied = shutil.copy(project / "runs" / RUN / "model.pt", project / "mine.pt")
    names = ["etm", RUN, f"runs/{RUN}", project / "runs" / RUN / "model.pt", exported, copied]
    depths = []
    for number, name in enumerate(names):
        result = call(image, "--run", name, "--output", f"out{number}", "--save", "npy")
        assert result.exit_code == 0, result.output
        depths.append(np.load(f"out{number}/a.npy"))
    for depth in depths[1:]:
        assert np.allclose(depth, depths[0], rtol=1e-3)
    network = json.loads(Path("out4", RECORD).read_text())["network"]
    assert (network["run"], network["scale"], network["dataset"]) == (RUN, "smoke", "tiny")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("etn", r"no run 'etn' in runs/: did you mean etm\?"),
        ("zzzzzzzz", r"no run 'zzzzzzzz' in runs/: there are .*hqdecv2"),
        ("p", r"2 runs begin with 'p' \(plain-s1-\w+, plain-s2-\w+\): write more"),
        ("plain-s1", r"plain-s1-1111111111 has no finished network \(running\)"),
        ("plain-s2", r"plain-s2-2222222222 has no finished network \(failed\)"),
        ("constant", r"constant-s0-3333333333 is no network \(baseline\)"),
        ("nowhere/else", "there is no run at nowhere/else"),
        ("a.png", r"a\.png is not a readable model"),
    ],
)
def test_runs_that_cannot_predict(project: Path, name: str, told: str) -> None:
    save_picture(project / "a.png", 1)
    told_of = {
        "plain-s1-1111111111": {"kind": "student", "status": "running"},
        "plain-s2-2222222222": {"kind": "student", "status": "failed"},
        "constant-s0-3333333333": {"kind": "baseline", "status": "finished"},
    }
    for run, manifest in told_of.items():
        folder = project / "runs" / run
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps(manifest))
    (project / "runs" / "plain-s2-2222222222" / "model.pt").touch()  # of before
    assert re.search(told, refusal("a.png", "--run", name))
    assert not Path("predictions").exists()


def test_weights_of_other_code_are_told(project: Path) -> None:
    save_picture(project / "a.png", 1)
    model = project / "runs" / RUN / "model.pt"
    content = torch.load(model, weights_only=True)
    content["depth"].popitem()
    torch.save(content, model)
    assert "do not fit the network of this code: they were trained by commit abc" in refusal(
        "a.png", "--run", RUN
    )


def test_best_student_is_taken_and_told(
    project: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the lowest Abs Rel among those that have finished, whatever the order of the table."""
    from fadepth.cli.common import find_study

    image = save_picture(project / "a.png", 1)
    for name in ("config", "ablations"):
        (project / name).symlink_to(repository / name)
    smoke = ("--preset", "config/smoke.yaml")
    assert "no student of table_ablation has been trained" in refusal(image, *smoke)
    students = list(find_study("table_ablation", [Path(smoke[1])], "{}").students)[:4]
    errors = [0.4, 0.3, 0.2, 0.1]
    for run, error in zip(students, errors, strict=True):
        status = "failed" if error == 0.1 else "finished"
        folder = make_run(project / "runs", run.id, status=status)
        (folder / "metrics.json").write_text(json.dumps({"metrics": {"abs_rel": error}}))
    result = call(image, *smoke)
    assert result.exit_code == 0
    assert Path("predictions", students[2].id, "a.npy").is_file()


# Wrong words


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none.png"], "none.png does not exist"),
        (["empty"], "empty holds no image"),
        (["text.png"], "text.png is damaged, or no image"),
        (["text.mp4"], "text.mp4 is no video"),
        (["a.png", "--size", "20x20"], "32"),
        (["a.png", "--size", "big"], "--size is 'big'"),
        (["a.png", "--scale", "0"], "--scale is 0.0"),
        (["a.png", "--scale", "nan"], "--scale is nan"),
        (["a.png", "--intrinsics", "1,2,3"], "--intrinsics is '1,2,3'"),
        (["a.png", "--intrinsics", "0,2,3,4"], "--intrinsics is '0,2,3,4'"),
        (["a.png", "--save", "depth,ply"], "--save has 'ply'"),
        (["a.png", "--save", "video"], "'video', but the input is none"),
        (["in", "--output", "in"], "in holds the images themselves"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    project: Path, words: list[str], told: str
) -> None:
    save_picture(project / "a.png", 1)
    save_picture(project / "in" / "a.png", 1)
    Path("empty").mkdir()
    for name in ("text.png", "text.mp4"):
        Path(name).write_text("text")
    assert told in refusal(*words, "--run", RUN)
    assert not list(Path("predictions").glob("*/[!.]*")) and len(list(Path("in").iterdir())) == 1


def test_a_gpu_that_is_not_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_picture(project / "a.png", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no GPU" in refusal("a.png", "--run", RUN, "--device", "cuda")


def test_words_of_the_help_are_those_of_the_code() -> None:
    assert predicting._SAVES == SAVES
