"""Rollouts against transformers' ``generate``, teacher-forced passes, and exact probabilities."""

import logging
from collections import Counter
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma2Config,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
)

from lit_uniopd.errors import UserError
from lit_uniopd.sampling import Completions, SamplingArgs, decode_loop, engines, sample
from lit_uniopd.sampling.decode_loop import GrowingLayer
from lit_uniopd.sampling.token_sampler import invert_cdf, sample_token

SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
CONFIGS = {
    "rotary": Qwen3Config(**SIZE, head_dim=8),
    "llama": LlamaConfig(**SIZE),
    "learned positions": GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
    "sliding window": MistralConfig(**SIZE, sliding_window=6),
    "sliding and full, soft cap": Gemma2Config(**SIZE, head_dim=8, sliding_window=6),
    "linear and full": Qwen3_5TextConfig(**SIZE, head_dim=8, **LINEAR),
}
PROMPTS = [[11, 12, 13], [4, 5, 6, 7, 8, 9, 30, 31, 32, 33, 34], [10], [11, 12, 13, 14]]


def tiny(name: str = "rotary", vocab_size: int = 64, spread: float = 0.3) -> PreTrainedModel:
    """A random model whose answers vary: larger weights than the usual start."""
    config = type(CONFIGS[name]).from_dict({**CONFIGS[name].to_dict(), "vocab_size": vocab_size})
    torch.manual_seed(0)
    return scatter(AutoModelForCausalLM.from_config(config), spread)


def scatter(model: PreTrainedModel, spread: float) -> PreTrainedModel:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=spread)
    return model.eval()


def run(model: torch.nn.Module, prompts=PROMPTS, *, eos_ids=(2,), pad_id=0, seed=1, **options) -> Completions:
    return sample(model, prompts, SamplingArgs(**options), eos_ids=eos_ids, pad_id=pad_id, seed=seed)


def answers(done: Completions) -> list[list[int]]:
    return [row[mask].tolist() for row, mask in zip(done.tokens_BT, done.mask_BT, strict=True)]


def greedy_by_transformers(model: Any, prompt: list[int], eos_ids: list[int], new: int) -> list[int]:
    """One unpadded prompt at a time: nothing of batching can go wrong."""
    config = GenerationConfig(do_sample=False, max_new_tokens=new, eos_token_id=eos_ids, pad_token_id=0)
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return out[0, len(prompt) :].tolist()


@torch.no_grad()
def teacher_forced(model: torch.nn.Module, prompt: list[int], answer: list[int], temperature: float) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].float()[len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]


# ---------------------------------------------------------------------------------------------------------- oracles


