"""What layers hand on, kept on the host: the same gradients, and the bytes that are counted by hand."""

from typing import Any

import pytest
import torch
from tiny import make_model

from lit_uniopd.errors import UserError
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs, activation_offloading

LAYERS, WIDTH = 2, 64
PROMPTS = [[5, 6, 7] * 9] * 2 + [[9, 10, 11, 12, 13] * 3]
TOKENS_BT = torch.tensor([[14, 15, 2, 0], [16, 2, 0, 0], [17, 18, 19, 20]])
MASK_BT = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
PACKED_TOKENS = 27 + 15 + 3 + 2 + 4
CHECKPOINTED: dict[str, Any] = {"gradient_checkpointing": True}


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> str:
    return str(make_model(tmp_path_factory.mktemp("student"), width=WIDTH))


@pytest.fixture
def copied(monkeypatch) -> list[torch.Tensor]:
    """What was copied to the host."""
    copies: list[torch.Tensor] = []
    to_host = activation_offloading._to_host

    def recording(tensor: torch.Tensor) -> Any:
        kept = to_host(tensor)
        if not isinstance(kept, torch.Tensor):
            copies.append(kept.copy)
        return kept

    monkeypatch.setattr(activation_offloading, "_to_host", recording)
    return copies


def gradients(path: str, **options: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    policy = Policy.load(PolicyArgs(path=path, **options), trainable=True)
    policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)[0].square().sum().backward()
    return [p.grad for p in policy.parameters() if p.grad is not None]


@pytest.mark.parametrize("options", [{}, {"lora": LoraArgs(rank=4, alpha=8)}, {"share_prompts": False}])
def test_no_gradient_changes(options, student, copied):
    expected = gradients(student, **CHECKPOINTED, **options)
    assert not copied
    actual = gradients(student, **CHECKPOINTED, activation_offloading=True, **options)
    assert copied
    assert all(a.equal(b) for a, b in zip(actual, expected, strict=True))


def test_the_inputs_of_layers_are_copied_and_nothing_else(student, copied):
    gradients(student, **CHECKPOINTED, activation_offloading=True)
    layers = [copy for copy in copied if copy.shape == (1, PACKED_TOKENS, WIDTH)]
    # And those of the last norm, which is no part of a layer.
    assert len(layers) >= LAYERS
    assert sum(copy.nbytes for copy in copied) <= (LAYERS + 3) * PACKED_TOKENS * WIDTH * 4


def test_nothing_is_copied_without_gradients(student, copied):
    policy = Policy.load(PolicyArgs(path=student, **CHECKPOINTED, activation_offloading=True), trainable=True)
    with policy.answering():
        policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    assert not copied


def test_it_needs_checkpointing(student):
    with pytest.raises(UserError, match=r"set --model\.student\.gradient_checkpointing true too"):
        Policy.load(PolicyArgs(path=student, activation_offloading=True), trainable=True, flag="model.student")
    Policy.load(PolicyArgs(path=student, activation_offloading=True), trainable=False)
