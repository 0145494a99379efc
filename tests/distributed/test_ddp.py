import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import module, prompts, trainer

from lit_uniopd.types import PromptBatch


@pytest.mark.slow
def test_two_ranks_take_the_step_of_one(model_dirs, tmp_path):
    """7 answers of differing length on 2 ranks: 4 and 3 answers, unequal numbers of micro-batches."""
    model = module(model_dirs)
    model.trainer = trainer(tmp_path)
    model.trainer.state.fn = "fit"  # type: ignore[assignment]
    model.configure_model()
    rollouts = model.answer(PromptBatch(prompts(3)))
    model.score(rollouts)
    rollouts[list(range(7))].save(tmp_path / "rollouts.pt")

    results = []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.pt"
        script = Path(__file__).parent / "ddp_update.py"
        arguments = [str(ranks), str(tmp_path / "rollouts.pt"), str(out), *model_dirs.values()]
        done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(torch.load(out, weights_only=True))
    one, two = results
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
    start = {name: p.detach() for name, p in model.named_parameters()}
    assert any(not torch.equal(start[name], p) for name, p in one["weights"].items())
    for name, p in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], p, atol=1e-6, rtol=1e-5)
