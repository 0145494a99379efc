"""Gold answers that their grader cannot use are found before a model is loaded, and unknown outcomes while it trains."""

import json
import logging
from typing import Any

import pytest
from lightning import Callback
from published_rows import write_published
from tiny import Prompts, module, prompts, trainer

from callbacks import BenchmarkEvaluation, MarginCalibration
from datamodules import OnlineBalanceArgs, PromptDataModule, SourceArgs
from lit_uniopd.benchmarks.golds import benchmark_objections, try_golds
from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.registry import all_specs
from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.modules.opd.outcomes import check_golds, outcome_users
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.rewards import GraderPool
from lit_uniopd.types import Prompt

PAPER = {"inputs": ["1 2"], "outputs": ["3"], "fn_name": "add"}  # labels of the papers' own code
CALLS = {"entry_point": "add", "calls": [[1, 2]], "expected": [3]}
TESTS = {"tests": [{"stdin": "1 2", "stdout": "3"}]}
USABLE = {
    "math": ["42", 42, r"so \boxed{42}", r"\frac{1}{2}", "27 dollars"],
    "exact": ["Paris", "Paris."],
    "numeric": ["3.5", 7],
    "yes_no": ["yes", "no", True, 1, "0"],
    "choice": ["B"],
    "code_functional": [CALLS, json.dumps(CALLS)],
    "code_stdio": [TESTS, json.dumps(TESTS)],
    "anls": [["Paris", "paris"], "Paris"],
    "vqa_soft": [["no"] + ["yes"] * 9],
    "ifeval": [
        {"instruction_id_list": ["startend:quotation", "keywords:existence"], "kwargs": [None, {"keywords": ["sun"]}]}
    ],
}
UNREADABLE = {
    "math": [PAPER, CALLS, ["1", "2"], " ", "$", "}{"],
    "exact": [PAPER],
    "numeric": ["many", PAPER],
    "yes_no": ["perhaps", 7],
    "code_functional": [PAPER, json.dumps(PAPER), TESTS, "42", {**CALLS, "expected": []}],
    "ifeval": [
        PAPER,
        {"instruction_id_list": ["startend:quotation"]},
        {"instruction_id_list": ["keywords:existence"], "kwargs": [{}]},
        {"instruction_id_list": ["new:thing"], "kwargs": [{}]},
    ],
    "code_stdio": [PAPER, CALLS, "def f(): ...", {"tests": [{"input": "1"}]}],
}


MINE = """
id: mine
protocol: me
version: 1
title: Mine
domain: math
modality: text
hub: {{id: "{rows}"}}
columns: {{question: question, answer: answer}}
scoring: {{grader: math}}
report: {{metrics: [{{name: avg}}]}}
"""


def asked(grader: str | None, golds: list[Any]) -> list[Prompt]:
    message = ({"role": "user", "content": "1+2="},)
    return [
        Prompt(id=f"{grader}{i}", messages=message, gold=gold, grader=grader, domain="math")
        for i, gold in enumerate(golds)
    ]


@pytest.fixture(scope="module")
def graders() -> Any:
    with GraderPool(workers=1, time_limit=60) as pool:
        yield pool


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.thinned(3)
def test_each_kind_of_gold_is_tried_by_its_grader(graders, name):
    good, bad = asked(name, USABLE[name]), asked(name, UNREADABLE.get(name, []))
    for prompt in good:
        assert try_golds([prompt], graders)[0].unusable == (), prompt.gold
    for prompt in bad:
        assert try_golds([prompt], graders)[0].unknown == (prompt,), prompt.gold


def test_golds_are_sampled_evenly_and_prompts_without_a_grader_are_passed_over(graders):
    many = [*asked("exact", ["a"] * 1000), *asked(None, [None]), *asked("math", [PAPER])]
    trials = {trial.grader: (trial.tried, len(trial.unusable)) for trial in try_golds(many, graders)}
    assert trials == {"exact": (125, 0), "math": (1, 1)}


def test_solutions_that_do_not_say_where_their_answer_is_are_told(graders, caplog):
    """Each equals its own text, and no answer of a model's."""
    solved = asked("math", ["First we add.\nThen we have 5."] * 3 + ["So 5.\n#### 5"] * 3)
    (trial,) = try_golds(solved, graders)
    assert trial.refused == tuple(solved[:3])
    # The number behind the marks reaches neither of the first two.
    for grader, refused in (("exact", 2), ("anls", 2), ("numeric", 0)):
        (trial,) = try_golds(asked(grader, ["5", "So 5.\n#### 5", "#### 5"]), graders)
        assert len(trial.refused) == refused, grader
    with caplog.at_level(logging.WARNING):
        check_golds(solved, graders, ["Shift"])
    assert "cannot use the gold answers of 3 of 6 training prompts" in caplog.text
    assert "0 stay unknown, 3 count as wrong, whatever the answer" in caplog.text


def test_a_run_that_needs_outcomes_stops_at_a_grader_that_has_none(graders, caplog):
    half = asked("code_functional", [PAPER, PAPER, CALLS]) + asked("math", ["1"] * 100)
    with pytest.raises(
        UserError, match=r"(?s)'code_functional'.* 2 of 3 .*a mapping of inputs, outputs, fn_name.*Shift"
    ):
        check_golds(half, graders, ["Shift"])
    with caplog.at_level(logging.WARNING):
        check_golds(half, graders, [])  # plain distillation: nothing needs them
    assert "2 stay unknown, 0 count as wrong" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_golds(asked("math", ["1"] * 95 + [PAPER] * 5), graders, ["Shift"])
        assert "cannot use" not in caplog.text  # 5 %
        check_golds(asked("math", ["1"] * 94 + [PAPER] * 6), graders, ["Shift"], warns=False)
        assert "cannot use" not in caplog.text
        check_golds(asked("math", ["1"] * 94 + [PAPER] * 6), graders, ["Shift"])
    assert "6 of 100 training prompts" in caplog.text


