"""Answers, scores and pairs: what is paired, why not, and a run that is killed and goes on."""

import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Prompts, make_tokenizer, module, prompts, trainer
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from callbacks import PairWriter
from datamodules import PairSourceArgs, PromptDataModule, SourceArgs
from datamodules.pair_sources import read_pairs
from lit_uniopd.errors import UserError
from lit_uniopd.modules import Evaluation
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.scorers import RewardModel
from lit_uniopd.scorers.pairing import PairingArgs, ScoredAnswer, pair_answers


def texts(pairs: list[tuple[ScoredAnswer, ScoredAnswer]]) -> list[tuple[str, str]]:
    return [(chosen.text, rejected.text) for chosen, rejected in pairs]


ANSWERS = [
    ScoredAnswer("a", 3.0, 1),
    ScoredAnswer("b", 1.0, 0),
    ScoredAnswer("c", 9.0, 1),
    ScoredAnswer("d", 5.0, 0),
    ScoredAnswer("e", 7.0, 1, finished=False),
    ScoredAnswer("c", 9.0, 1),
    ScoredAnswer("f", math.nan, 1),
    ScoredAnswer("g", 8.0, -1),
]


def test_extremes_are_the_best_against_the_worst():
    left_out: Counter[str] = Counter()
    assert texts(pair_answers(ANSWERS, PairingArgs(max_pairs=9), left_out)) == [("c", "b"), ("g", "a")]
    assert left_out == {"unfinished": 1, "repeated": 1, "unscored": 1}
    assert texts(pair_answers(ANSWERS, PairingArgs())) == [("c", "b")]


def test_correctness_sets_right_against_wrong_answers():
    left_out: Counter[str] = Counter()
    args = PairingArgs(strategy="correctness", max_pairs=9)
    # a (right, 3) is worse than d (wrong, 5): no pair teaches that.
    assert texts(pair_answers(ANSWERS, args, left_out)) == [("c", "b")]
    assert left_out["unknown"] == 1


def test_positive_prefers_right_answers_that_score_less():
    answers = [
        ScoredAnswer("best", 9.0, 1),
        ScoredAnswer("fair", 6.0, 1),
        ScoredAnswer("poor", 5.0, 1),
        ScoredAnswer("wrong", 1.0, 0),
        ScoredAnswer("unknown", 0.0, -1),
    ]
    pairs = {texts(pair_answers(answers[:k], PairingArgs("positive", min_margin=2)))[0] for k in (3, 4, 5)}
    assert pairs <= {("best", "fair"), ("best", "poor")}
    wide = PairingArgs("positive", min_margin=5)
    assert texts(pair_answers(answers, wide)) == [("best", "wrong")]
    assert texts(pair_answers(answers, PairingArgs("positive", min_margin=8.5))) == []
    left_out: Counter[str] = Counter()
    pair_answers(answers, PairingArgs("positive", min_margin=8.5), left_out)
    assert left_out == {"unknown": 1, "small_margin": 1}
    pairs = {
        texts(pair_answers([*answers, ScoredAnswer(f"w{i}", 0.5, 0)], PairingArgs("positive", min_margin=2)))[0]
        for i in range(30)
    }
    assert pairs == {("best", "fair"), ("best", "poor")}  # drawn at random, by what the answers are
    two = texts(pair_answers(answers, PairingArgs("positive", max_pairs=2)))
    assert len({text for pair in two for text in pair}) == 4


