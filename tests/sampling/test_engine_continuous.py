"""transformers' continuous batching against our loop, ``generate`` and exact probabilities."""

from collections import Counter
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from sampling.test_engines import CONFIGS, PROMPTS, answers, filtered, greedy_by_transformers, run, teacher_forced, tiny

from lit_uniopd.errors import UserError
from lit_uniopd.policy.shared_prefix import ATTENTION, enable_packing
from lit_uniopd.sampling import SamplingArgs, sample

RUNNABLE = [name for name in CONFIGS if name != "linear and full"]


@pytest.mark.parametrize("name", RUNNABLE)
def test_greedy_answers_and_log_probs_are_those_of_the_loop_and_of_transformers(name: str) -> None:
    model, eos_ids = tiny(name), [3, *range(56, 64)]
    options: dict[str, Any] = {"eos_ids": eos_ids, "n": 2, "max_new_tokens": 24, "temperature": 0.0}
    before = model.config._attn_implementation
    done, loop = run(model, engine="cb", **options), run(model, engine="loop", **options)
    assert answers(done)[::2] == [greedy_by_transformers(model, prompt, eos_ids, 24) for prompt in PROMPTS]
    assert answers(done) == answers(loop)
    assert done.finish == loop.finish
    assert done.logps_BT.dtype == torch.float32
    torch.testing.assert_close(done.logps_BT, loop.logps_BT, atol=1e-4, rtol=0)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("eos_ids", [[], [2, *range(50, 64)]])
def test_sampled_log_probs_are_those_of_the_whole_softmax_and_rows_stay_beside_each_other(eos_ids) -> None:
    model = tiny()
    options: dict[str, Any] = {"eos_ids": eos_ids, "n": 3, "max_new_tokens": 12, "temperature": 0.7, "max_rows": 5}
    done = run(model, engine="cb", **options)
    for row, answer in enumerate(answers(done)):
        expected = teacher_forced(model, PROMPTS[row // 3], answer, 0.7)
        torch.testing.assert_close(done.logps_BT[row, : len(answer)], expected, atol=1e-4, rtol=0)
        assert (done.finish[row] == "stop") == (answer[-1] in eos_ids)
    assert len({tuple(answer) for answer in answers(done)[:3]}) == 3
    again, other = run(model, engine="cb", **options), run(model, engine="cb", seed=2, **options)
    assert answers(again) == answers(done) != answers(other)


def test_pairs_of_tokens_are_drawn_with_their_probability_and_its_log_probs_are_those_drawn_with() -> None:
    model, prompt, n = tiny(vocab_size=8, spread=0.15), [3, 5, 1], 1500
    with torch.no_grad():
        first_logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        second_logits = model(input_ids=torch.tensor([[*prompt, v] for v in range(8)])).logits[:, -1]
    first = filtered((first_logits / 1.5).softmax(-1).tolist(), 6, 0.8)
    second = [filtered(row.tolist(), 6, 0.8) for row in (second_logits / 1.5).softmax(-1)]
    expected = {(a, b): n * first[a] * second[a][b] for a in range(8) for b in range(8)}
    options: dict[str, Any] = {"temperature": 1.5, "top_k": 6, "top_p": 0.8, "engine": "cb"}
    done = run(model, [prompt], eos_ids=[], n=n, max_new_tokens=2, max_rows=n, **options)
    counts = Counter(map(tuple, done.tokens_BT.tolist()))
    assert all(expected[pair] > 0 for pair in counts)
    assert sum((counts[pair] - e) ** 2 / e for pair, e in expected.items() if e > 0) < 66.6  # 36 cells, p = 0.001
    logps_BT = torch.tensor([[first[a], second[a][b]] for a, b in done.tokens_BT.tolist()]).log()
    torch.testing.assert_close(done.logps_BT, logps_BT, atol=1e-4, rtol=0)


def test_adapters_take_part_and_attention_modes_and_randomness_are_left_as_they_were() -> None:
    adapted: Any = get_peft_model(tiny(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.eval().get_submodule("base_model.model.model.layers.0").training = True  # an odd flag that must survive
    adapted.base_model.training = adapted.training = False
    enable_packing(adapted)
    generation_config = adapted.get_base_model().generation_config
    modes = [module.training for module in adapted.modules()]
    options: dict[str, Any] = {"n": 1, "max_new_tokens": 8, "temperature": 0.0, "eos_ids": []}
    torch.manual_seed(5)
    got = answers(run(adapted, engine="cb", **options))
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    assert [module.training for module in adapted.modules()] == modes
    assert adapted.get_base_model().config._attn_implementation == ATTENTION
    assert adapted.get_base_model().generation_config is generation_config
    assert got == answers(run(adapted, **options))
    with adapted.disable_adapter():
        assert answers(run(adapted, **options)) != got


def test_progress_counts_answers() -> None:
    calls: list[tuple[int, int]] = []
    args = SamplingArgs(n=3, max_new_tokens=4, engine="cb")
    sample(tiny(), PROMPTS, args, eos_ids=[2], pad_id=0, seed=0, on_progress=lambda *counts: calls.append(counts))
    assert calls == [(done, 12) for done in range(1, 13)]


def test_what_it_cannot_do_is_refused_in_one_sentence() -> None:
    pictures = [{}, {"pixel_values": torch.zeros(1)}, {}, {}]
    with pytest.raises(UserError, match=r"^sampling\.engine=cb reads text only and prompt number 1 has pictures"):
        sample(tiny(), PROMPTS, SamplingArgs(n=1, engine="cb"), eos_ids=[], pad_id=0, seed=0, vision=pictures)
    model = tiny("linear and full")
    before = model.config._attn_implementation
    with pytest.raises(
        UserError, match=r"^sampling\.engine=cb cannot run Qwen3_5ForCausalLM .*set sampling\.engine=loop"
    ):
        run(model, engine="cb", max_new_tokens=2)
    assert model.config._attn_implementation == before


def test_an_answer_that_fails_stops_the_run_instead_of_going_missing(monkeypatch) -> None:
    model = tiny("sliding and full, soft cap")  # eager: it switches the attention, and must switch it back
    before, forward = model.config._attn_implementation, type(model).forward
    calls = []

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("device lost")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", broken)
    with pytest.raises(UserError, match=r"continuous batching (failed on an answer \(device lost\)|stopped after)"):
        run(model, engine="cb", n=2, max_new_tokens=8, eos_ids=[])
    assert model.config._attn_implementation == before
