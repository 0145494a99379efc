"""The notebooks, from start to end, in kernels that were started outside the repository."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from first_run import FirstRun

from notebooks.execute import HASH, NOTEBOOKS, code_hash, execute, plain, small

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, quickstart: FirstRun) -> Path:
    """The working directory of the kernels, with the quickstart's playground."""
    directory = tmp_path_factory.mktemp("elsewhere")
    quickstart.lend_playground(directory)
    return directory


def executed(path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> nbformat.NotebookNode:
    """The notebook with its outputs; an error of a cell is raised."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return execute(path, directory)


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def pictures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in o.get("data", {}) for cell in notebook.cells for o in cell.get("outputs", []))


SHOWN = {
    "swap": (["answers train", "exit status 2", "error: playground:train has no column 'question'"], 0),
    "margin_calibration": (["pairs inverted", "margins were below 0.4", "overestimated"], 1),
    "omni_dpo_weights": (["sure judge, not mastered", "effective sample size", "| weight | quality"], 2),
    "sentinel_one_picture": (["context   There is a dog.", "uncertain", "CHAIR_i"], 1),
    "reading_a_run": (
        ["its teacher", "records; the student's are of steps [0, 20, 40]", "right; the first", "view.html"],
        1,
    ),
}
"""Notebook -> what its outputs say, and how many figures it has."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.thinned(3)
def test_a_notebook_runs_anywhere_from_start_to_end(name, elsewhere, monkeypatch):
    outputs, figures = SHOWN[name]
    notebook = executed(ROOT / f"notebooks/{name}.ipynb", elsewhere, monkeypatch)
    text = printed(notebook)
    for output in outputs:
        assert output in text
    assert "IProgress" not in text  # no warning of Jupyter's that its reader cannot act on
    assert pictures(notebook) == figures
    if name == "reading_a_run":
        page = (elsewhere / "runs/notebook/version_0/view.html").read_text(encoding="utf-8")
        assert '"why": ["best"' in page  # groups of answers are in it


def test_every_notebook_is_run():
    assert sorted(SHOWN) == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_carries_what_it_shows_of_the_code_that_it_has(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata[HASH] == code_hash(notebook), "run `make notebooks`"
    outputs, figures = SHOWN[path.stem]
    text = printed(notebook)
    for output in outputs:
        assert output in text
    assert pictures(notebook) == figures
    texts = [o.text for cell in notebook.cells for o in cell.get("outputs", []) if o.get("name") == "stderr"]
    assert all(line.startswith("error: ") for text in texts for line in text.splitlines())
    assert "\r" not in text
    assert not re.search(r"/(?:tmp|home|root|Users|work)/", path.read_text())
    assert path.stat().st_size < 150_000
    assert notebook.metadata.kernelspec.name == "python3"


def test_outputs_are_kept_without_the_machine_that_made_them(tmp_path):
    assert plain(f"{tmp_path}/runs/x\n", tmp_path) == "runs/x\n"
    assert plain(f"in {tmp_path}: {ROOT}/docs\n", tmp_path) == "in .: docs\n"
    assert plain("\x1b[31mred\x1b[0m\n 10 %\r 99 %\rdone\n", tmp_path) == "red\ndone\n"
    bars = nbformat.v4.new_output("stream", name="stderr", text=" 3 %\nerror: there is no such column\n")
    assert small(bars, tmp_path).text == "error: there is no such column\n"
    assert plain("a line\n" * 70, tmp_path).splitlines()[59:] == ["a line", "... 10 more lines"]


def test_formulas_need_neither_lightning_nor_transformers():
    program = (
        "import json, sys, lit_uniopd.functional as f\n"
        "print(json.dumps([[n for n in f.__all__ if not hasattr(f, n)],\n"
        "    [m for m in ('lightning', 'transformers', 'peft', 'datasets', 'pytorch_lightning') if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == [[], []]
