"""The page of a run, in a real browser."""

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from view_data import BROWSER, caption, group, main_status, pair, sentence_pair

from lit_uniopd.utils.jsonl import append_lines
from lit_uniopd.view import GROUPS_FILE, PAIRS_FILE


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """Of 5,000 answers, with its page."""
    return write_run(tmp_path_factory.mktemp("run"), 625)


@pytest.fixture(scope="session")
def short_run(tmp_path_factory) -> Path:
    """The same with 160 answers."""
    return write_run(tmp_path_factory.mktemp("short_run"), 20)


def write_run(root: Path, groups: int) -> Path:
    rng = random.Random(0)
    append_lines(root / GROUPS_FILE, [group(i, rng) for i in range(groups)])
    Image.new("RGB", (64, 48), (90, 120, 60)).save(root / "dog.png")
    sentences = [sentence_pair(str(root / "dog.png")), sentence_pair(str(root / "gone.png"))]
    append_lines(root / PAIRS_FILE, [pair(i) for i in range(30)] + sentences)
    skipped = {"id": "c3", "images": ["broken.png"], "unreadable": "cannot identify image file"}
    append_lines(root / "sentences.captions.jsonl", [caption(str(root / "dog.png")), caption("gone.png"), skipped])
    main_status(["view", str(root)])
    return root


@pytest.fixture(scope="session")
def browser():
    """A headless browser."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev extra")
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def open_page(browser: Any, url: str, **options: Any) -> Any:
    """A page, with the URLs that it requests and the errors of its scripts."""
    tab = browser.new_page(**{"viewport": {"width": 1400, "height": 900}, **options})
    tab.request_urls, tab.script_errors = [], []
    tab.on("request", lambda request: tab.request_urls.append(request.url))
    tab.on("pageerror", lambda error: tab.script_errors.append(str(error)))
    tab.on("console", lambda message: tab.script_errors.append(message.text) if message.type == "error" else None)
    tab.goto(url)
    return tab


@pytest.fixture
def opened(browser):
    """Opens files in pages that are closed at the end, and that no script of theirs may have failed in."""
    tabs = []

    def open_file(file: Path, fragment: str = "", **options: Any) -> Any:
        tabs.append(open_page(browser, file.as_uri() + fragment, **options))
        return tabs[-1]

    yield open_file
    for tab in tabs:
        assert tab.script_errors == []
        tab.close()


@pytest.fixture(scope="module")
def tab(run, browser):
    """The page of the run, opened once for a file of tests."""
    tab = open_page(browser, (run / "view.html").as_uri())
    yield tab
    tab.close()


@pytest.fixture
def opened_page(tab, run):
    """The page as it opens."""
    tab.goto("about:blank")  # else only what is behind the # would change
    tab.goto((run / "view.html").as_uri())
    return tab
