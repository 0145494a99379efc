"""docs/gpu.md: the table, between two marks, with its command, versions and device."""

import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.gpu.setting import Row
from lit_uniopd.memory.plan import padded

PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
BEGIN, END = "<!-- gpu -->", "<!-- end of gpu -->"
PACKAGES = ("torch", "transformers", "lightning", "bitsandbytes", "vllm")


def versions() -> str:
    names = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            names.append(f"no {package}")
    return ", ".join(names)


def table(rows: Sequence[Row]) -> str:
    cells = [(row.part, row.what, row.value, row.note) for row in rows]
    return padded(("part", "what", "value", ""), [tuple(cell.replace("|", "/") for cell in row) for row in cells])


def section(rows: Sequence[Row], device: str, seconds: float, arguments: Sequence[str] = ()) -> str:
    """What the page says of a run."""
    command = " ".join(["python -m benchmarks.gpu", *arguments])
    return f"`{command}` on {device}: {seconds:.0f} s in all. {versions()}.\n\n{table(rows)}"


def write(text: str, page: Path = PAGE) -> None:
    """Replace what stands between the marks."""
    content = page.read_text()
    marked = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not marked.search(content):
        sys.exit(f"{page} has no {BEGIN}.")
    page.write_text(marked.sub(lambda _: f"{BEGIN}\n{text}\n{END}", content))
