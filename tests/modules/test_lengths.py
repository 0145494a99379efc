"""Lengths beyond positions, and validation at other lengths or prompts than training."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import CHAT, make_tokenizer, prompts

from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.benchmarks.spec import Generation
from lit_uniopd.modules import lengths
from lit_uniopd.modules.lengths import beyond_positions, beyond_servers, shortened_benchmarks, unlike_lengths
from lit_uniopd.modules.lossy_sources import source_objections
from lit_uniopd.modules.unlike_prompts import unlike_benchmark_prompts, unlike_system_prompts
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.args import ServerArgs
from lit_uniopd.types import Prompt

ROTARY = {"model_type": "qwen3", "max_position_embeddings": 256}
LEARNED = {"model_type": "gpt2", "n_positions": 256}
RECURRENT = {"model_type": "mamba"}


@pytest.mark.parametrize(
    ("config", "prompt", "answer", "refused"),
    [
        (ROTARY, 200, 56, None),
        (ROTARY, 200, 57, False),
        (LEARNED, 200, 56, None),
        (LEARNED, 200, 57, True),
        (LEARNED, 300, 57, True),
        (RECURRENT, 10_000, 10_000, None),
        # A window of attention slides: it is no end of the positions.
        ({"model_type": "mistral", "max_position_embeddings": 256, "sliding_window": 16}, 200, 50, None),
    ],
)
def test_beyond_the_positions_of_a_model(config, prompt, answer, refused):
    option = "--model.sampling.max_new_tokens"
    objections = list(
        beyond_positions(PolicyArgs(config=config), "model.student", prompt=prompt, answer=answer, option=option)
    )
    assert [objection.refused for objection in objections] == ([] if refused is None else [refused])
    if objections:
        remedy = f"lower {option} to {256 - prompt}, or drop" if prompt < 256 else "; drop long prompts"
        assert remedy in objections[0].message


@pytest.mark.parametrize(
    ("limits", "prompt", "refused"), [([64, 32], 12, False), ([64, 32], 13, True), ([64], 44, False), ([], 999, False)]
)
def test_beyond_what_the_servers_take(monkeypatch, limits, prompt, refused):
    monkeypatch.setattr(lengths, "connect", lambda _: SimpleNamespace(limits=limits))
    server = ServerArgs(urls=["http://localhost:1"], model="m", directory="/tmp/x")
    sampling = SamplingArgs(engine="vllm", server=server, max_new_tokens=20)
    objections = list(beyond_servers(sampling, prompt))
    assert [objection.refused for objection in objections] == [True] * refused
    assert not refused or "lower --model.sampling.max_new_tokens to 19, or start" in objections[0].message


@pytest.mark.parametrize(
    ("training", "validation", "word"),
    [(1024, 1024, None), (1024, 1500, None), (16384, 1024, "cuts answers"), (1024, 16384, "lets answers end")],
)
def test_validation_at_another_length(training, validation, word):
    messages = [objection.message for objection in unlike_lengths(training, validation)]
    assert len(messages) == (word is not None)
    assert word is None or word in messages[0]


def test_benchmarks_that_a_profile_cuts():
    benchmark = load_benchmark(find_spec("math500"), "fixture")
    long = replace(benchmark, spec=replace(benchmark.spec, generation=Generation(max_new_tokens=16384)))
    curve = replace(long, profile="curve", generation=Generation(max_new_tokens=4096))
    short = replace(long, spec=replace(benchmark.spec, generation=Generation(max_new_tokens=16)))
    [objection] = shortened_benchmarks([curve], 16384)
    assert "Profile curve cuts the answers of 1 benchmarks far before training's 16384 tokens" in objection.message
    assert list(shortened_benchmarks([curve], 4096)) == []
    assert list(shortened_benchmarks([replace(short, generation=Generation(max_new_tokens=16))], 16384)) == []


def with_system(text: str | None) -> Prompt:
    prompt = prompts(1)[0]
    return prompt if text is None else replace(prompt, messages=({"role": "system", "content": text}, *prompt.messages))


@pytest.mark.parametrize(
    ("training", "heldout", "words"),
    [
        ([None], [None], None),
        (["a"], ["a"], None),
        (["a", None], ["a"], None),
        ([], ["a"], None),
        (["a"], [], None),
        (["a"], [None], "Training prompts have the system prompt 'a' and held-out prompts no system prompt"),
        ([None], ["b"], "no system prompt and held-out prompts the system prompt 'b'"),
        (["a", "c"], ["b"], "2 other system prompts"),
    ],
)
def test_system_prompts_of_one_split_alone(training, heldout, words):
    splits = [[with_system(text) for text in texts] for texts in (training, heldout)]
    messages = [objection.message for objection in unlike_system_prompts(*splits)]
    assert len(messages) == (words is not None)
    assert words is None or words in messages[0]


def test_a_thinking_mode_that_benchmarks_set_alone():
    thinks = make_tokenizer(CHAT + "{% if enable_thinking %}<pad>{% endif %}")
    benchmark = load_benchmark(find_spec("math500"), "fixture")

    def said(processor: Any, **options: Any) -> list[str]:
        args = PolicyArgs(path="x", chat_template_kwargs=options)
        return [o.message for o in unlike_benchmark_prompts([benchmark], args, "model.student", processor)]

    [message] = said(thinks)
    assert message.startswith("Benchmarks are answered with enable_thinking false, and training leaves it")
    assert message.endswith("write it out by --model.student.chat_template_kwargs.enable_thinking.")
    assert said(thinks, enable_thinking=True) == said(make_tokenizer()) == []


def test_sources_that_lose_rows_or_ends():
    report = {"rows": 100, "long_prompts": 0, "identical": 0, "empty": 0, "cut": 0}

    def said(**counts: int) -> list[str]:
        reports = {"--data.train": SimpleNamespace(**{**report, **counts}), "val": [SimpleNamespace(**report)]}
        return [objection.message for objection in source_objections(reports)]

    assert said() == said(long_prompts=10) == said(cut=20) == []
    useless, long, both = (
        said(**counts)[0]
        for counts in ({"identical": 8, "empty": 4}, {"long_prompts": 12}, {"long_prompts": 6, "empty": 6})
    )
    assert all(message.startswith("train loses 12% of its rows: ") for message in (useless, long, both))
    assert ["--data.max_prompt_tokens" in message for message in (useless, long, both)] == [False, True, True]
    assert ["uniopd data show" in message for message in (useless, long, both)] == [True, False, True]
    assert said(cut=40)[0].startswith("train has 20% of its answers cut by max_length")
