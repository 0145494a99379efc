"""Groups decoded against one copy of their prompt's cache, against a copy for each row and against other oracles."""

import inspect
import logging
from typing import Any

import pytest
import torch
from policy.test_multimodal import PROMPTS as PICTURES
from policy.test_multimodal import encoded, qwen3_vl, qwen25_vl
from policy.test_shared_prefix import models
from sampling.test_engines import CONFIGS, answers, greedy_by_transformers, run, scatter, tiny
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

from lit_uniopd.policy import cascade_attention
from lit_uniopd.policy.cascade_attention import SharedPrefixCache, worth_sharing
from lit_uniopd.policy.shared_prefix import why_not_packed
from lit_uniopd.sampling import SamplingArgs, decode_loop, sample
from lit_uniopd.sampling.decode_loop import Decoder, GrowingLayer, can_share

PROMPTS = [[11, 12, 13], [4, 5, 6, 7, 8, 9, 30, 31, 32, 33, 34], [10], [11, 12, 13, 14]]
ENDS = list(range(50, 64))
"""Tokens that end an answer, so many that rows of a group end at different steps."""


class Switch:
    """Whether to share, and how often it was chosen to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.shared, choose = monkeypatch, 0, Decoder._worth_sharing

        def counting(decoder: Decoder, *args: int) -> bool:
            chosen = choose(decoder, *args)
            self.shared += chosen
            return chosen

        monkeypatch.setattr(Decoder, "_worth_sharing", counting)

    def __call__(self, on: bool) -> None:
        """Share wherever the model can, or never."""
        self.monkeypatch.setattr(cascade_attention, "WORTH_SHARING", 0 if on else 2)
        self.monkeypatch.setattr(cascade_attention, "SPARED_BYTES_CPU", 0)


@pytest.fixture
def switch(monkeypatch) -> Switch:
    return Switch(monkeypatch)


def make_model(make: Any, spread: float = 0.3) -> PreTrainedModel:
    torch.manual_seed(0)
    return scatter(make(), spread)


def llava() -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=32,
    )
    text = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=60))


# ---------------------------------------------------------------------------------------------------------- attention


def rows_of(owners_R: torch.Tensor, states: torch.Tensor, answer_states: torch.Tensor) -> torch.Tensor:
    return torch.cat([states[owners_R], answer_states], dim=2)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("sizes", [[3, 3], [1, 4, 2]])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_is_that_over_prompt_and_answer_in_one(heads: int, sizes: list[int], padded: bool) -> None:
    torch.manual_seed(0)
    prompts, rows, length, answer_length = len(sizes), sum(sizes), 7, 5
    owners_R = torch.arange(prompts).repeat_interleave(torch.tensor(sizes))
    key, value = torch.randn(prompts, heads, length, 8), torch.randn(prompts, heads, length, 6)  # a narrower value
    answer_key, answer_value = torch.randn(rows, heads, answer_length, 8), torch.randn(rows, heads, answer_length, 6)
    query = torch.randn(rows, 4, 1, 8) * 3
    padding = torch.arange(length) < torch.arange(prompts)[:, None] if padded else None
    shared = SharedPrefixCache([None, (key, value)], padding, owners_R)
    output = shared.attend(1, query, answer_key, answer_value, scaling=0.3)

    keys, values = rows_of(owners_R, key, answer_key), rows_of(owners_R, value, answer_value)
    visible = torch.ones(rows, length + answer_length).bool()
    if padding is not None:
        visible[:, :length] = ~padding[owners_R]
    expected = scaled_dot_product_attention(
        query.double(), keys.double(), values.double(), visible[:, None, None], scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(output.double(), expected.transpose(1, 2), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_low_precision_it_is_as_near_to_the_truth_as_fused_attention(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    owners_R = torch.arange(2).repeat_interleave(8)
    key, value = (torch.randn(2, 2, 300, 64).to(dtype) for _ in range(2))
    answer_key, answer_value = (torch.randn(16, 2, 40, 64).to(dtype) for _ in range(2))
    query = (4 * torch.randn(16, 4, 1, 64)).to(dtype)  # scores up to about 20, which bfloat16 itself rounds to 0.1
    keys, values = rows_of(owners_R, key, answer_key), rows_of(owners_R, value, answer_value)
    truth = scaled_dot_product_attention(query.double(), keys.double(), values.double(), enable_gqa=True)
    fused = scaled_dot_product_attention(query, keys, values, enable_gqa=True)
    output = SharedPrefixCache([(key, value)], None, owners_R).attend(0, query, answer_key, answer_value)
    assert output.dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        again = SharedPrefixCache([(key, value)], None, owners_R).attend(0, query, answer_key, answer_value)
    assert torch.equal(again, output)
    error, fused_error = (float((o.double() - t).norm()) for o, t in ((output, truth.transpose(1, 2)), (fused, truth)))
    assert error < 1.5 * fused_error


def test_what_attention_is_asked_for_beyond_that_is_refused() -> None:
    state = torch.ones(1, 1, 1, 4)
    shared = SharedPrefixCache([(state, state), None], None, torch.zeros(1).long())
    with pytest.raises(ValueError, match="layer 0 needs softcap"):
        shared.attend(0, state, state, state, softcap=30.0)
    with pytest.raises(ValueError, match="layer 1 needs a cache of its own"):
        shared.attend(1, state, state, state)


# ------------------------------------------------------------------------------------------------------------- models


ARCHITECTURES = {
    **{name: lambda name=name: tiny(name) for name in ("rotary", "llama", "learned positions")},
    # Of the last two, windows are longer than all rows.
    **{name: lambda name=name: make_model(models()[name]) for name in ("qwen2", "qwen3_moe", "mistral", "gemma3")},
    **{make.__name__: lambda make=make: make_model(make) for make in (qwen3_vl, qwen25_vl, llava)},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_are_those_of_repeated_caches(name: str, switch: Switch) -> None:
    model = ARCHITECTURES[name]()
    for options in ({"n": 5, "max_new_tokens": 16}, {"n": 3, "max_new_tokens": 12, "max_rows": 6, "top_p": 0.9}):
        switch(False)
        repeated = run(model, PROMPTS, eos_ids=ENDS, **options)
        assert not switch.shared
        switch(True)
        shared = run(model, PROMPTS, eos_ids=ENDS, **options)
        assert switch.shared == (2 if "max_rows" in options else 1)
        switch.shared = 0
        assert len({len(answer) for answer in answers(shared)}) > 3
        assert answers(shared) == answers(repeated)
        torch.testing.assert_close(shared.logps_BT, repeated.logps_BT, atol=2e-5, rtol=0)


@pytest.mark.parametrize("make", [qwen3_vl, qwen25_vl, llava])
def test_behind_pictures_too(make: Any, switch: Switch) -> None:
    model: Any = make_model(make)
    if make is llava:
        pictures = [{"pixel_values": torch.randn(1, 3, 28, 28)} for _ in range(2)]
        prompts = [([5, *[60] * 4, 6], pictures[0]), ([7, 8], {}), ([9, 10, *[60] * 4, 11, 12], pictures[1])]
    else:
        prompts = [*PICTURES, encoded([], [9])]
    samples = []
    for on in (False, True):
        switch(on)
        args = SamplingArgs(n=4, max_new_tokens=14)
        options: Any = {"eos_ids": ENDS, "pad_id": 0, "seed": 3, "vision": [vision for _, vision in prompts]}
        samples.append(sample(model, [tokens for tokens, _ in prompts], args, **options))
    assert switch.shared == 1
    assert torch.equal(samples[1].tokens_BT, samples[0].tokens_BT)
    torch.testing.assert_close(samples[1].logps_BT, samples[0].logps_BT, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["rotary", "learned positions"])
def test_the_most_probable_tokens_are_those_of_transformers(name: str, switch: Switch) -> None:
    model, new = tiny(name), GrowingLayer.ROOM + 5  # answers outgrow their first buffer
    switch(True)
    done = run(model, PROMPTS, eos_ids=[], n=2, max_new_tokens=new, top_k=1)
    assert switch.shared == 1
    expected = [greedy_by_transformers(model, prompt, [], new) for prompt in PROMPTS]
    assert answers(done) == [answer for answer in expected for _ in range(2)]


def test_answers_do_not_depend_on_how_rows_are_batched_or_dropped(switch: Switch, monkeypatch) -> None:
    model = tiny()
    switch(True)
    options: dict[str, Any] = {"eos_ids": ENDS, "n": 5, "max_new_tokens": 16}
    monkeypatch.setattr(decode_loop, "DROP_SHARE", 2)
    never = run(model, PROMPTS, max_rows=1000, **options)
    monkeypatch.setattr(decode_loop, "DROP_SHARE", 1e-9)
    for max_rows in (3, 7, 10, 1000):  # 3: a group is split
        done = run(model, PROMPTS, max_rows=max_rows, **options)
        assert answers(done) == answers(never)
        torch.testing.assert_close(done.logps_BT, never.logps_BT, atol=2e-5, rtol=0)


def test_bfloat16_is_no_further_from_float32_than_repeated_caches_are() -> None:
    exact, prompts, new = tiny(spread=0.1), [list(range(3, 50)), list(range(20, 40))], 12
    rough: Any = tiny(spread=0.1).bfloat16()
    assert can_share(rough, 60)
    generator = torch.Generator().manual_seed(0)
    tokens_TR = torch.randint(3, 60, (new, 8), generator=generator)

    def logits(model: Any, share: bool, autocast: bool = False) -> torch.Tensor:
        decoder = Decoder(model, new)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            decoder.prefill(prompts, 4, pad_id=0, share=share)
            return torch.stack([decoder.step(tokens_R) for tokens_R in tokens_TR]).log_softmax(dim=-1)

    truth = logits(exact, share=False)
    assert float((logits(exact, share=True) - truth).abs().max()) < 2e-5
    for model, autocast in ((rough, False), (exact, True)):
        repeated, shared = (float((logits(model, share, autocast) - truth).norm()) for share in (False, True))
        assert 0 < shared < 1.25 * repeated


# ------------------------------------------------------------------------------------------------------ what it spares


@torch.no_grad()
def test_a_prompt_is_kept_once_and_dropped_with_its_last_row() -> None:
    model, prompts, position = tiny(), [list(range(3, 43)), list(range(3, 33)), [5] * 20], 2 * 2 * 2 * 8 * 4
    decoder = Decoder(model, 20)
    decoder.prefill(prompts, 4, pad_id=0, share=True)
    assert decoder.cache_bytes() == 3 * 40 * position
    decoder.step(torch.full((12,), 7))
    answer = 1 + GrowingLayer.ROOM
    assert decoder.cache_bytes() == (3 * 40 + 12 * answer) * position
    repeated = Decoder(model, 20)
    repeated.prefill(prompts, 4, pad_id=0, share=False)
    repeated.step(torch.full((12,), 7))
    assert repeated.cache_bytes() == 12 * (40 + GrowingLayer.ROOM) * position

    decoder.keep(torch.tensor([0, 4, 5, 8, 10, 11]))  # groups of 1, 2 and 3 rows
    repeated.keep(torch.tensor([0, 4, 5, 8, 10, 11]))
    assert decoder.cache_bytes() == (3 * 40 + 6 * answer) * position
    decoder.keep(torch.tensor([1, 2, 5]))  # the longest prompt has ended: the others' 10 columns of padding go with it
    repeated.keep(torch.tensor([1, 2, 5]))
    assert decoder.cache_bytes() == (2 * 30 + 3 * answer) * position
    tokens = torch.tensor([7, 8, 9])
    torch.testing.assert_close(decoder.step(tokens), repeated.step(tokens), atol=2e-5, rtol=0)
    decoder.keep(torch.tensor([2]))
    repeated.keep(torch.tensor([2]))
    assert decoder.cache_bytes() == (20 + answer + 1) * position  # a token more
    torch.testing.assert_close(decoder.step(tokens[:1]), repeated.step(tokens[:1]), atol=2e-5, rtol=0)


def test_it_is_chosen_where_prompts_are_long_groups_large_and_bytes_many() -> None:
    case: dict[str, Any] = {"prompts": 4, "rows": 64, "length": 1300, "new": 512, "position_bytes": 1024, "cpu": True}
    assert worth_sharing(**case)
    for less in ({"rows": 4}, {"length": 150}, {"position_bytes": 32}):  # groups of one, long answers, a tiny model
        other: Any = case | less
        assert not worth_sharing(**other)
    accelerator: Any = case | {"cpu": False}
    assert not worth_sharing(**accelerator)  # memory is faster there
    accelerator["position_bytes"] = 4096
    assert worth_sharing(**accelerator)


def test_a_long_prompt_is_shared_without_being_asked(switch: Switch) -> None:
    model, position = tiny(), 2 * 2 * 8 * 4
    least = -(-cascade_attention.SPARED_BYTES_CPU // (31 * position))
    for length, chosen in ((least - 1, 0), (least, 1)):
        run(model, [[5] * length], n=32, max_new_tokens=2, eos_ids=[])
        assert switch.shared == chosen


# ----------------------------------------------------------------------------------------------------- what cannot


@pytest.mark.parametrize("name", ["sliding window", "sliding and full, soft cap", "linear and full"])
def test_other_caches_and_attentions_are_repeated(name: str, switch: Switch) -> None:
    model = tiny(name)
    assert why_not_packed(model, 27) is not None
    switch(False)
    expected = run(model, PROMPTS, n=3, max_new_tokens=16, eos_ids=ENDS)
    switch(True)
    assert answers(run(model, PROMPTS, n=3, max_new_tokens=16, eos_ids=ENDS)) == answers(expected)
    assert switch.shared == 0


def test_a_window_is_no_matter_until_rows_are_longer(switch: Switch) -> None:
    model = tiny("sliding window")
    assert CONFIGS["sliding window"].sliding_window == 6
    switch(False)
    expected = run(model, [[3, 4], [5]], n=3, max_new_tokens=4, eos_ids=[])
    switch(True)
    assert answers(run(model, [[3, 4], [5]], n=3, max_new_tokens=4, eos_ids=[])) == answers(expected)
    assert switch.shared == 1
    run(model, [[3, 4], [5]], n=3, max_new_tokens=5, eos_ids=[])
    assert switch.shared == 1


def test_a_model_that_hides_its_attention_is_found_out(switch: Switch, caplog: pytest.LogCaptureFixture) -> None:
    model: Any = tiny()
    expected = run(model, PROMPTS, n=3, max_new_tokens=8, eos_ids=ENDS)
    forward = model.model.forward

    def hiding(**arguments: Any) -> Any:
        arguments.pop("cascade", None)
        return forward(**arguments)

    hiding.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    model.model.forward = hiding
    switch(True)
    with caplog.at_level(logging.INFO):
        assert answers(run(model, PROMPTS, n=3, max_new_tokens=8, eos_ids=ENDS)) == answers(expected)
    assert switch.shared == 0
    assert "Qwen3ForCausalLM reads shared caches of prompts differently; repeating them." in caplog.text
