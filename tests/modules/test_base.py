"""What every objective inherits."""

import pytest
import torch
from tiny import Prompts, prompts, sgd, trainer

from lit_uniopd.errors import UserError
from lit_uniopd.modules import SFT
from lit_uniopd.policy import PolicyArgs


def trained(path: str, tmp_path, *, gradient_clip: float | None = None, **options) -> torch.Tensor:
    """All weights behind one step."""
    module = SFT(PolicyArgs(path=path), optimizer=sgd, seed=1, gradient_clip=gradient_clip)
    trainer(tmp_path, max_steps=1, **options).fit(module, Prompts(prompts(4)))
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_gradient_clip_is_the_trainers_clipping_under_one_name(model_dirs, tmp_path):
    """SGD's step has the length of the clipped gradient: 0.1 times 0.01."""
    path = model_dirs["student"]
    start = trained(path, tmp_path, gradient_clip=1e-12)
    clipped = trained(path, tmp_path, gradient_clip=0.01)
    assert (clipped - start).norm().item() == pytest.approx(0.001, rel=1e-3)
    assert torch.equal(clipped, trained(path, tmp_path, gradient_clip_val=0.01))
    assert (trained(path, tmp_path) - start).norm().item() > 0.01


def test_two_limits_that_differ_are_refused(model_dirs, tmp_path):
    with pytest.raises(UserError, match=r"gradient_clip_val 0.2 and --model.gradient_clip 0.1 differ; give --model"):
        trained(model_dirs["student"], tmp_path, gradient_clip=0.1, gradient_clip_val=0.2)
