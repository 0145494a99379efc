"""Run the notebooks from start to end and keep small outputs in them: `make notebooks`, after a change to one.

What is kept is what a reader on GitHub wants to see, text and figures. Progress bars, warnings of other libraries and
the folders of this machine are left out. A hash of the code stands in the notebook's metadata: a test says when they
differ.
"""

import hashlib
import os
import re
import sys
import tempfile
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HASH = "code_that_made_the_outputs"
"""Key of the metadata."""
WIDGET = "application/vnd.jupyter.widget-view+json"
MAX_LINES = 60
"""Of one output; the rest is counted."""


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """Of all cells of code, in their order."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def execute(path: Path, directory: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs as the kernel gave them; the error of a cell is raised.

    Args:
        path: of the notebook.
        directory: where its kernel works and writes.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(directory)}}).execute()
    return notebook


def keep_small_outputs(notebook: nbformat.NotebookNode, directory: Path) -> None:
    """Leave text and figures, in place, and say which code they are of.

    Args:
        notebook: as executed.
        directory: where it was, which is left out of texts.
    """
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            outputs = [small(output, directory) for output in cell.outputs if WIDGET not in output.get("data", {})]
            cell.outputs = [output for output in outputs if output.get("text") != ""]
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}  # not the patch version of whoever ran it
    notebook.metadata[HASH] = code_hash(notebook)


def small(output: nbformat.NotebookNode, directory: Path) -> nbformat.NotebookNode:
    """An output as it is kept."""
    if "text" in output:
        output.text = plain(output.text, directory)
    if output.get("name") == "stderr":  # beside our own sentences it has what progress bars and warnings write
        output.text = "".join(line for line in output.text.splitlines(keepends=True) if line.startswith("error: "))
    data = output.get("data", {})
    for kind, content in data.items():
        if kind == "image/png":
            data[kind] = fewer_colours(content)
        elif isinstance(content, str):
            data[kind] = plain(content, directory)
    return output


def plain(text: str, directory: Path) -> str:
    """Text without folders of this machine, colours and rewritten lines, cut to the first lines."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text.replace(f"{directory}{os.sep}", "").replace(str(directory), "."))
    text = text.replace(f"{ROOT}{os.sep}", "").replace(sys.prefix, ".venv")
    lines = [line.rpartition("\r")[2] for line in text.splitlines(keepends=True)]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"... {len(lines) - MAX_LINES} more lines\n"]
    return "".join(lines)


def fewer_colours(png: str) -> str:
    """A figure with 64 colours, which is a third of the bytes."""
    buffer = BytesIO()
    Image.open(BytesIO(b64decode(png))).convert("RGB").quantize(64).save(buffer, "PNG", optimize=True)
    return b64encode(buffer.getvalue()).decode()


def main() -> None:
    """Execute those that are named, or all of them."""
    names = sys.argv[1:]
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch).resolve()
        for path in NOTEBOOKS:
            if not names or path.stem in names:
                notebook = execute(path, directory)
                keep_small_outputs(notebook, directory)
                nbformat.write(notebook, path)
                print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
