"""A headless Chromium without a network; where there is none, these tests are skipped and say why."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = (
    "--no-sandbox",  # the tests may run as root, where Chromium's own sandbox does not start
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--disable-dev-shm-usage",
)


@dataclass
class Opened:
    """A page of a report, what it asked for besides itself, and what it complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser of Debian's package ``chromium`` (or another Chrome).

    Of one module alone: while the driver is open its event loop counts as running, and no other may be run.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the package playwright is missing"
    )
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no chromium is installed; on Debian: apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(SWITCHES))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def open_page(chromium: Any) -> Iterator[Callable[..., Opened]]:
    """Opens a file as a page without a network, and waits until its completions can be browsed."""
    contexts = []

    def open_file(file: Path, width: int = 1440, scheme: str = "light") -> Opened:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        opened = Opened(context.new_page())
        page = opened.page
        page.on("request", lambda request: _note_request(opened, request.url, file))
        page.on("console", lambda message: _note_complaint(opened, message))
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
        return opened

    yield open_file
    for context in contexts:
        context.close()


def _note_request(opened: Opened, url: str, file: Path) -> None:
    if url != file.as_uri() and not url.startswith("data:"):
        opened.requests.append(url)


def _note_complaint(opened: Opened, message: Any) -> None:
    if message.type in ("error", "warning"):
        opened.complaints.append(message.text)