@pytest.mark.parametrize(
    ("answers", "args", "reason"),
    [
        ([ScoredAnswer("a", 1.0), ScoredAnswer("b", 1.0)], PairingArgs(), "no_contrast"),
        ([ScoredAnswer("a", 1.0)], PairingArgs(), "no_contrast"),
        ([], PairingArgs(), "no_contrast"),
        ([ScoredAnswer("a", 1.0, 1), ScoredAnswer("b", 0.0, 1)], PairingArgs(strategy="correctness"), "no_contrast"),
        ([ScoredAnswer("a", 1.0), ScoredAnswer("b", 0.5)], PairingArgs(min_margin=0.6), "small_margin"),
        ([ScoredAnswer("a", 1.0), ScoredAnswer("b", 0.0)], PairingArgs(min_chosen=2.0), "poor_best"),
    ],
)
def test_prompts_without_a_pair_say_why(answers, args, reason):
    left_out: Counter[str] = Counter()
    assert pair_answers(answers, args, left_out) == []
    assert left_out == {reason: 1}


answer = st.builds(
    ScoredAnswer, st.sampled_from("abcdefgh"), st.floats(0, 4, width=16), st.sampled_from([-1, 0, 1]), st.booleans()
)


@given(st.lists(answer, max_size=12), st.sampled_from(["extremes", "correctness"]), st.floats(0, 2), st.integers(1, 5))
def test_pairs_are_disjoint_distinct_and_wide_enough(answers, strategy, margin, number):
    pairs = pair_answers(answers, PairingArgs(strategy=strategy, min_margin=margin, max_pairs=number))
    used = [text for pair in texts(pairs) for text in pair]
    assert len(used) == len(set(used)) <= 2 * number
    gaps = [chosen.score - rejected.score for chosen, rejected in pairs]
    assert all(gap >= margin and gap > 0 for gap in gaps)
    assert gaps == sorted(gaps, reverse=True)
    if strategy == "correctness":
        assert all((chosen.outcome, rejected.outcome) == (1, 0) for chosen, rejected in pairs)


def test_arguments_out_of_range_are_named():
    with pytest.raises(UserError, match=r"pairing\.min_margin"):
        PairingArgs(min_margin=-1)
    with pytest.raises(UserError, match=r"pairing\.max_pairs"):
        PairingArgs(max_pairs=0)


class Length(RewardModel):
    """The longer the better: every prompt then has pairs, whatever the random student writes."""

    def __init__(self, name: str = "length") -> None:
        super().__init__(name)
        self.scored = 0

    def __call__(self, rollouts: Any, device: torch.device) -> list[float]:
        self.scored += len(rollouts.text)
        return [float(len(text)) for text in rollouts.text]


def write(paths: dict[str, str], root: Path, scorer: Any, count: int = 6, **pairing: Any) -> Path:
    sampling = SamplingArgs(n=6, max_new_tokens=12)
    data = Prompts(prompts(count), batch_size=2)
    data.val_prompts = data.train_prompts  # which `predict` takes
    writer = PairWriter(str(root / "pairs.jsonl"), scorer, PairingArgs(**pairing))
    trainer(root, callbacks=[writer]).predict(module(paths, val_sampling=sampling), data, return_predictions=False)
    return root / "pairs.jsonl"


