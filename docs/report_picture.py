"""A picture of the page of a run, by a headless Chromium without a network; ``pictures.py`` writes it.

Pictures of a browser differ from one version to the next in a few bytes, so no test draws them again.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Sequence

from grpo.report.folder import RunFolder
from grpo.report.html.page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = ["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"]
WIDTH = 1200
HEIGHT = 1500
COLOURS = 64
LIMIT_BYTES = 150_000


def missing() -> str:
    """What a picture of a page needs and is not here, in a sentence; empty if all is."""
    try:
        import playwright  # noqa: F401, PLC0415  asked for by nothing else
    except ImportError:
        return "pictures of the report are left as they are: the package playwright is missing"
    if not any(map(shutil.which, BROWSERS)):
        return "pictures of the report are left as they are: no chromium is installed (Debian: apt install chromium)"
    return ""


def report_pictures(runs: Sequence[Path], schemes: dict[str, Path]) -> None:
    """Write the upper part of the page about `runs` to a PNG for each colour scheme, ``light`` and ``dark``."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  optional

    browser_path = next(filter(None, map(shutil.which, BROWSERS)))
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        page_file = write_report([RunFolder.at(run) for run in runs], Path(name) / "report.html")
        browser = driver.chromium.launch(executable_path=browser_path, args=SWITCHES)
        for scheme, file in schemes.items():
            context = browser.new_context(
                viewport={"width": WIDTH, "height": HEIGHT},
                color_scheme="dark" if scheme == "dark" else "light",
                offline=True,
            )
            page = context.new_page()
            page.goto(page_file.as_uri())
            page.wait_for_selector("html[data-ready]", state="attached", timeout=120_000)
            file.write_bytes(_small(page.screenshot()))
            context.close()
        browser.close()


def _small(picture: bytes) -> bytes:
    """The PNG with few colours, as a page of text and lines needs no more."""
    from PIL import Image  # noqa: PLC0415  comes with matplotlib

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    written = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    small = written.getvalue()
    assert len(small) <= LIMIT_BYTES, f"{len(small)} bytes are too many for a picture in a page"
    return small
