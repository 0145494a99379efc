"""What of an image-text model is trained: everything, or its language model alone."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from policy.test_multimodal import qwen3_vl, qwen25_vl
from policy.test_picture_families import gemma4, glm4v, llava_onevision, mistral3

from lit_uniopd.errors import UserError
from lit_uniopd.memory.meta_model import build_meta_model
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.policy.trained_parts import choose_trained

SEEING = re.compile(r"vision|visual|projector|image_newline")
"""How transformers names what is outside of the language model."""


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("tiny") / "vision"
    write_tiny_vision(directory, 0)
    return str(directory)


@pytest.mark.parametrize("make", [qwen3_vl, qwen25_vl, glm4v, mistral3, gemma4, llava_onevision])
@pytest.mark.parametrize("lora", [None, LoraArgs(rank=2)], ids=["whole", "adapters"])
def test_the_language_model_alone_is_trained(make: Any, lora: LoraArgs | None):
    made = make()
    model = made[0] if isinstance(made, tuple) else made
    everything = {name for name, _ in model.named_parameters()}
    assert any(SEEING.search(name) for name in everything)
    policy = choose_trained(model, PolicyArgs(freeze_vision=True, lora=lora), trainable=True, flag="model.policy")
    if lora is None:
        assert trained(policy) == {name for name in everything if not SEEING.search(name)}
    else:
        adapters = {name for name, _ in policy.named_parameters() if ".lora_" in name}
        assert trained(policy) == adapters
        assert len(adapters) >= 2 * 6 * 2  # both matrices of six or more layers in each of two blocks
        assert not [name for name in adapters if SEEING.search(name)]


def test_a_step_leaves_the_tower_as_it_was(llava):
    policy = Policy.load(PolicyArgs(path=llava, freeze_vision=True), trainable=True)
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    loss = torch.stack([p.square().sum() for p in policy.parameters() if p.requires_grad]).sum()
    loss.backward()
    torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert not [name for name in moved if SEEING.search(name)]


def test_the_memory_plan_counts_what_is_trained(llava):
    args = PolicyArgs(path=llava, freeze_vision=True)
    outline = build_meta_model(args, trainable=True, flag="model.policy")
    assert trained(outline) == trained(Policy.load(args, trainable=True).model)
    assert trained(outline) < trained(build_meta_model(PolicyArgs(path=llava), trainable=True, flag="model.policy"))


def test_a_text_model_has_nothing_to_freeze(model_dirs: dict[str, str], tmp_path: Path):
    with pytest.raises(UserError, match=r"--model\.student\.freeze_vision: Qwen3ForCausalLM has no vision tower"):
        Policy.load(PolicyArgs(path=model_dirs["student"], freeze_vision=True), trainable=True, flag="model.student")
