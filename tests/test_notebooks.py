"""The notebooks, from start to end, in kernels that were started outside the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from first_run import FirstRun
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


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
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(directory)}}).execute()
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def pictures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in o.get("data", {}) for cell in notebook.cells for o in cell.get("outputs", []))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "outputs", "figures"),
    [
        ("swap", ["answers train", "exit status 2", "error: playground:train has no column 'question'"], 0),
        ("margin_calibration", ["pairs inverted", "margins were below 0.4", "overestimated"], 1),
        ("omni_dpo_weights", ["sure judge, not mastered", "effective sample size", "| weight | quality"], 2),
        ("sentinel_one_picture", ["context   There is a dog.", "uncertain", "CHAIR_i"], 1),
        (
            "reading_a_run",
            ["its teacher", "records; the student's are of steps [0, 20, 40]", "right; the first", "view.html"],
            1,
        ),
    ],
)
def test_a_notebook_runs_anywhere_from_start_to_end(name, outputs, figures, elsewhere, monkeypatch):
    notebook = executed(ROOT / f"notebooks/{name}.ipynb", elsewhere, monkeypatch)
    text = printed(notebook)
    for output in outputs:
        assert output in text
    assert "IProgress" not in text  # no warning of Jupyter's that its reader cannot act on
    assert pictures(notebook) == figures
    if name == "reading_a_run":
        page = (elsewhere / "runs/notebook/version_0/view.html").read_text(encoding="utf-8")
        assert '"why": ["best"' in page  # groups of answers are in it


def test_every_notebook_is_run_and_none_carries_outputs():
    """Outputs grow old and make changes unreadable: they are not kept."""
    assert [path.stem for path in NOTEBOOKS] == [
        "margin_calibration",
        "omni_dpo_weights",
        "reading_a_run",
        "sentinel_one_picture",
        "swap",
    ]
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code), path.name
        assert path.stat().st_size < 30_000, path.name
        assert notebook.metadata.kernelspec.name == "python3"


def test_formulas_need_neither_lightning_nor_transformers():
    program = (
        "import json, sys, lit_uniopd.functional as f\n"
        "print(json.dumps([[n for n in f.__all__ if not hasattr(f, n)],\n"
        "    [m for m in ('lightning', 'transformers', 'peft', 'datasets', 'pytorch_lightning') if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == [[], []]