def test_who_needs_outcomes(tmp_path):
    run: Any = trainer(tmp_path, callbacks=[MarginCalibration()])
    assert outcome_users(AdvantageArgs(outcome_weight=1.0), run) == [
        "--model.advantage.outcome_weight",
        "MarginCalibration",
    ]
    assert outcome_users(AdvantageArgs(), trainer(tmp_path)) == []


@pytest.mark.parametrize("needs", ["balance", "calibration", "reward", "nothing"])
def test_the_papers_labels_stop_a_paper_run_before_a_model_is_loaded(model_dirs, tmp_path, caplog, needs):
    rows = [{"prompt": f"{i}=", "answer": PAPER, "domain": "math"} for i in range(8)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    balance = OnlineBalanceArgs() if needs == "balance" else None
    data = PromptDataModule(SourceArgs(str(tmp_path / "p.jsonl"), grader="math"), batch_size=4, online_balance=balance)
    model = module(model_dirs, advantage=AdvantageArgs(outcome_weight=1.0 if needs == "reward" else 0.0))
    run = trainer(tmp_path, callbacks=[MarginCalibration()] if needs == "calibration" else [], max_steps=1)
    with caplog.at_level(logging.WARNING):
        if needs == "nothing":
            run.fit(model, data)
            assert model.global_step == 1
        else:
            with pytest.raises(UserError, match=r"cannot use the gold answers of 8 of 8 training prompts"):
                run.fit(model, data)
            assert model.policy is None
    assert ("8 stay unknown" in caplog.text) == (needs == "nothing")


def test_a_run_on_the_papers_rows_knows_every_outcome(model_dirs, tmp_path):
    """Eurus' rows as published: programs in a sandbox and numbers, with what a run of the paper needs of them."""
    path = write_published("eurus", tmp_path)
    source = SourceArgs(str(path), format="prime", grader="math", weight=2.0)
    data = PromptDataModule(source, batch_size=6, online_balance=OnlineBalanceArgs())
    model = module(model_dirs)
    judged: list[int] = []

    class Look(Callback):
        def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Any) -> None:
            judged.extend(rollouts.outcome_B.tolist())

    trainer(tmp_path, callbacks=[MarginCalibration(), Look()], max_steps=1).fit(model, data)
    assert len(judged) >= 12
    assert -1 not in judged


def test_a_run_that_needs_outcomes_stops_where_no_prompt_has_a_grader(model_dirs, tmp_path):
    asking = [Prompt(p.id, p.messages, domain=p.domain) for p in prompts(8)]
    model = module(model_dirs)
    with pytest.raises(UserError, match=r"No training prompt has a grader, .*MarginCalibration can do nothing; name"):
        trainer(tmp_path, callbacks=[MarginCalibration()]).fit(model, Prompts(asking))
    assert model.policy is None


def test_outcomes_that_stay_unknown_while_it_trains_are_warned_of_once(model_dirs, tmp_path, caplog):
    asking = [p if p.id in ("p0", "p4") else Prompt(p.id, p.messages, domain=p.domain) for p in prompts(8)]
    with caplog.at_level(logging.WARNING):
        run = trainer(tmp_path, callbacks=[MarginCalibration()])
        run.fit(module(model_dirs, student=PolicyArgs(path=model_dirs["student"])), Prompts(asking))
    assert run.global_step == 2
    assert caplog.text.count("75% of the outcomes of the rollout of step 1 are unknown, and MarginCalibration") == 1
    assert caplog.text.count("are unknown") == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path).fit(module(model_dirs), Prompts(asking))  # nothing needs them
    assert "outcomes" not in caplog.text


@pytest.mark.parametrize(("grader", "gold"), [("math", PAPER), ("code_functional", PAPER), ("choice", "none of these")])
def test_golds_of_held_out_prompts_are_tried_too(model_dirs, tmp_path, caplog, grader, gold):
    data = Prompts(prompts(8))
    data.val_prompts = [Prompt(p.id, p.messages, gold=gold, grader=grader, domain="math") for p in prompts(4)]
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, limit_val_batches=1, max_steps=1).fit(module(model_dirs), data)
    assert caplog.text.count(f"Grader {grader!r} cannot use the gold answers of 4 of 4 held-out prompts of math") == 1
    assert "name another grader by --data.val.grader" in caplog.text


def test_gold_answers_of_every_bundled_benchmark_can_be_used(graders):
    specs = [spec for spec in all_specs() if spec.fixture is not None]
    assert len(specs) > 30
    for spec in specs:
        assert list(benchmark_objections(load_benchmark(spec, "fixture"), graders)) == [], spec.key


def test_gold_answers_of_benchmarks_in_a_run_are_tried(model_dirs, tmp_path, caplog):
    rows = [{"question": f"{i}+1=", "answer": PAPER} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(MINE.format(rows=tmp_path / "rows.jsonl"))
    look = BenchmarkEvaluation([str(tmp_path / "mine.yaml")], profile="paper", before=False, after=False)
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, callbacks=[look], max_steps=1).fit(module(model_dirs), Prompts(prompts(8)))
    assert caplog.text.count("Grader 'math' cannot use the gold answers of 3 of 3 rows of benchmark mine@me") == 1
    assert "name another grader by `grader` in the benchmark's YAML file" in caplog.text
