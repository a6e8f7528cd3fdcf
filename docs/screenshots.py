"""Pictures of MLflow's pages for docs/mlflow.md, from a real browser.

    python docs/screenshots.py [PROJECT] [--override '{"seeds": [1, 2, 3]}']

PROJECT is a checkout in which `make ablation` has ended. Its runs are mirrored into a store of its
own, so nothing in PROJECT changes; `fadepth ui` serves it on a free port, headless Chromium opens
the links that it prints, and both end with this script. A page that does not show what is waited
for is an error, and then no picture is replaced. `versions.json` beside the pictures says which
MLflow they show; tests/test_screenshots.py fails once another is installed.

Needs Chromium: Debian's (`apt-get install chromium`) or Playwright's (`playwright install
chromium`).
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import monotonic

from PIL import Image
from playwright.sync_api import Browser, Error, Page, Playwright, Route, expect, sync_playwright

from fadepth.errors import FadepthError
from fadepth.files import write_atomic
from fadepth.report.small_png import small_png

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 1440, 900
_SECONDS = 120
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
#: Without these Chromium calls its maker at each start.
_SWITCHES = [
    *("--disable-quic", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
]
#: MLflow opens a chat panel over the page at the first visit.
_NO_PANEL = """
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
"""


@dataclass(frozen=True)
class Links:
    """What `fadepth ui` prints for one study: its name and the addresses of its three pages."""

    experiment: str
    charts: str
    table: str
    compare: str


@dataclass(frozen=True)
class Shot:
    """A picture (PNG) of a page, and the page's words."""

    png: bytes
    words: str


# ------------------------------------------------------------------------------------- browser


