"""docs/coming_from.md: TRL's names are those of the TRL that is installed, read in its sources."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs/coming_from.md").read_text()
SOURCES = {
    "trl": ("trainer/*.py", "experimental/*/*.py"),
    "transformers": ("training_args.py",),
    "peft": ("tuners/lora/config.py",),
}


def folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"no {package} here")
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Fields of configs, arguments of functions, classes, and texts such as the names of losses."""
    names: set[str] = set()
    for package, patterns in SOURCES.items():
        for file in (file for pattern in patterns for file in folder(package).glob(pattern)):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    names.add(node.target.id)
                elif isinstance(node, ast.arg):
                    names.add(node.arg)
                elif isinstance(node, ast.ClassDef):
                    names.add(node.name)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    names.add(node.value)
    return names


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def their_names(title: str) -> list[str]:
    """Of the first column of a section's table, and of its script."""
    text = section(title)
    cells = [row.split("|")[1] for row in re.findall(r"^\| .*$", text, re.MULTILINE)]
    codes = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
    script = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    keywords = [node.arg for block in script for node in ast.walk(ast.parse(block)) if isinstance(node, ast.keyword)]
    words = [word for code in codes for word in re.findall(r"[A-Za-z_]\w+", re.sub(r"=.*", "", code))]
    return sorted({*words, *(word for word in keywords if word)} - {"data_files", "split"})


@pytest.mark.parametrize("title", ["From TRL's distillation", "From TRL's DPO"])
def test_trls_names_exist(title, known):
    names = their_names(title)
    assert len(names) > 10
    assert [name for name in names if name not in known] == []


def test_a_name_that_trl_does_not_have_would_be_seen(known):
    assert "max_completion_lenght" not in known
    assert "teacher_model_server_urls" not in known
