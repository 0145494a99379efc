"""Conversations: each question is asked behind the answers to those before."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_uniopd.benchmarks import conversation
from lit_uniopd.benchmarks.conversation import last_prompts, most_turns, write_conversations
from lit_uniopd.benchmarks.engine import EvalArgs, sampling_args
from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.benchmarks.spec import Benchmark, Generation
from lit_uniopd.policy import Policy, PolicyArgs

QUESTIONS = ("1+2=?", "2+2=?", "3+1=?")
NEW_TOKENS = 6


@pytest.fixture(scope="module")
def path(model_dirs) -> str:
    return model_dirs["student"]


@pytest.fixture(scope="module")
def policy(path) -> Policy:
    return Policy.load(PolicyArgs(path=path), trainable=False, flag="model.policy")


def talking(generation: Generation) -> Benchmark:
    """A conversation beside a question of one turn."""
    rows = load_benchmark(find_spec("math500"), "fixture")
    talk, single = (
        replace(row, messages=({"role": "user", "content": question},))
        for row, question in zip(rows.examples[:2], QUESTIONS[:2], strict=True)
    )
    return replace(rows, examples=[replace(talk, turns=QUESTIONS), single], generation=generation)


def answers(policy: Policy, benchmark: Benchmark) -> list[tuple[str, int, str]]:
    sampling = sampling_args(benchmark.generation, EvalArgs().settled_for(policy))
    return write_conversations(policy, benchmark, benchmark.examples, sampling, seed=3)


def by_transformers(path: str, questions: tuple[str, ...]) -> tuple[list[str], int]:
    """Greedy answers to one question after the other, and their tokens, by the library alone."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path)
    chat, texts, tokens = [], [], 0
    for question in questions:
        chat.append({"role": "user", "content": question})
        encoded = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            written = model.generate(**encoded, max_new_tokens=NEW_TOKENS, do_sample=False)
        answer = written[0, encoded["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(answer, skip_special_tokens=True))
        tokens += len(answer)
        chat.append({"role": "assistant", "content": texts[-1]})
    return texts, tokens


def test_each_turn_is_asked_behind_the_answers_before_it(policy, path):
    (talk, talk_tokens, _), (single, single_tokens, _) = answers(policy, talking(Generation(max_new_tokens=NEW_TOKENS)))
    texts, tokens = by_transformers(path, QUESTIONS)
    assert talk == "".join(f"A{i}: {text}\n" for i, text in enumerate(texts, 1))
    assert talk_tokens == tokens
    (text,), tokens = by_transformers(path, QUESTIONS[1:2])
    assert (single, single_tokens) == (text, tokens)


@pytest.mark.parametrize(
    ("ends", "expected"), [(("stop", "length", "stop"), "length"), (("stop", "stop", "stop"), "stop")]
)
def test_a_conversation_is_cut_where_any_of_its_turns_is(policy, monkeypatch, ends, expected):
    turns = iter(ends)

    def scripted(_policy, prompts, _args, **_):
        end = next(turns)
        lengths = torch.tensor([7] * len(prompts))
        return SimpleNamespace(text=["so#on"] * len(prompts), lengths_B=lengths, finish=[end] * len(prompts))

    monkeypatch.setattr(conversation, "write_answers", scripted)
    benchmark = talking(Generation(stop=("#",)))
    (talk, single) = answers(policy, benchmark)
    assert talk == ("A1: so\nA2: so\nA3: so\n", 21, expected)
    assert single == ("so", 7, "stop")


def test_each_of_several_answers_is_asked_on_behind_its_own(policy, monkeypatch):
    conversations = []

    def scripted(_policy, prompts, args, **_):
        conversations.append([[message["content"] for message in prompt.messages] for prompt in prompts])
        texts = [f"{len(conversations)}.{i}" for i in range(len(prompts) * args.n)]
        return SimpleNamespace(text=texts, lengths_B=torch.ones(len(texts)), finish=["stop"] * len(texts))

    monkeypatch.setattr(conversation, "write_answers", scripted)
    talks = [text for text, *_ in answers(policy, talking(Generation(n=2)))]
    first, second, third = QUESTIONS
    assert conversations[1] == [[first, "1.0", second], [first, "1.1", second]]
    assert conversations[2] == [[first, "1.0", second, "2.0", third], [first, "1.1", second, "2.1", third]]
    assert talks == ["A1: 1.0\nA2: 2.0\nA3: 3.0\n", "A1: 1.1\nA2: 2.1\nA3: 3.1\n", "1.2", "1.3"]


def test_sampled_answers_go_on_from_their_own_history(policy):
    hot = Generation(n=3, max_new_tokens=NEW_TOKENS, temperature=3.0)
    talks = [text for text, *_ in answers(policy, talking(hot))]
    assert len(talks) == 6
    assert [text.startswith("A1: ") for text in talks] == [True] * 3 + [False] * 3
    assert len(set(talks[:3])) == 3
    assert talks == [text for text, *_ in answers(policy, talking(hot))]  # and the same noise writes the same


def test_the_longest_prompt_of_a_conversation_has_room_for_its_answers():
    benchmark = talking(Generation())
    (talk, single) = last_prompts(benchmark)
    assert [message["role"] for message in talk.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert [m["content"] for m in talk.messages] == [QUESTIONS[0], "", QUESTIONS[1], "", QUESTIONS[2]]
    assert len(single.messages) == 1
    assert (most_turns(benchmark.examples), most_turns(benchmark.examples[1:])) == (3, 1)