@pytest.mark.parametrize("engine", ["loop", "generate"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.thinned(3)
def test_greedy_answers_are_those_of_transformers(name: str, engine: str, caplog: pytest.LogCaptureFixture) -> None:
    model, eos_ids = tiny(name), [3, *range(56, 64)]
    done = run(model, eos_ids=eos_ids, n=1, max_new_tokens=24, temperature=0.0, engine=engine)
    expected = [greedy_by_transformers(model, prompt, eos_ids, 24) for prompt in PROMPTS]
    assert answers(done) == expected
    assert done.finish == ["stop" if answer[-1] in eos_ids else "length" for answer in expected]
    assert "generate is used instead" not in caplog.text  # the loop itself handles all of these


def test_the_cache_outgrows_its_first_buffer() -> None:
    model, new = tiny(), 2 * GrowingLayer.ROOM + 5
    done = run(model, eos_ids=[], n=1, max_new_tokens=new, temperature=0.0)
    assert answers(done) == [greedy_by_transformers(model, prompt, [], new) for prompt in PROMPTS]


@pytest.mark.parametrize("engine", ["loop", "generate"])
@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"temperature": 1.3, "top_k": 5, "top_p": 0.8}])
@pytest.mark.parametrize("name", ["rotary", "learned positions", "sliding and full, soft cap", "linear and full"])
def test_log_probs_are_those_of_the_whole_softmax_at_the_sampling_temperature(name, options, engine) -> None:
    model = tiny(name)
    done = run(model, eos_ids=range(40, 64), n=3, max_new_tokens=12, engine=engine, **options)
    lengths = set()
    for row, answer in enumerate(answers(done)):
        expected = teacher_forced(model, PROMPTS[row // 3], answer, options["temperature"])
        torch.testing.assert_close(done.logps_BT[row, : len(answer)], expected, atol=1e-4, rtol=0)
        lengths.add(len(answer))
    assert len(lengths) > 1  # rows ended at different steps, so some were dropped on the way
    assert done.logps_BT.dtype == torch.float32
    assert not done.logps_BT[~done.mask_BT].any()
    assert not done.tokens_BT[~done.mask_BT].any()


def test_greedy_log_probs_are_at_temperature_one() -> None:
    model = tiny()
    done = run(model, eos_ids=[], n=1, max_new_tokens=6, temperature=0.0)
    for row, answer in enumerate(answers(done)):
        torch.testing.assert_close(
            done.logps_BT[row], teacher_forced(model, PROMPTS[row], answer, 1.0), atol=1e-4, rtol=0
        )


# ------------------------------------------------------------------------------------------- batching must not matter


@pytest.mark.parametrize("name", ["rotary", "learned positions", "sliding window"])
@pytest.mark.parametrize("longer", [4, 18])  # with 3, 17 columns of padding
def test_a_prompt_is_answered_alike_alone_and_beside_longer_ones(name: str, longer: int) -> None:
    model = tiny(name)
    alone = run(model, [[7]], n=3, max_new_tokens=10, eos_ids=[])
    padded = run(model, [[7], list(range(20, 20 + longer))], n=3, max_new_tokens=10, eos_ids=[])
    assert answers(padded)[:3] == answers(alone)
    torch.testing.assert_close(padded.logps_BT[:3], alone.logps_BT, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["rotary", "sliding window", "linear and full"])
def test_answers_depend_neither_on_max_rows_nor_on_when_finished_rows_are_dropped(name: str, monkeypatch) -> None:
    model, trims = tiny(name), []
    trim = GrowingLayer.trim
    monkeypatch.setattr(GrowingLayer, "trim", lambda layer, columns: (trims.append(columns), trim(layer, columns)))
    options = {"eos_ids": range(50, 64), "n": 5, "max_new_tokens": 16}
    monkeypatch.setattr(decode_loop, "DROP_SHARE", 2)
    never = run(model, max_rows=1000, **options)
    assert not trims
    # 1 and 3: a group is split; 7: groups one by one; 10: two at a time; 1000: everything at once
    for max_rows in (1, 3, 7, 10, 1000):
        monkeypatch.setattr(decode_loop, "DROP_SHARE", 1e-9)
        done = run(model, max_rows=max_rows, **options)
        assert answers(done) == answers(never)
        torch.testing.assert_close(done.logps_BT, never.logps_BT, atol=1e-4, rtol=0)
    assert bool(trims) == (name == "rotary")  # other caches keep their padded columns


def test_a_part_of_a_groups_answers_is_that_of_the_whole() -> None:
    """Whoever writes the others."""
    model, options = tiny(), {"eos_ids": range(50, 64), "pad_id": 0, "seed": 4, "keys": [7, 2, 5, 0]}
    whole = answers(sample(model, PROMPTS, SamplingArgs(n=6, max_new_tokens=16), **options))
    for first in (0, 2, 4):
        part = answers(sample(model, PROMPTS, SamplingArgs(n=2, max_new_tokens=16), first=first, **options))
        assert part == [whole[6 * group + first + answer] for group in range(4) for answer in range(2)]
    assert len({tuple(answer) for answer in whole[:6]}) == 6


def test_same_seed_same_answers_and_another_seed_others() -> None:
    model = tiny()
    for engine in ("loop", "generate"):
        first, again, other = (
            answers(run(model, n=4, max_new_tokens=8, engine=engine, seed=seed)) for seed in (1, 1, 2)
        )
        later = sample(
            model, PROMPTS, SamplingArgs(n=4, max_new_tokens=8, engine=engine), eos_ids=(2,), pad_id=0, seed=1, first=4
        )
        assert not {tuple(answer) for answer in answers(later)} & {tuple(answer) for answer in first}
        assert first == again != other
        assert len({tuple(answer) for answer in first[:4]}) == 4  # answers to one prompt differ


def test_the_global_random_state_is_left_alone() -> None:
    model = tiny()
    for engine in ("loop", "generate"):
        torch.manual_seed(5)
        run(model, n=2, max_new_tokens=3, engine=engine)
        after = torch.rand(3)
        torch.manual_seed(5)
        assert torch.equal(after, torch.rand(3))


# ------------------------------------------------------------------------------------------------------- distribution


def filtered(probs: list[float], top_k: int, top_p: float) -> list[float]:
    """Top-k, then top-p over what is left, by the definition."""
    ranked = sorted(range(len(probs)), key=lambda v: -probs[v])[: top_k or len(probs)]
    total, mass, nucleus = sum(probs[v] for v in ranked), 0.0, []
    for v in ranked:
        if mass < top_p * total:
            nucleus.append(v)
        mass += probs[v]
    return [probs[v] / sum(probs[k] for k in nucleus) if v in nucleus else 0.0 for v in range(len(probs))]


@pytest.mark.parametrize("engine", ["loop", "generate"])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "critical"),
    [
        (1.0, 0, 1.0, 103.4),  # chi-square, 63 degrees of freedom, p = 0.001
        (0.6, 0, 1.0, 103.4),
        (1.0, 3, 1.0, 27.9),  # at most 9 cells
        (1.0, 0, 0.7, 103.4),
        (1.5, 6, 0.8, 66.6),  # at most 36 cells
    ],
)
def test_pairs_of_tokens_are_drawn_with_their_probability(temperature, top_k, top_p, critical, engine) -> None:
    model, prompt, n = tiny(vocab_size=8, spread=0.15), [3, 5, 1], 5000
    with torch.no_grad():
        first_logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        second_logits = model(input_ids=torch.tensor([[*prompt, v] for v in range(8)])).logits[:, -1]
    first = filtered((first_logits / temperature).softmax(-1).tolist(), top_k, top_p)
    second = [filtered(row.tolist(), top_k, top_p) for row in (second_logits / temperature).softmax(-1)]
    expected = {(a, b): n * first[a] * second[a][b] for a in range(8) for b in range(8)}

    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "engine": engine}
    done = run(model, [prompt], eos_ids=[], n=n, max_new_tokens=2, max_rows=n, **options)
    counts = Counter(map(tuple, done.tokens_BT.tolist()))
    assert all(expected[pair] > 0 for pair in counts)
    assert sum((counts[pair] - e) ** 2 / e for pair, e in expected.items() if e > 0) < critical


