"""docs/architecture.md and its two drawings against the code: every name exists, every wing is where it is drawn."""

import ast
import re
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/architecture.md"
NAMES = sorted(set(re.findall(r"`([\w/]+\.py)::([\w.]+)`", PAGE.read_text())))
FIGURES = ROOT / "docs/figures"


def texts(figure: str) -> list[str]:
    """The texts of a drawing, from top to bottom as they stand in the file."""
    root = ElementTree.parse(FIGURES / figure).getroot()
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def defined(path: Path) -> set[str]:
    """Classes and functions of a file, with the methods that its classes have themselves."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{member.name}" for member in node.body if isinstance(member, ast.FunctionDef)}
    return names


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_every_name_of_the_walks_exists(path, name):
    assert name in defined(ROOT / path)


def test_the_walks_are_there_and_the_page_is_one_page():
    assert len(NAMES) > 30
    assert len(PAGE.read_text().splitlines()) <= 80


def test_the_wings_are_drawn_as_the_linter_keeps_them():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract["type"] == "layers")["layers"]
    wings = [wing for layer in layers for wing in layer.split(" | ")]
    drawn = [text for text in texts("wings.svg") if text in wings]
    assert drawn == wings
    homes = {
        path.stem for path in (ROOT / "lit_uniopd").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(wings) == homes - {"__init__", "__main__"}


def test_every_file_of_the_step_exists():
    files = [file for text in texts("step.svg") for file in re.findall(r"[\w/]+\.py", text)]
    assert len(files) > 8
    for file in files:
        assert (ROOT / file).exists() or (ROOT / "lit_uniopd" / file).exists(), file
    fields = {
        node.target.id
        for node in ast.walk(ast.parse((ROOT / "lit_uniopd/types.py").read_text()))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    tensors = [name for text in texts("step.svg") for name in re.findall(r"\b\w+_(?:BT|B)\b", text)]
    assert tensors
    assert set(tensors) <= fields