@pytest.fixture
def chatty(model_dirs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A random student hardly ever ends an answer; take cut ones for finished."""
    from lit_uniopd.scorers import pairing

    monkeypatch.setattr(
        "callbacks.pair_writer.ScoredAnswer",
        lambda *args, **options: pairing.ScoredAnswer(*args, **options) if options else pairing.ScoredAnswer(*args[:3]),
    )
    return model_dirs


def test_pairs_are_rows_of_the_datamodule(chatty, tmp_path):
    path = write(chatty, tmp_path, Length(), max_pairs=2)
    pairs = read_pairs(PairSourceArgs(path=str(path)), "--data.train")
    assert len(pairs) > 3
    for pair in pairs:
        assert pair.score_chosen == len(pair.chosen) > pair.score_rejected == len(pair.rejected)
        assert pair.prompt.messages[0]["role"] == "user"
        assert pair.prompt.domain in ("math", "code")


def test_a_report_counts_what_became_of_all_answers(chatty, tmp_path):
    path = write(chatty, tmp_path, Length(), max_pairs=2)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    report = json.loads(path.with_suffix(".report.json").read_text())
    assert (report["prompts"], report["answers"], report["pairs"]) == (6, 36, len(rows))
    assert sum(report["pairs_of_domain"].values()) == len(rows)
    gaps = [row["score_chosen"] - row["score_rejected"] for row in rows]
    assert report["score_gap"] == {
        "least": min(gaps),
        "mean": pytest.approx(sum(gaps) / len(gaps)),
        "greatest": max(gaps),
    }
    assert report["longer_by_characters"] == pytest.approx(report["score_gap"]["mean"])  # scores are lengths
    assert report["left_out"].keys() <= {"repeated", "no_contrast"}
    with pytest.raises(UserError, match="None of 6 prompts has a pair"):
        write(chatty, tmp_path, Length(), min_margin=99.0)
    assert json.loads(path.with_suffix(".report.json").read_text())["pairs"] == 0


def test_a_killed_run_goes_on_and_pairs_again_without_new_answers(chatty, tmp_path):
    unbroken = write(chatty, tmp_path / "whole", Length()).read_text()
    first, second, again = Length(), Length(), Length()
    path = write(chatty, tmp_path / "killed", first, count=4)
    answers = path.with_suffix(".answers.jsonl")
    answers.write_text(answers.read_text()[:-20])  # died while it wrote its last line
    assert write(chatty, tmp_path / "killed", second).read_text() != ""
    assert sorted(path.read_text().splitlines()) == sorted(unbroken.splitlines())
    assert (first.scored, second.scored) == (24, 18)
    write(chatty, tmp_path / "killed", again, min_margin=1.0)
    assert again.scored == 0


def test_answers_of_another_scorer_are_not_mixed_in(chatty, tmp_path):
    write(chatty, tmp_path, Length())
    other = Length("other")
    with pytest.raises(UserError, match="has answers that length scored, not other"):
        write(chatty, tmp_path, other, count=8)
    assert other.scored == 0  # refused before the two new prompts are answered


def test_no_pair_at_all_is_an_error_that_says_why(chatty, tmp_path):
    with pytest.raises(UserError, match=r"None of 6 prompts has a pair \(.*6 small_margin.*val_sampling.n"):
        write(chatty, tmp_path, Length(), min_margin=99.0)
    with pytest.raises(UserError, match=r"must end in \.jsonl"):
        PairWriter("pairs.json")


def test_prompts_without_graders_are_refused_before_they_are_answered(model_dirs, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "1=", "answer": "1"}\n')
    data = PromptDataModule(predict=SourceArgs(path=str(tmp_path / "p.jsonl")))
    writer = PairWriter(str(tmp_path / "pairs.jsonl"))
    with pytest.raises(UserError, match=r"No prompt has a grader.*--data\.predict\.grader"):
        trainer(tmp_path, callbacks=[writer]).predict(Evaluation(PolicyArgs(path=model_dirs["student"])), data)
    assert not list(tmp_path.glob("pairs*"))


@pytest.mark.parametrize("options", [{"n": 1}, {"n": 5, "temperature": 0.0}, {"n": 5, "top_k": 1}])
def test_answers_that_cannot_differ_are_refused_before_they_are_written(model_dirs, tmp_path, options):
    (tmp_path / "p.jsonl").write_text('{"prompt": "1=", "answer": "1"}\n')
    data = PromptDataModule(predict=SourceArgs(path=str(tmp_path / "p.jsonl"), grader="exact"))
    model = Evaluation(PolicyArgs(path=model_dirs["student"]), val_sampling=SamplingArgs(**options))
    with pytest.raises(UserError, match=r"a prompt has no two answers that differ, and PairWriter pairs those; set"):
        trainer(tmp_path, callbacks=[PairWriter(str(tmp_path / "pairs.jsonl"))]).predict(model, data)
    assert model.policy is None


def test_golds_that_their_grader_cannot_use_are_told_before_answers_are_written(model_dirs, tmp_path, caplog):
    row = {"prompt": "1=", "answer": {"inputs": ["1"], "outputs": ["1"]}}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    data = PromptDataModule(predict=SourceArgs(path=str(tmp_path / "p.jsonl"), grader="math"))
    trainer(tmp_path).predict(Evaluation(PolicyArgs(path=model_dirs["student"])), data)
    assert "Grader 'math' cannot use the gold answers of 1 of 1 predict prompts of default" in caplog.text
    assert "name another grader by --data.predict.grader" in caplog.text


def answered(paths: dict[str, str], root: Path, n: int) -> Any:
    student = module(paths, val_sampling=SamplingArgs(n=n, max_new_tokens=8))
    (rollouts,) = trainer(root).predict(student, Prompts(prompts(2)))  # type: ignore[misc]
    return rollouts


def reward_model(path: Path, labels: int = 1) -> tuple[Any, Any]:
    """A random one, as its own directory."""
    tokenizer: Any = make_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.num_labels = labels
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification(config).eval()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model, tokenizer


def test_a_reward_model_reads_prompt_and_answer_whatever_the_batch(model_dirs, tmp_path):
    model, tokenizer = reward_model(tmp_path / "judge")
    rollouts = answered(model_dirs, tmp_path, n=3)
    scores = [RewardModel(str(tmp_path / "judge"), batch_size=size)(rollouts, torch.device("cpu")) for size in (1, 4)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    conversation: Any = tokenizer.apply_chat_template(
        [*map(dict, rollouts.prompts[0].messages), {"role": "assistant", "content": rollouts.text[0]}], tokenize=False
    )
    ids = tokenizer(conversation, add_special_tokens=False, return_tensors="pt").input_ids
    assert scores[0][0] == pytest.approx(model(ids).logits.item(), abs=1e-5)
    short = RewardModel(str(tmp_path / "judge"), max_length=1)(rollouts, torch.device("cpu"))
    assert all(math.isnan(score) for score in short)


def test_a_reward_model_that_weighs_its_objectives_is_taken_at_its_score(model_dirs, tmp_path):
    """As ArmoRM's own code: 19 objectives, and their weighted sum of shape ``[B]`` as both `score` and `logits`."""
    rollouts = answered(model_dirs, tmp_path, n=2)
    sizes: list[int] = []

    class Weighing(torch.nn.Module):
        config = SimpleNamespace(pad_token_id=None)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            sizes.append(len(input_ids))
            score = (input_ids * attention_mask).sum(1).float()
            return SimpleNamespace(rewards=torch.zeros(len(input_ids), 19), score=score, logits=score)

    scorer = RewardModel("weighing", batch_size=3)
    scorer._loaded = Weighing(), make_tokenizer()
    one_by_one = scorer(rollouts, torch.device("cpu"))
    assert sizes == [1] * 4  # without a padding token
    Weighing.config.pad_token_id = 0
    assert scorer(rollouts, torch.device("cpu")) == one_by_one
    assert sizes[4:] == [3, 1]
    assert len(set(one_by_one)) > 1


def test_what_is_no_reward_model_is_named(model_dirs, tmp_path):
    rollouts = answered(model_dirs, tmp_path, n=1)
    with pytest.raises(UserError, match="cannot be loaded"):
        RewardModel(str(tmp_path / "none"))(rollouts, torch.device("cpu"))
    with pytest.raises(UserError, match="is no reward model: it has no weights for score"):
        RewardModel(model_dirs["student"])(rollouts, torch.device("cpu"))
    reward_model(tmp_path / "two", labels=2)
    with pytest.raises(UserError, match="has 2 outputs; choose one with a single one"):
        RewardModel(str(tmp_path / "two"))(rollouts, torch.device("cpu"))


def test_rows_are_json_that_names_what_graders_found(chatty, tmp_path):
    row = json.loads(write(chatty, tmp_path, Length()).read_text().splitlines()[0])
    assert {"id", "prompt", "chosen", "rejected", "correct_chosen", "correct_rejected"} <= row.keys()
