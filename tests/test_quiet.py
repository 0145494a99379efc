"""What is left out of the terminal, and that nothing else is."""

import logging
import warnings

import pytest
from lightning import Trainer

from lit_uniopd.quiet import UNHELPFUL, hush


@pytest.mark.parametrize(
    ("message", "category"),
    [
        ("`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)`.", FutureWarning),
        ("`is_gradient_checkpointing` is deprecated and will be removed.", FutureWarning),
        ("LightningCLI's args parameter is intended to run from within Python.", UserWarning),
        ("The dirpath has changed from 'a' to 'b', therefore `best_model_score` won't be reloaded.", UserWarning),
    ],
)
def test_what_no_user_can_act_on_is_left_out(message, category):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        hush()
        warnings.warn(message, category, stacklevel=1)
        assert not told
        warnings.warn("See: " + message, category, stacklevel=1)  # all else is shown
        warnings.warn(message, RuntimeWarning, stacklevel=1)
    assert len(told) == 2
    assert len(UNHELPFUL) == 4  # each has a case here


def test_lightning_advertises_nothing_and_tells_what_the_run_is_on(tmp_path, caplog):
    options = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "default_root_dir": tmp_path}
    hush()
    hush()  # twice is once
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        Trainer(**options, logger=True)
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("GPU available") for line in said)
    assert not any("litlogger" in line or "LitLogger" in line for line in said)
    assert len(logger.filters) == 1