def find_browser() -> str | None:
    """Path of a Chromium on this machine; None: there is none."""
    found = next((path for name in _PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        with sync_playwright() as playwright:
            own = playwright.chromium.executable_path
        found = own if Path(own).exists() else None
    return found


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium, which ends with this block.

    Raises:
        FadepthError: there is none.
    """
    program = find_browser()
    if program is None:
        raise FadepthError(
            "there is no Chromium here: apt-get install chromium, or playwright install chromium"
        )
    with sync_playwright() as playwright:
        started = _launch(playwright, program)
        try:
            yield started
        finally:
            started.close()


def _launch(playwright: Playwright, program: str) -> Browser:
    return playwright.chromium.launch(executable_path=program, args=_SWITCHES)


@contextlib.contextmanager
def _page(browser: Browser, address: str) -> Iterator[Page]:
    """A page that nobody has visited before; only this machine is asked for anything."""
    context = browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, locale="en-US", timezone_id="UTC"
    )
    context.set_default_timeout(1000 * _SECONDS)
    context.add_init_script(_NO_PANEL)

    def local_only(route: Route) -> None:
        if re.match(r"https?://127\.0\.0\.1[:/]|data:|blob:", route.request.url):
            route.continue_()
        else:
            route.abort()

    context.route("**/*", local_only)
    try:
        page = context.new_page()
        page.goto(address)
        yield page
    finally:
        context.close()


def _shot(page: Page) -> Shot:
    """The page once it has stopped changing: charts are drawn a little after their data came."""
    # Where the mouse is, MLflow shows hints.
    page.mouse.move(WIDTH / 2, 3)
    deadline = monotonic() + _SECONDS
    before, now = b"", page.screenshot()
    while before != now and monotonic() < deadline:
        page.wait_for_timeout(700)
        before, now = now, page.screenshot()
    return Shot(now, page.inner_text("body"))


# --------------------------------------------------------------------------------------- pages


def _wait_for_runs(page: Page) -> None:
    page.get_by_text("matching runs").wait_for()
    page.locator("[role=gridcell] a").first.wait_for()


def shoot_table(browser: Browser, links: Links) -> Shot:
    """The prepared list: variants, sorted by Abs Rel."""
    with _page(browser, links.table) as page:
        _wait_for_runs(page)
        return _shot(page)


def shoot_groups(browser: Browser, links: Links, factor: str) -> Shot:
    """The list grouped by a factor: one line a level with the mean of each metric."""
    with _page(browser, links.table) as page:
        _wait_for_runs(page)
        page.get_by_role("button", name="Group by").click()
        page.get_by_role("menuitemcheckbox", name=factor, exact=True).click()
        page.keyboard.press("Escape")
        page.get_by_text("(average)").first.wait_for()
        return _shot(page)


def shoot_filtered(browser: Browser, links: Links, condition: str) -> Shot:
    """The list with another filter, sorted by seed from the menu."""
    with _page(browser, links.table) as page:
        _wait_for_runs(page)
        count = page.get_by_text("matching runs").inner_text()
        search = page.get_by_placeholder("metrics.rmse")
        search.fill(condition)
        search.press("Enter")
        expect(page.get_by_text("matching runs")).not_to_have_text(count)
        page.get_by_role("button", name="Sort:").click()
        page.get_by_role("menuitemcheckbox", name="seed", exact=True).click()
        expect(page.get_by_role("button", name="Sort: seed")).to_be_visible()
        return _shot(page)


def shoot_charts(browser: Browser, links: Links) -> Shot:
    """The prepared charts: bars of all runs, baselines among them."""
    with _page(browser, links.charts) as page:
        _wait_for_runs(page)
        page.locator(".barlayer .point").nth(5).wait_for()
        return _shot(page)


def shoot_panels(browser: Browser, links: Links) -> Shot:
    """The same page, scrolled to the error images of all runs."""
    with _page(browser, links.charts) as page:
        _wait_for_runs(page)
        heading = page.get_by_text("panels", exact=True)
        heading.evaluate("element => element.scrollIntoView({block: 'start'})")
        page.locator("img[src^='blob:'], img[src*='get-artifact']").nth(2).wait_for()
        return _shot(page)


def shoot_compare(browser: Browser, links: Links) -> Shot:
    """Variants side by side: a line from its factors' levels to its Abs Rel."""
    with _page(browser, links.compare) as page:
        page.locator(".parcoords").wait_for()
        page.get_by_text("Run Name:").wait_for()
        return _shot(page)


def shoot(browser: Browser, links: Links, factor: str) -> dict[str, Shot]:
    """All pictures of a study, by their file's name; `factor` is what the list is grouped by."""
    pages: dict[str, Callable[[], Shot]] = {
        "table": lambda: shoot_table(browser, links),
        "groups": lambda: shoot_groups(browser, links, factor),
        "charts": lambda: shoot_charts(browser, links),
        "panels": lambda: shoot_panels(browser, links),
        "compare": lambda: shoot_compare(browser, links),
    }
    shots = {}
    for name, take in pages.items():
        try:
            shots[f"{name}.png"] = take()
        except (Error, AssertionError) as error:
            said = str(error).strip().splitlines()[0]
            raise FadepthError(
                f"MLflow's page '{name}' does not show what docs/screenshots.py waits for: {said}"
            ) from error
    return shots


# -------------------------------------------------------------------------------------- server


def free_port() -> int:
    """A port on the loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(project: Path, store: str, study: str, *flags: str) -> Iterator[Links]:
    """`fadepth ui` in a project, and where it shows a study; it ends with this block.

    Raises:
        FadepthError: it did not start, or shows no such study.
    """
    command = [sys.executable, "-m", "fadepth", "ui", "--store", store, "--port", str(free_port())]
    job = subprocess.Popen(
        [*command, *flags],
        cwd=project,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield _links(_said(job), study)
    finally:
        # As Ctrl-C: it ends its server itself.
        job.send_signal(signal.SIGINT)
        job.communicate()


def _said(job: "subprocess.Popen[str]") -> str:
    """What it prints until it serves."""
    assert job.stdout is not None
    said = ""
    for line in job.stdout:
        said += line
        if "Ctrl-C ends it" in line:
            return said
    raise FadepthError(f"'fadepth ui' ended before it served: {said.strip()[-500:]}")


def _links(said: str, study: str) -> Links:
    """The pages of the first experiment whose name begins with the study's."""
    form = r"^  ({}\S*)$\n    charts +(\S+)\n    table +(\S+)\n    compare +(\S+)$"
    found = re.search(form.format(re.escape(study)), said, re.MULTILINE)
    if found is None:
        raise FadepthError(f"MLflow shows no study '{study}' here: run make ablation first\n{said}")
    return Links(*found.groups())


def version_of(links: Links) -> str:
    """Version of the MLflow that serves the pages."""
    base = links.table.partition("/#")[0]
    with urllib.request.urlopen(f"{base}/version", timeout=_SECONDS) as answer:
        return str(answer.read().decode().strip())


# --------------------------------------------------------------------------------------- files


def write(output: Path, shots: dict[str, Shot], versions: dict[str, str]) -> None:
    """Write all pictures, and beside them what they show."""
    pictures = {name: small_png(Image.open(BytesIO(shot.png))) for name, shot in shots.items()}
    output.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        write_atomic(output / name, content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in pictures.items()}
    record = {**versions, "pictures": hashes}
    write_atomic(output / "versions.json", json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Take all pictures of the study `components` of a project."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("project", type=Path, nargs="?", default=Path(), help="where runs/ is")
    parser.add_argument("--output", type=Path, default=HERE / "screenshots")
    parser.add_argument("--preset", default="config/quick.yaml", help="that the runs were made by")
    parser.add_argument("--override", default="{}", help="settings of --config, as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        preset = ("--preset", arguments.preset, "--override", arguments.override)
        with (
            served(arguments.project, store, "components-", *preset) as links,
            browser() as chromium,
        ):
            shots = shoot(chromium, links, "apx")
            versions = {"mlflow": version_of(links), "chromium": chromium.version}
    write(arguments.output, shots, {**versions, "experiment": links.experiment})
    print(f"{len(shots)} pictures of MLflow {versions['mlflow']}: {arguments.output}")


if __name__ == "__main__":
    try:
        main()
    except FadepthError as error:
        sys.exit(f"screenshots: {error}")