@pytest.mark.parametrize("vocabulary", [1, 5, 128, 300, 1000])
def test_inversion_finds_the_token_of_the_exact_cumulative_sum(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    weights = torch.randint(0, 4, (50, vocabulary), generator=generator).float()
    weights[:, vocabulary // 3] += 1  # none is all zero
    uniform = torch.rand(50, generator=generator, dtype=torch.float64)
    tokens = invert_cdf(weights, uniform).tolist()
    for row in range(50):
        sums = list(accumulate(int(w) for w in weights[row]))
        target = Fraction(uniform[row].item()) * sums[-1]
        assert tokens[row] == next(v for v, total in enumerate(sums) if total > target)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_inversion_never_finds_a_token_of_weight_zero(uniform: float) -> None:
    rows = torch.zeros(3, 700)
    rows[0, 300] = 1e-30  # alone
    rows[1, 129:131] = 0.1  # zeros on both sides, within and across buckets
    rows[2, 128:640] = torch.rand(512, generator=torch.Generator().manual_seed(0))
    tokens = invert_cdf(rows, torch.full((3,), uniform, dtype=torch.float64))
    assert tokens.tolist() == [300, 129 if uniform == 0 else 130, 128 if uniform == 0 else 639]


def test_top_p_finds_nuclei_larger_than_the_first_guess() -> None:
    # 3000 equally probable tokens, then 1000 of almost no probability: half the mass takes more than 1024 tokens.
    logits = torch.zeros(400, 4000)
    logits[:, :3000] = torch.linspace(20.001, 20, 3000)
    uniform = torch.linspace(0, 1 - 1e-9, 400, dtype=torch.float64)
    tokens, logps = sample_token(logits, uniform, temperature=1.0, top_k=0, top_p=0.5)
    assert int(tokens.max()) == pytest.approx(1500, abs=5)
    torch.testing.assert_close(logps, torch.full((400,), 3000.0).log().neg(), atol=2e-3, rtol=0)


# ------------------------------------------------------------------------------------------------- where answers end


@pytest.mark.parametrize("engine", ["loop", "generate"])
def test_every_end_token_ends_an_answer_and_belongs_to_it(engine: str) -> None:
    model, options = tiny(), {"n": 1, "max_new_tokens": 12, "temperature": 0.0, "engine": engine}
    (full,) = answers(run(model, [[5, 6]], eos_ids=[], **options))
    early, late = full[2], next(token for token in full[4:] if token not in full[:4])
    for eos_ids in ([early], [late], [late, early]):
        done = run(model, [[5, 6]], eos_ids=eos_ids, **options)
        cut = min(full.index(token) for token in eos_ids) + 1
        assert answers(done) == [full[:cut]]
        assert done.finish == ["stop"]
        assert bool((done.logps_BT < 0).all())


def test_an_answer_cut_at_the_limit_is_marked_and_one_ending_there_is_not() -> None:
    model, options = tiny(), {"n": 1, "temperature": 0.0}
    (full,) = answers(run(model, [[5, 6]], eos_ids=[], max_new_tokens=6, **options))
    last = next(i for i in range(1, 6) if full[i] not in full[:i])
    done = run(model, [[5, 6]], eos_ids=[full[last]], max_new_tokens=last + 1, **options)
    assert (len(answers(done)[0]), done.finish) == (last + 1, ["stop"])
    done = run(model, [[5, 6]], eos_ids=[full[last]], max_new_tokens=last, **options)
    assert (len(answers(done)[0]), done.finish) == (last, ["length"])


@pytest.mark.parametrize("engine", ["loop", "generate"])
def test_the_padding_token_may_be_an_end_token_and_stand_in_prompts(engine: str) -> None:
    model = tiny()
    prompts = [[2, 5], [9, 2, 2, 8, 7, 2], [2]]  # 2 is padding, end token and an ordinary part of prompts
    options = {"eos_ids": [2, 3, 50, 51, 52], "n": 4, "max_new_tokens": 10, "engine": engine}
    as_pad, other_pad = run(model, prompts, pad_id=2, **options), run(model, prompts, pad_id=0, **options)
    assert answers(as_pad) == answers(other_pad)
    for answer, reason in zip(answers(as_pad), as_pad.finish, strict=True):
        assert (answer[-1] in options["eos_ids"]) == (reason == "stop")
    assert set(as_pad.finish) == {"stop", "length"}


# ------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("engine", ["loop", "generate"])
def test_the_models_own_generation_defaults_do_not_leak(engine: str) -> None:
    model, options = tiny(), {"n": 4, "max_new_tokens": 8, "engine": engine}
    plain = answers(run(model, **options))
    defaults = GenerationConfig(do_sample=True, top_k=1, temperature=0.1, repetition_penalty=9.0, min_new_tokens=7)
    model.generation_config = defaults
    assert answers(run(model, **options)) == plain
    assert model.generation_config is defaults


@pytest.mark.parametrize("engine", ["loop", "generate"])
def test_adapters_take_part(engine: str) -> None:
    model, options = tiny(), {"n": 1, "max_new_tokens": 8, "temperature": 0.0, "eos_ids": [], "engine": engine}
    bare = answers(run(model, **options))
    torch.manual_seed(0)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).eval()
    got = answers(run(adapted, **options))
    assert got != bare
    assert got == [greedy_by_transformers(adapted.get_base_model(), prompt, [], 8) for prompt in PROMPTS]
    with adapted.disable_adapter():
        assert answers(run(adapted, **options)) == bare


def test_an_image_text_model_answers_text() -> None:
    vision: dict[str, Any] = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    tokens: dict[str, Any] = {
        "image_token_id": 60,
        "video_token_id": 61,
        "vision_start_token_id": 62,
        "vision_end_token_id": 63,
    }
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(text_config={**SIZE, "rope_parameters": rope}, vision_config=vision, **tokens)
    model = scatter(AutoModelForImageTextToText.from_config(config), 0.3)
    done = run(model, eos_ids=[], n=1, max_new_tokens=8, temperature=0.0)
    assert answers(done) == [greedy_by_transformers(model, prompt, [], 8) for prompt in PROMPTS]


def test_a_model_with_another_kind_of_cache_falls_back_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    config = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, pad_token_id=0, eos_token_id=2)
    torch.manual_seed(0)
    model = scatter(AutoModelForCausalLM.from_config(config), 0.3)
    engines._warn_fallback.cache_clear()
    with caplog.at_level(logging.WARNING, logger="lit_uniopd"):
        first, again = (run(model, PROMPTS[:1], n=2, max_new_tokens=4, eos_ids=[]) for _ in range(2))
    assert answers(first) == answers(again)
    assert [record.message for record in caplog.records if record.name.startswith("lit_uniopd")] == [
        "sampling.engine=loop cannot split the cache of MambaForCausalLM; sampling.engine=generate is used instead."
    ]


