"""Packed rows against padded ones and against single rows: the same numbers, the same gradients."""

from typing import Any

import pytest
import torch
from policy.test_multimodal import qwen3_vl, qwen25_vl
from tiny import make_tokenizer, rounding
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.policy.lora import with_adapters
from lit_uniopd.policy.shared_prefix import ATTENTION, Packing, Rows, packed_hidden, why_not_packed

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LONG, SHORT = list(range(5, 25)), [7, 8, 9]
PROMPTS = [LONG, LONG, SHORT, LONG, SHORT]
ANSWERS = [[30, 31, 32], [40], [41, 42, 43, 44], [30, 33], [50, 51]]
WIDTH = max(map(len, ANSWERS))
TOKENS_BT = torch.tensor([answer + [0] * (WIDTH - len(answer)) for answer in ANSWERS])
MASK_BT = torch.tensor([[1] * len(answer) + [0] * (WIDTH - len(answer)) for answer in ANSWERS]).bool()
WEIGHTS_BT = torch.linspace(-1, 2, MASK_BT.numel()).view_as(MASK_BT) * MASK_BT


def models() -> dict[str, Any]:
    moe: Any = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    window: Any = {"sliding_window": 64}
    return {
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
        "qwen3_moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SMALL, **moe)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, **window)),
        "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, **window)),
    }


def policy_of(make: Any, *, share: bool, **options: Any) -> Policy:
    torch.manual_seed(0)
    model: Any = make()
    # Weights large enough that a token which looks at the wrong ones is far off.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    if options.get("lora"):
        torch.manual_seed(1)
        model = with_adapters(model, options["lora"], "policy")
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    if options.pop("double", False):
        model = model.double()
    policy = Policy(model, make_tokenizer(), PolicyArgs(share_prompts=share, **options))
    if policy.args.gradient_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return policy.train()


def logps_and_gradients(policy: Policy, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logps, _ = policy.token_logps(
        inputs.get("prompts", PROMPTS), TOKENS_BT, MASK_BT, vision=inputs.get("vision"), temperature=0.9
    )
    (logps * WEIGHTS_BT).sum().backward()
    return logps.detach(), {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}


def assert_same(actual: Any, expected: Any, *, atol: float = 2e-5) -> None:
    torch.testing.assert_close(actual[0], expected[0], atol=atol, rtol=1e-5)
    assert actual[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(actual[1][name], gradient, atol=1e-4 * float(gradient.norm()) + 1e-7, rtol=1e-3)


class Counter:
    """Counts pictures that a tower is given while its policy trains, which leaves the trial out."""

    def __init__(self, counts: list[int], policy: Policy) -> None:
        self.counts, self.policy = counts, policy

    def __call__(self, tower: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if self.policy.training:
            self.counts.append(len(kwargs.get("grid_thw", args[1] if len(args) > 1 else ())))


@pytest.fixture
def packed_rows(monkeypatch) -> list[int]:
    """Tokens that each packed row had."""
    token_counts: list[int] = []
    init = Packing.__init__

    def counting(self: Packing, *args: Any) -> None:
        init(self, *args)
        token_counts.append(self.ids.shape[1])

    monkeypatch.setattr(Packing, "__init__", counting)
    return token_counts


@pytest.mark.parametrize("name", list(models()))
@pytest.mark.parametrize("variant", ["plain", "lora", "checkpointing"])
def test_shared_prompts_change_neither_log_probs_nor_gradients(name, variant, packed_rows):
    options: dict[str, Any] = {
        "plain": {},
        "lora": {"lora": LoraArgs(rank=4, alpha=8, target_modules=["q_proj", "v_proj"])},
        "checkpointing": {"gradient_checkpointing": True},
    }[variant]
    expected = logps_and_gradients(policy_of(models()[name], share=False, **options))
    assert not packed_rows
    actual = logps_and_gradients(policy_of(models()[name], share=True, **options))
    # The trial on two answers to the first prompt, then the batch: two prompts once, and every answer.
    assert packed_rows == [*[20 + 4] * 2, 20 + 3 + 12]
    assert_same(actual, expected)


def test_in_double_precision_both_ways_agree_to_rounding():
    expected = logps_and_gradients(policy_of(models()["qwen3"], share=False, double=True))
    actual = logps_and_gradients(policy_of(models()["qwen3"], share=True, double=True))
    # transformers takes norms and rotations in float32, whatever the weights' type.
    torch.testing.assert_close(actual[0], expected[0], atol=rounding(expected[0], steps=2), rtol=0)


def test_each_row_alone_is_the_oracle():
    policy = policy_of(models()["llama"], share=True)
    actual, _ = policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        logits = policy.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        alone = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(actual[row, : len(answer)], alone, atol=2e-5, rtol=1e-5)
    assert not actual[~MASK_BT].any()


def test_an_answer_sees_nothing_of_its_neighbours():
    policy = policy_of(models()["qwen3"], share=True)
    policy.requires_grad_(False)
    before, _ = policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    changed = TOKENS_BT.clone()
    changed[0, :3] = torch.tensor([60, 61, 62])
    after, _ = policy.token_logps(PROMPTS, changed, MASK_BT)
    assert float((after[0] - before[0]).abs().max()) > 0.01
    torch.testing.assert_close(after[1:], before[1:], atol=rounding(before, steps=2), rtol=0)


@pytest.mark.parametrize("make", [qwen3_vl, qwen25_vl])
def test_pictures_go_through_the_tower_once_for_all_answers(make, packed_rows):
    torch.manual_seed(3)
    rows, columns = 4, 6  # in patches; 2 x 2 patches make a token
    patches = [torch.randn(rows * columns, 3 * 2 * 16 * 16) for _ in range(2)]
    first, second = ({"pixel_values": p, "image_grid_thw": torch.tensor([[1, rows, columns]])} for p in patches)
    prompt = [5, 62, *[60] * 6, 63, 6, 7]
    prompts = [prompt, prompt, SHORT, prompt, SHORT]
    vision = [first, first, {}, second, {}]
    results = []
    for share in (False, True):
        policy = policy_of(make, share=share)
        pictures: list[int] = []
        with_hook = Counter(pictures, policy)
        policy.model.model.visual.register_forward_hook(with_hook, with_kwargs=True)
        results.append(logps_and_gradients(policy, prompts=prompts, vision=vision))
        assert pictures == [2 if share else 3]
    # Both prompts read alike but show different pictures.
    assert packed_rows[-1] == 11 + 3 + 11 + 12
    assert_same(results[1], results[0], atol=5e-5)


def test_rows_that_share_nothing_are_padded_unless_padding_is_much(packed_rows):
    policy = policy_of(models()["qwen3"], share=True)
    alike = torch.tensor([[30, 31, 32], [33, 34, 35]])
    policy.token_logps([SHORT, [1, 2, 3]], alike, torch.ones(2, 3).bool())
    assert packed_rows == []  # nothing to save, nothing tried
    policy.token_logps([SHORT, LONG], alike, torch.ones(2, 3).bool())
    assert packed_rows == [3 + 3, 3 + 3, 3 + 20 + 6]  # a trial on the first row, the batch


def test_models_that_cannot_pack_are_padded(packed_rows):
    window = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=8))
    policy = Policy(window, make_tokenizer())
    assert why_not_packed(policy.model, 23) == "rows are longer than its sliding window of 8"
    policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    eager = Qwen3ForCausalLM._from_config(Qwen3Config(**SMALL), attn_implementation="eager")
    assert why_not_packed(eager, 23) == "attention is eager, not sdpa"
    capped = Gemma2ForCausalLM(Gemma2Config(**SMALL))  # its attention has a cap, which sdpa cannot
    assert why_not_packed(capped, 23) == "attention is eager, not sdpa"
    mixed = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SMALL))
    assert why_not_packed(mixed, 23) in ("its attention cannot be replaced", "it has layers of linear_attention")
    assert not packed_rows


