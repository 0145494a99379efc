"""The layout's promises: one parent directory, light imports, and the core never imports its plug-ins."""

import subprocess
import sys
from pathlib import Path

import callbacks
import datamodules
import lit_uniopd


def test_the_three_packages_are_ours_and_side_by_side():
    """Another distribution could ship a top-level `callbacks`; then everything that follows would be about that one."""
    roots = {Path(str(package.__file__)).parent.parent for package in (lit_uniopd, callbacks, datamodules)}
    assert roots == {Path(__file__).parent.parent}


def test_importing_the_package_loads_nothing_heavy():
    code = "import lit_uniopd, sys; print([m for m in ('torch', 'transformers', 'lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_core_imports_neither_callbacks_nor_datamodules_nor_what_few_runs_need():
    """PEFT brings bitsandbytes, a second between a command and its answer."""
    packages = ("callbacks", "datamodules", "peft", "bitsandbytes", "datasets")
    code = f"import lit_uniopd.cli, lit_uniopd.modules, sys; print([m for m in {packages} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