# -------------------------------------------------------------------------------------------------------------- shape


@pytest.mark.parametrize("engine", ["loop", "generate"])
def test_progress_counts_answers_up_to_all_of_them(engine: Any) -> None:
    calls: list[tuple[int, int]] = []
    args = SamplingArgs(n=5, max_new_tokens=8, max_rows=10, engine=engine)  # two batches of ten
    sample(
        tiny(),
        PROMPTS,
        args,
        eos_ids=range(40, 64),
        pad_id=0,
        seed=0,
        on_progress=lambda done, all_: calls.append((done, all_)),
    )
    counts = [done for done, _ in calls]
    assert counts == sorted(set(counts))
    assert calls[-1] == (20, 20)
    assert {total for _, total in calls} == {20}


def test_greedy_answers_to_a_prompt_are_copies_beside_each_other() -> None:
    done = run(tiny(), n=3, max_new_tokens=5, temperature=0.0, eos_ids=[])
    rows = answers(done)
    assert len(rows) == len(done.finish) == 12
    assert all(rows[3 * i] == rows[3 * i + 1] == rows[3 * i + 2] for i in range(4))
    assert rows[0] != rows[3]


def test_completions_can_take_part_in_a_later_backward_pass() -> None:
    done = run(tiny(), n=2, max_new_tokens=3)
    assert not done.logps_BT.is_inference()
    weight = torch.ones((), requires_grad=True)
    (weight * done.logps_BT).sum().backward()
    assert weight.grad == done.logps_BT.sum()


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n", 0, "sampling.n must be at least 1, got 0."),
        ("max_new_tokens", 0, "sampling.max_new_tokens must be at least 1, got 0."),
        ("temperature", -0.1, r"sampling.temperature must be 0 \(greedy\) or more, got -0.1."),
        ("temperature", float("nan"), r"sampling.temperature must be 0 \(greedy\) or more, got nan."),
        ("top_p", 1.5, r"sampling.top_p must be in \(0, 1\], got 1.5."),
        ("top_p", 0.0, r"sampling.top_p must be in \(0, 1\], got 0.0."),
        ("top_k", -1, r"sampling.top_k must be 0 \(off\) or more, got -1."),
        ("max_rows", 0, "sampling.max_rows must be at least 1, got 0."),
        ("engine", "sglang", "sampling.engine must be auto, loop, generate or vllm, got sglang."),
    ],
)
def test_a_wrong_flag_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        SamplingArgs(**{field: value})  # type: ignore[arg-type]


def test_what_cannot_be_sampled_is_refused() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="prompt_tokens must hold at least one prompt"):
        run(model, [])
    with pytest.raises(ValueError, match="each at least one token"):
        run(model, [[1], []])
    with pytest.raises(ValueError, match="model must be in eval mode"):
        run(model.train())
    with pytest.raises(UserError, match=r"sampling.max_new_tokens=120 does not fit.*128 positions.*lower it to 117"):
        run(tiny("learned positions"), max_new_tokens=120)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_diverged_model_is_noticed(temperature: float) -> None:
    model: Any = tiny()
    model.get_output_embeddings().weight.data[3] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        run(model, max_new_tokens=3, temperature=temperature)
