"""What is left out of the terminal, and that nothing else is."""

import logging
import subprocess
import sys
import warnings

import pytest
from lightning import Trainer
from tqdm import TqdmWarning

from lit_uniopd.utils.warning_filters import UNHELPFUL, install_filters, is_about_the_run


@pytest.mark.parametrize(
    ("message", "category"),
    [
        ("`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)`.", FutureWarning),
        ("`is_gradient_checkpointing` is deprecated and will be removed.", FutureWarning),
        ("LightningCLI's args parameter is intended to run from within Python.", UserWarning),
        ("The dirpath has changed from 'a' to 'b', therefore `best_model_score` won't be reloaded.", UserWarning),
        ("MLFlow only allows '_', '/', '.' and special characters in names.", RuntimeWarning),
        ("IProgress not found. Please update jupyter and ipywidgets.", TqdmWarning),
    ],
)
def test_what_no_user_can_act_on_is_left_out(message, category):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        install_filters()
        warnings.warn(message, category, stacklevel=1)
        assert not caught
        warnings.warn("See: " + message, category, stacklevel=1)  # all else is shown
        if category is not TqdmWarning:  # which is of no kind but Warning, so that any kind is left out
            warnings.warn(message, ResourceWarning, stacklevel=1)
    assert len(caught) == 1 + (category is not TqdmWarning)
    assert len(UNHELPFUL) == 6  # each has a case here


def test_a_kernel_that_nobody_asked_for_is_not_missed(caplog):
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    install_filters()
    install_filters()  # a second call changes nothing
    with caplog.at_level(logging.INFO):
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'")
        logger.warning("Something else failed to load.")
    assert caplog.messages == ["Something else failed to load."]
    assert logger.filters.count(is_about_the_run) == 1


def test_what_is_said_while_libraries_are_imported_is_left_out_too():
    """A notebook that imports anything of ours first sees none of it."""
    program = (
        "import lit_uniopd, logging, warnings\n"
        "warnings.warn('IProgress not found. Please update jupyter', Warning)\n"
        "logging.getLogger('bitsandbytes.backends.cpu.ops').warning('Failed to load CPU gemm_4bit_forward from')\n"
        "warnings.warn('All else.')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "All else." in done.stderr
    assert "IProgress" not in done.stderr
    assert "gemm_4bit" not in done.stderr


def test_lightning_advertises_nothing_and_tells_what_the_run_is_on(tmp_path, caplog):
    options = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "default_root_dir": tmp_path}
    install_filters()
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        Trainer(**options, logger=True)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("GPU available") for line in lines)
    assert not any("litlogger" in line or "LitLogger" in line for line in lines)
    assert len(logger.filters) == 1