def test_a_model_that_hides_its_attention_is_found_out(packed_rows):
    """A model that does not hand arguments on to its layers gets no packing there, whatever its config says."""
    policy = policy_of(models()["qwen3"], share=True)
    forward = policy.model.model.forward
    policy.model.model.forward = lambda **arguments: forward(**{k: v for k, v in arguments.items() if k != "packing"})
    actual, _ = policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    assert packed_rows == [24, 24]
    expected, _ = policy_of(models()["qwen3"], share=False).token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_rounding_in_16_bits_is_not_taken_for_another_reading(mixed, packed_rows, monkeypatch):
    """Kernels differ by that between a packed row and padded ones, on a GPU in `bf16-mixed`; in float32 they do not."""
    monkeypatch.setattr(
        "lit_uniopd.policy.hidden_states.packed_hidden", lambda *arguments: packed_hidden(*arguments) * 1.008
    )
    policy = policy_of(models()["qwen3"], share=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    assert packed_rows == [24, 24, *([35] if mixed else [])]


def test_generation_is_what_it_was_before_packing():
    policy, other = (policy_of(models()["qwen3"], share=share).eval() for share in (True, False))
    policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    assert policy.model.config._attn_implementation == ATTENTION
    ids = torch.tensor([[0, 0, *SHORT], [4, 5, *SHORT]])
    options: dict[str, Any] = {"attention_mask": (ids > 0).long(), "max_new_tokens": 12, "do_sample": False}
    assert torch.equal(policy.model.generate(ids, **options), other.model.generate(ids, **options))


def test_owners_are_prompts_and_pictures_together():
    first, second = {"pixel_values": torch.zeros(1)}, {"pixel_values": torch.zeros(1)}
    rows = Rows([[1], [2], [1], [1]], [[5]] * 4, [first, {}, first, second])
    assert (rows.owners, rows.firsts, rows.shares_pictures) == ([0, 1, 0, 2], [0, 1, 3], True)
