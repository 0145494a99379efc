"""Compiled layers against the same layers as they are: log-probs, gradients, names, copies and exports.

Most tests have torch.compile trace, but not generate code (`aot_eager`), which takes most of the time.
"""

import copy
from functools import cache, partial
from typing import Any

import pytest
import torch
from tiny import make_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from lit_uniopd.errors import UserError
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.policy.compiled_blocks import compile_blocks
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.types import Prompt

SHARED = [[5, 6, 7] * 5] * 2 + [[9, 10, 11, 12, 13]]
UNLIKE = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
TOKENS_BT = torch.tensor([[14, 15, 2, 0], [16, 2, 0, 0], [17, 18, 19, 20]])
MASK_BT = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
LORA = LoraArgs(rank=4, alpha=8)
pytestmark = [  # of torch's own code, which elsewhere shows them to nobody
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


@pytest.fixture
def traced(monkeypatch) -> None:
    torch.compiler.reset()
    compile_ = cache(partial(torch.compile, dynamic=True, backend="aot_eager"))
    monkeypatch.setattr("lit_uniopd.policy.compiled_blocks._compiled", compile_)


def batches(policy: Policy, autocast: bool = False) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Log-probs and gradients of three batches of unlike shapes: two packed, one padded."""
    results = []
    for prompts, rows in ((SHARED, slice(0, 3)), (UNLIKE, slice(0, 3)), (SHARED, slice(0, 2))):
        policy.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logps_BT, _ = policy.token_logps(prompts[rows], TOKENS_BT[rows], MASK_BT[rows])
            (logps_BT * torch.linspace(-1, 1, 4)).sum().backward()
        grads = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
        results.append((logps_BT.detach(), grads))
    return results


def assert_same(actual: Any, expected: Any) -> None:
    for (logps, grads), (expected_logps, expected_grads) in zip(actual, expected, strict=True):
        torch.testing.assert_close(logps, expected_logps, atol=2e-5, rtol=1e-5)
        assert grads.keys() == expected_grads.keys()
        for name, grad in expected_grads.items():
            torch.testing.assert_close(grads[name], grad, atol=1e-5 * float(grad.norm()) + 1e-8, rtol=1e-4)


def loaded(path: str, **options: Any) -> Policy:
    torch.manual_seed(0)
    policy = Policy.load(PolicyArgs(path=path, **options), trainable=True)
    generator = torch.Generator().manual_seed(1)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.2, generator=generator)
    return policy


def compiled_graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.thinned(4)
def test_log_probs_and_gradients_are_those_of_layers_as_they_are(model_dirs, traced, lora, checkpointing):
    options = {"lora": lora, "gradient_checkpointing": checkpointing}
    expected = loaded(model_dirs["student"], **options)
    policy = loaded(model_dirs["student"], compile=True, **options)
    before = compiled_graphs()
    assert_same(batches(policy), batches(expected))
    graphs = compiled_graphs()
    assert graphs > before
    # Other lengths, and other numbers of rows, are not compiled anew.
    longer = [[5, 6, 7] * 9] * 2 + [[9] * 23]
    policy.token_logps(longer, TOKENS_BT, MASK_BT)[0].sum().backward()
    policy.token_logps([[9] * 20, [8] * 3, [7] * 6], TOKENS_BT, MASK_BT)[0].sum().backward()
    assert compiled_graphs() == graphs
    assert_same(batches(policy, autocast=True)[:1], batches(expected, autocast=True)[:1])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_generated_code(model_dirs):
    """The code that users run: made by inductor and the compiler of this machine."""
    torch.compiler.reset()
    assert_same(batches(loaded(model_dirs["student"], compile=True)), batches(loaded(model_dirs["student"])))


FAMILIES: dict[str, Any] = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0
        )
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, sliding_window=64, layer_types=["sliding_attention", "full_attention"])
    ),
    "mixture": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    ),
}
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.thinned(3)
def test_other_layers(name, model_dirs, traced):
    torch.manual_seed(0)
    model = FAMILIES[name]().train()
    tokenizer = loaded(model_dirs["student"]).tokenizer
    expected = batches(Policy(copy.deepcopy(model), tokenizer).train())
    compile_blocks(model, "model.policy")
    assert_same(batches(Policy(model, tokenizer).train()), expected)


def test_nothing_is_renamed_and_a_rollout_compiles_nothing(model_dirs, traced, tmp_path):
    policy, expected = loaded(model_dirs["student"], compile=True), loaded(model_dirs["student"])
    before = compiled_graphs()
    assert list(policy.state_dict()) == list(expected.state_dict())
    question = Prompt(id="p", messages=({"role": "user", "content": "1+1="},))
    sampling = SamplingArgs(n=3, max_new_tokens=8)
    answers = [write_answers(p, [question], sampling, seed=3).tokens_BT for p in (policy, expected)]
    assert answers[0].equal(answers[1])
    policy.save(tmp_path)
    stored = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(tensor.equal(stored[name]) for name, tensor in expected.model.state_dict().items())
    assert compiled_graphs() == before


def test_a_frozen_copy_computes_with_its_own_weights(model_dirs):
    policy = loaded(model_dirs["student"], compile=True)
    copied = policy.frozen_copy()
    part, other = policy.model.model.layers[0].mlp, copied.model.model.layers[0].mlp
    assert part.forward.__self__ is part
    assert other.forward.__self__ is other
    states = torch.ones(1, 2, 32)
    with torch.no_grad():
        expected = part(states)
        for weight in part.parameters():
            weight.zero_()
        assert other(states).equal(expected)
        assert not part(states).any()


def test_a_frozen_model_is_left_as_it_is(model_dirs):
    policy = Policy.load(PolicyArgs(path=model_dirs["student"], compile=True), trainable=False)
    assert "forward" not in vars(policy.model.model.layers[0].mlp)


def test_what_cannot_be_compiled_is_refused(tmp_path):
    make_model(tmp_path, width=128)
    args = PolicyArgs(path=str(tmp_path), compile=True, quantization="4bit", lora=LORA)
    with pytest.raises(UserError, match=r"--policy\.compile does not go with --policy\.quantization 4bit"):
        Policy.load(args, trainable=True)
