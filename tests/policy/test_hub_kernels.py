"""Kernels of the hub: where they are refused, and when they are chosen. The hub and the GPU are stand-ins."""

from typing import Any

import pytest
import torch
from tiny import make_model
from transformers import PreTrainedModel

from lit_uniopd.errors import UserError
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs, hub_kernels


@pytest.fixture
def chosen(monkeypatch) -> list[tuple[str, bool]]:
    """Where and in which mode kernels were chosen."""
    calls: list[tuple[str, bool]] = []

    def choose(self: PreTrainedModel, use_kernels: bool, *_: Any) -> None:
        if use_kernels:  # from_pretrained says that it wants none
            calls.append((next(self.parameters()).device.type, self.training))
        self._use_kernels = use_kernels

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "_gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(PreTrainedModel, "set_use_kernels", choose)
    return calls


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4)])
@pytest.mark.parametrize("trainable", [False, True])
def test_they_are_chosen_once_for_training(model_dirs, chosen, lora, trainable):
    policy = Policy.load(PolicyArgs(path=model_dirs["student"], use_kernels=True, lora=lora), trainable=trainable)
    assert policy.training == trainable
    for _ in range(2):
        with policy.answering():
            pass
    policy.train().eval()
    assert chosen == [("cpu", True)]


def test_what_cannot_be_is_refused_before_loading(model_dirs, tmp_path, monkeypatch):
    args: dict[str, Any] = {"path": model_dirs["student"], "use_kernels": True}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"--policy\.use_kernels takes kernels for GPUs"):
        Policy.load(PolicyArgs(**args), trainable=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: False)
    with pytest.raises(UserError, match=r"--policy\.use_kernels needs the package kernels"):
        Policy.load(PolicyArgs(**args), trainable=False)
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: True)
    options: list[dict[str, Any]] = [{"compile": True}, {"quantization": "4bit", "lora": LoraArgs()}]
    for option in options:
        with pytest.raises(UserError, match=r"--policy\.use_kernels does not go with --policy\.(compile|quant)"):
            hub_kernels.check_kernels(PolicyArgs(**args, **option), "policy")


def test_weights_that_are_still_to_be_read_are_refused():
    model = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(UserError, match=r"needs whole models; set --trainer\.strategy\.init_args\.read_shards false"):
        hub_kernels.use_hub_kernels(model, "model.student")


def test_a_hub_that_cannot_be_asked(tmp_path, chosen, monkeypatch):
    def fail(self: Any, use: bool, *_: Any) -> None:
        if use:
            raise OSError("no route")

    monkeypatch.setattr(PreTrainedModel, "set_use_kernels", fail)
    path = str(make_model(tmp_path))
    with pytest.raises(UserError, match=r"the hub gave no kernels \(no route\); check the network"):
        Policy.load(PolicyArgs(path=path, use_kernels=True), trainable=True)
