"""The README's two pictures, from the runs of `make ablation`.

    python docs/pictures.py [PROJECT] [--override '{"seeds": [1, 2, 3]}'] [--output docs/figures]

`predictions.png`: test frames as SmallDepth with all components and its teacher see them, beside
the ground truth. `rows.png`: every training of table_ablation beside what needs no network. PROJECT
is a checkout in which the table is made; nothing in it is changed. Its package has to be the one
that is imported, since other code has other runs.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

from fadepth.cli.common import find_study
from fadepth.errors import FadepthError
from fadepth.execution.qualitative import draw_comparison
from fadepth.execution.rows import draw_table_rows
from fadepth.files import write_atomic
from fadepth.report.small_png import small_png
from fadepth.study import Study

HERE = Path(__file__).resolve().parent
TABLE = "table_ablation"
RUNS = Path("runs")
#: Pixels; GitHub shows a README about 900 wide.
WIDTH = 1280
FRAMES = 3


def draw_predictions(study: Study, output: Path) -> None:
    """Frames as the student with everything on and its teacher see them."""
    student = [row for row in study.rows if row.kind == "variant"][-1].runs[0]
    teacher = study.teacher_of(student)
    if teacher is None:
        raise FadepthError(f"{TABLE} has no teacher beside its students: nothing to compare with")
    manifest = Path("data") / student.data_folder / "manifest.jsonl"
    draw_comparison([student, teacher], RUNS, manifest, output, FRAMES, threads=1)


def reduced(path: Path) -> bytes:
    """A PNG, `WIDTH` pixels wide."""
    with Image.open(path) as image:
        size = (WIDTH, round(image.height * WIDTH / image.width))
        return small_png(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))


def draw(project: Path, output: Path, preset: Path, override: str) -> list[Path]:
    """Draw both pictures; they are written once both are made."""
    output = output.resolve()
    os.chdir(project)
    study = find_study(TABLE, [preset], override)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_predictions(study, folder / "predictions.png")
        draw_table_rows(study, RUNS, folder / "rows.png")
        pictures = {path.name: reduced(path) for path in sorted(folder.glob("*.png"))}
    output.mkdir(parents=True, exist_ok=True)
    for picture, content in pictures.items():
        write_atomic(output / picture, content)
    return [output / picture for picture in pictures]


def main() -> None:
    """Draw the pictures of a project."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("project", type=Path, nargs="?", default=Path(), help="where runs/ is")
    parser.add_argument("--output", type=Path, default=HERE / "figures")
    parser.add_argument("--preset", type=Path, default=Path("config/quick.yaml"))
    parser.add_argument("--override", default="{}", help="settings of --config, as JSON")
    arguments = parser.parse_args()
    for path in draw(arguments.project, arguments.output, arguments.preset, arguments.override):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    try:
        main()
    except FadepthError as error:
        sys.exit(f"pictures: {error}")
