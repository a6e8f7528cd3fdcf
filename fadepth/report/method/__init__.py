"""The figures of `docs/method.md`, drawn by the code that they explain.

One module per figure; each returns a `Drawing` with the numbers that are printed in it. Nothing but
the rendered street is shown, and no number is written by hand.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fadepth.errors import FadepthError
from fadepth.report.method import (
    adacoeff,
    apx,
    base_loss,
    etm,
    global_map,
    hqdecv2,
    overview,
    pyramid,
    smalldepth,
)
from fadepth.report.method.material import Material, prepare
from fadepth.report.method.style import Drawing

log = logging.getLogger(__name__)

FILES = (
    "overview.png",
    "smalldepth.svg",
    "etm.png",
    "pyramid.png",
    "hqdecv2.svg",
    "adacoeff_upsampler.png",
    "global_map.png",
    "apx.png",
    "base_loss.png",
)
"""In the order of `docs/method.md`; `workflow/rules/figures.smk` lists the same."""


def drawings(material: Material, only: Sequence[str] = ()) -> list[Drawing]:
    """All figures, or those named in `only` (without their endings), in the order of `FILES`.

    Raises:
        FadepthError: `only` names a figure that there is not.
    """
    steps: list[Callable[[], Drawing]] = [
        partial(overview.draw, material),
        smalldepth.draw,
        partial(etm.draw, material),
        partial(pyramid.draw, material),
        hqdecv2.draw,
        partial(adacoeff.draw, material),
        partial(global_map.draw, material),
        partial(apx.draw, material),
        base_loss.draw,
    ]
    named = {Path(file).stem: step for file, step in zip(FILES, steps, strict=True)}
    if unknown := [name for name in only if name not in named]:
        raise FadepthError(f"there is no figure '{unknown[0]}': choose of {', '.join(named)}")
    return [step() for name, step in named.items() if not only or name in only]


def draw_method_figures(
    output: Path,
    runs: Path,
    names: Sequence[str] = (),
    *,
    fit: bool = True,
    only: Sequence[str] = (),
) -> list[Path]:
    """Write figures to the folder `output`; arguments as in `material.prepare` and `drawings`."""
    material = prepare(runs, names, fit=fit)
    paths = []
    for drawing in drawings(material, only):
        paths.append(drawing.write(output))
        log.info("%s: %d kB", paths[-1], paths[-1].stat().st_size // 1000)
    return paths
