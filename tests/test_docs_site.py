"""`make docs`: the site builds, needs no network, draws its equations and is searched from the file system."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from view_data import BROWSER

from docs import hooks

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


def equations(page: Path) -> list[str]:
    """The LaTeX of a page: in fences, and within paragraphs; code aside."""
    fences = re.findall(r"^```(\w*).*?\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for language, text in fences if language == "math"] + re.findall(r"\$([^$\n]+)\$", prose)


EQUATIONS = {page.name: found for page in PAGES if (found := equations(page))}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


def test_it_builds_and_needs_no_network(site):
    page = (site / "api/functional.html").read_text()
    assert 'id="lit_uniopd.functional.opd.opd_loss"' in page
    for file in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"?(?:https?:)?//", file.read_text())
        assert not fetched, file


def names_in_the_code() -> set[str]:
    """Arguments, fields, functions, classes and texts of the packages."""
    names: set[str] = set()
    for package in ("lit_uniopd", "callbacks", "datamodules"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    names.add(node.target.id)
                elif isinstance(node, ast.arg):
                    names.add(node.arg)
                elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                    names.add(node.name)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    names.add(node.value)
    return names


@pytest.mark.parametrize("name", ["uni_opd.md", "omni_dpo.md", "sentinel.md"])
def test_every_symbol_names_what_it_is_in_the_code(name):
    tables = re.findall(
        r"^\| symbol \| in the code.*?\n\n", (ROOT / "docs" / name).read_text(), re.MULTILINE | re.DOTALL
    )
    rows = [row.split(" | ") for table in tables for row in table.strip().splitlines()[2:]]
    assert len(rows) >= 6
    known = names_in_the_code()
    for symbol, where, *_ in rows:
        codes = re.findall(r"`([^`]+)`", where)
        assert codes, symbol
        words = [word for code in codes for word in re.findall(r"(?<![-.\w])[A-Za-z_]\w+", re.sub(r"--\S+", "", code))]
        unknown = [word for word in words if word not in known | {"callbacks", "sum"}]
        assert not unknown, symbol


def test_the_methods_pages_have_equations():
    assert {"methods.md", "uni_opd.md", "omni_dpo.md", "sentinel.md"} <= set(EQUATIONS)


@pytest.mark.parametrize("name", EQUATIONS)
def test_every_equation_is_drawn(name, site):
    page = (site / name).with_suffix(".html").read_text()
    assert page.count("<math") == len(EQUATIONS[name])
    text = re.sub(r"<(script|code|pre|annotation)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert "arithmatex" not in text
    assert "$" not in re.sub(r"<head>.*?</head>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize(("name", "latex"), [(name, latex) for name in EQUATIONS for latex in EQUATIONS[name]])
def test_no_command_is_left_as_letters(name, latex):
    """What the converter does not know it writes down as it stands."""
    drawn = hooks.mathml(latex, block=True)
    assert "\\" not in drawn
    assert not re.search(r"<mi>&(amp;)?</mi>", drawn)  # a column of an environment that it does not know


def test_an_equation_is_what_it_says():
    drawn = hooks.mathml(r"\frac{1}{B} \sum_{i=1}^{B} \beta_i", block=True)
    assert re.sub(r"<[^>]+>", "", drawn).replace("&#x0003D;", "=").replace("&#x02211;", "∑") == "1B∑i=1Bβi".replace(
        "β", "&#x003B2;"
    )


def test_an_unknown_command_would_be_seen():
    assert "\\" in hooks.mathml(r"\clipped{x}", block=False)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_search_works_from_the_file_system(site):
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev extra")
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        urls: list[str] = []
        tab.on("request", lambda request: urls.append(request.url))
        tab.goto((site / "index.html").as_uri())
        tab.locator("input.md-search__input").click()
        tab.locator("input.md-search__input").press_sequentially("margin shift")
        tab.locator(".md-search-result__link").first.wait_for()
        found = tab.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.href)")
        browser.close()
    assert any("uni_opd.html" in link for link in found)
    assert {url.partition(":")[0] for url in urls} <= {"file", "about", "data", "blob"}
