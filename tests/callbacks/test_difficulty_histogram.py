"""The figure of offline balancing."""

import pytest
from tiny import Prompts, module, prompts, trainer

from callbacks import DifficultyHistogram
from lit_uniopd.errors import UserError


def test_a_histogram_without_pass_counts_is_refused(model_dirs, tmp_path):
    with pytest.raises(UserError, match=r"--data\.difficulty\.path"):
        trainer(tmp_path, callbacks=[DifficultyHistogram()]).fit(module(model_dirs), Prompts(prompts(4)))
