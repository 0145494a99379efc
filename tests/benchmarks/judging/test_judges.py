"""Judges behind an address and in this process."""

import math
from typing import Any

import pytest
import torch
from judged_runs import by_letter, judge_server

from lit_uniopd.benchmarks.judging.judges import LocalJudge, Reply, ServerJudge
from lit_uniopd.errors import UserError
from lit_uniopd.policy import Policy

PAIR = "<answer_A>\nlonger\n</answer_A> <answer_B>\nshort\n</answer_B>"
QUESTIONS = [[{"role": "system", "content": "Be fair."}, {"role": "user", "content": PAIR + "!" * i}] for i in range(6)]


def test_a_server_is_asked_as_openai_and_its_key_goes_nowhere_else(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "very-secret")
    with judge_server(by_letter) as server:
        judge = ServerJudge(server.url + "/", "big", 7, {"seed": 3, "temperature": None}, api_key_variable="JUDGE_KEY")
        replies = dict(judge.ask(QUESTIONS, ("A", "B")))
        assert sorted(replies) == list(range(6))
        assert set(server.paths) == {("/v1/chat/completions", "Bearer very-secret")}
        expected = {"model": "big", "max_tokens": 7, "logprobs": True, "top_logprobs": 5, "seed": 3}
        for body in server.requests:
            assert body.pop("messages") in QUESTIONS
            assert body == expected
    share = 1 / (1 + math.exp(-0.1))
    assert replies[0].letter_logps["A"] == pytest.approx(math.log(0.8 * share))
    assert (replies[0].tokens_in, replies[0].tokens_out, replies[0].served_model) == (11, 3, "judge-2026-01-01")
    assert "very-secret" not in str(judge.identity)
    assert "127.0.0.1" not in str(judge.identity)
    assert judge.count_tokens(QUESTIONS[0]) == (math.ceil((8 + len(PAIR)) / 4), True)


def test_a_question_that_is_refused_is_no_reply_and_others_go_on():
    with judge_server(by_letter) as server:
        server.status = lambda body: 400 if body["messages"][-1]["content"].endswith("!!!!!") else 200
        replies = dict(ServerJudge(server.url, "big", 1, {}).ask(QUESTIONS, None))
    assert replies[5] == Reply(refusal=replies[5].refusal)
    assert "answers 400" in replies[5].refusal
    assert all(not replies[i].refusal and replies[i].text == "A" for i in range(5))


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (400, r"answers 400 .*; mend the request by --options"),
        (401, r"answers 401 .*; check --url, --judge and the key in \$OPENAI_API_KEY.*verdicts so far are kept"),
        (404, "answers 404"),
    ],
)
def test_a_server_that_refuses_all_stops_the_judging(status, sentence):
    with judge_server(by_letter) as server:
        server.status = lambda body: status
        with pytest.raises(UserError, match=sentence):
            list(ServerJudge(server.url, "big", 1, {}).ask(QUESTIONS, None))


def test_replies_without_log_probs_or_of_another_kind_are_told():
    with judge_server(lambda body: {"message": {"content": "A"}}) as server:
        assert next(iter(ServerJudge(server.url, "big", 1, {}).ask(QUESTIONS, None)))[1].text == "A"
        with pytest.raises(UserError, match="gives no log-probs with its replies; ask by --verdict text"):
            list(ServerJudge(server.url, "big", 1, {}).ask(QUESTIONS, ("A", "B")))
    with (
        judge_server(lambda body: {"text": "A"}) as server,
        pytest.raises(UserError, match="something else than a chat completion"),
    ):
        list(ServerJudge(server.url, "big", 1, {}).ask(QUESTIONS, None))
    with pytest.raises(UserError, match="must begin with http"):
        ServerJudge("localhost:8000/v1", "big", 1, {})


def test_a_model_here_gives_the_log_probs_of_its_own_forward_pass():
    judge = LocalJudge("playground:tiny_text", 1, {"dtype": "float32"}, max_rows=4)
    replies = dict(judge.ask(QUESTIONS, ("A", "B")))
    policy: Policy = judge.policy
    for i, question in enumerate(QUESTIONS):
        text: Any = policy.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        ids = policy.tokenizer(text, add_special_tokens=False).input_ids
        with torch.no_grad():
            logps = policy.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        for letter in "AB":
            (token,) = policy.tokenizer(letter, add_special_tokens=False).input_ids
            assert replies[i].letter_logps[letter] == pytest.approx(float(logps[token]), abs=1e-4)
        assert replies[i].tokens_in == judge.count_tokens(question)[0] == len(ids)
        assert replies[i].text == max("AB", key=replies[i].letter_logps.__getitem__)
    assert judge.count_tokens(QUESTIONS[0])[1] is False
    assert judge.identity["weights"]


@pytest.mark.parametrize("engine", ["loop", "generate"])
def test_a_model_here_writes_by_any_engine(engine):
    judge = LocalJudge("playground:tiny_text", 5, {"dtype": "float32"}, engine=engine, max_rows=2)
    replies = dict(judge.ask(QUESTIONS[:3], None))
    policy: Policy = judge.policy
    text: Any = policy.tokenizer.apply_chat_template(QUESTIONS[1], tokenize=False, add_generation_prompt=True)
    ids = policy.tokenizer(text, add_special_tokens=False).input_ids
    written = list(ids)
    with torch.no_grad():
        for _ in range(5):
            written.append(int(policy.model(torch.tensor([written])).logits[0, -1].argmax()))
            if written[-1] in policy.eos_ids:
                break
    assert replies[1].text == policy.tokenizer.decode(written[len(ids) :], skip_special_tokens=True)
    assert replies[1].tokens_out == len(written) - len(ids)


def test_what_a_model_here_cannot_do_is_told(new_model):
    with pytest.raises(UserError, match=r"--options \{'seed': 3\} are not those of a model"):
        LocalJudge("playground:tiny_text", 1, {"seed": 3})
    with pytest.raises(UserError, match=r"--judge.path ./none: there is no such directory"):
        LocalJudge("./none", 1, {})
    judge = LocalJudge(new_model(), 200, {})
    with pytest.raises(UserError, match="has 256 positions, and 6 of 6 questions do not fit beside replies of 200"):
        list(judge.ask(QUESTIONS, None))
