"""Scorers that judge steps, or ask a server."""

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest
import torch
from tiny import make_tokenizer
from transformers import Qwen3Config, Qwen3ForTokenClassification

from lit_uniopd.errors import UserError
from lit_uniopd.scorers import Judge, ProcessRewardModel

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def step_judge(tmp_path_factory) -> str:
    """A random classifier of tokens, two labels."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("prm")
    tokenizer = make_tokenizer()
    options: dict[str, Any] = {"num_labels": 2, "pad_token_id": 0}
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        **options,
    )
    model = Qwen3ForTokenClassification(config)
    with torch.no_grad():
        model.score.weight.mul_(3)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_an_answer_is_worth_its_worst_step(step_judge):
    scorer = ProcessRewardModel(step_judge, scale=10.0)
    model = Qwen3ForTokenClassification.from_pretrained(step_judge).eval()
    tokenizer = make_tokenizer()
    steps = ["1+1=2", "2+1=4", "so 4"]
    ids, step_scores = [tokenizer.bos_token_id, *tokenizer("what?").input_ids], []
    for step in steps:  # one step more at a time, judged at its last token
        ids += tokenizer(step + "\n").input_ids
        step_scores.append(10 * float(model(torch.tensor([ids])).logits[0, -1].softmax(-1)[1].detach()))
    assert max(step_scores) - min(step_scores) > 0.1
    assert scorer.score("what?", "\n\n".join(steps), CPU) == pytest.approx(min(step_scores), abs=1e-4)
    # More blank lines do not make more steps.
    assert scorer.score("what?", "\n\n\n\n".join(steps) + "\n\n", CPU) == pytest.approx(min(step_scores), abs=1e-4)


def test_steps_of_a_conversation_are_judged_in_the_models_own_template(step_judge):
    """As Qwen2.5-Math-PRM reads them: a separator behind each step of the assistant's turn."""
    scorer = ProcessRewardModel(step_judge, separator="}", as_chat=True, system="be brief")
    model = Qwen3ForTokenClassification.from_pretrained(step_judge).eval()
    tokenizer: Any = make_tokenizer()
    steps = ["1+1=2", "2+1=4", "so 4"]
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what }?"}]
    turns += [{"role": "assistant", "content": "1+1=2}2+1=4}so 4}"}]
    ids = torch.tensor([tokenizer(tokenizer.apply_chat_template(turns, tokenize=False)).input_ids])
    probs = model(ids).logits[0].softmax(-1)[:, 1]
    ends = (ids[0] == tokenizer.convert_tokens_to_ids("}")).nonzero()[1:, 0]
    assert len(ends) == 3
    score = scorer.score("what }?", "\n\n".join(steps), CPU)
    assert score == pytest.approx(10 * float(probs[ends].min().detach()), abs=1e-4)
    assert math.isnan(scorer.score("what?", " ", CPU))


def test_a_model_that_was_never_trained_to_judge_is_refused(model_dirs):
    """A classifier's head that no file has would be random, and so would be every pair."""
    with pytest.raises(UserError, match="is no process reward model: it has no weights for score"):
        ProcessRewardModel(model_dirs["student"]).score("a", "b", CPU)


def test_answers_without_steps_or_too_long_have_no_score(step_judge):
    assert math.isnan(ProcessRewardModel(step_judge).score("what?", " \n\n ", CPU))
    assert math.isnan(ProcessRewardModel(step_judge, max_length=8).score("what?", "1+1=2", CPU))


def test_a_process_reward_model_needs_two_labels(tmp_path, step_judge):
    with pytest.raises(UserError, match="cannot be loaded"):
        ProcessRewardModel(str(tmp_path)).score("a", "b", CPU)
    Qwen3ForTokenClassification.from_pretrained(step_judge, num_labels=3, ignore_mismatched_sizes=True).save_pretrained(
        tmp_path
    )
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has 3 labels; choose one with two"):
        ProcessRewardModel(str(tmp_path)).score("a", "b", CPU)


class Endpoint(BaseHTTPRequestHandler):
    """Marks an answer by its length; too busy for the first ``busy`` requests."""

    requests: ClassVar[list[dict[str, Any]]] = []
    busy: ClassVar[int] = 0
    reply: ClassVar[str | None] = None

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Endpoint.requests.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        status = 503 if len(Endpoint.requests) <= Endpoint.busy else 401 if body["model"] == "forbidden" else 200
        answer = body["messages"][0]["content"].split("<answer>\n")[1].split("\n</answer>")[0]
        text = Endpoint.reply or f"[[1]] would be harsh. [[{len(answer)}]]"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": text}}]}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch) -> Iterator[str]:
    monkeypatch.setattr(Endpoint, "requests", [])
    monkeypatch.setattr(Endpoint, "busy", 0)
    monkeypatch.setattr(Endpoint, "reply", None)
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_judge_is_asked_for_a_mark(endpoint, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    judge = Judge(endpoint, "big", api_key_variable="MY_KEY")
    assert judge.mark("user: {answer} or {x}?", "{conversation}"[:7]) == 7.0
    (request,) = Endpoint.requests
    assert (request["path"], request["key"], request["model"]) == ("/v1/chat/completions", "Bearer secret", "big")
    assert "user: {answer} or {x}?" in request["messages"][0]["content"]
    assert request["temperature"] == 0.0


@pytest.mark.parametrize("reply", ["I would rather not.", "[[11]]", "[[0]]", "8/10"])
def test_replies_without_a_mark_give_no_score(endpoint, monkeypatch, reply):
    monkeypatch.setattr(Endpoint, "reply", reply)
    assert math.isnan(Judge(endpoint, "big").mark("user: hello", "hi"))


def test_a_busy_server_is_asked_again_and_a_refusal_is_told(endpoint, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr("lit_uniopd.utils.http.time.sleep", pauses.append)
    monkeypatch.setattr(Endpoint, "busy", 2)
    assert Judge(endpoint, "big").mark("user: hello", "four") == 4.0
    first, second = pauses
    assert 0.25 <= first <= 0.75
    assert 0.5 <= second <= 1.5
    with pytest.raises(UserError, match=r"answers 401 .*; check url, model and the key in \$OPENAI_API_KEY"):
        Judge(endpoint, "forbidden").mark("user: hello", "four")
    assert len(pauses) == 2
    with pytest.raises(UserError, match="cannot be reached"):
        Judge("http://127.0.0.1:9/v1", "big", retries=1).mark("user: hello", "four")


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="must begin with http"):
        Judge("localhost:8000/v1", "big")
    with pytest.raises(UserError, match=r"must have \{conversation\} and \{answer\}"):
        Judge("http://localhost/v1", "big", instruction="Mark this.")
    with pytest.raises(UserError, match="must not be empty"):
        ProcessRewardModel("x", separator="")
