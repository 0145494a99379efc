"""The engine on a scripted model: what is answered, graded, recorded, and what is never done twice."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lit_uniopd.benchmarks import conversation
from lit_uniopd.benchmarks.engine import EvalArgs, EvalEngine
from lit_uniopd.benchmarks.records import PENDING, RecordWriter, read_records
from lit_uniopd.benchmarks.shards import Request
from lit_uniopd.benchmarks.spec import Benchmark, BenchmarkSpec, Example, Generation, HubData, Report, Scoring
from lit_uniopd.benchmarks.weights_fingerprint import weights_fingerprint
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.rewards import GraderPool, custom, named_grader

RIGHT, WRONG, HEDGED, CUT = "4", "5", "4 or 5", "so 4"


class Scripted:
    """A policy that answers by a rule and notes its prompts."""

    def __init__(self, rule: Callable[[str, int], str]) -> None:
        self.model = nn.Linear(3, 3)
        nn.init.constant_(self.model.weight, 0.5)
        nn.init.zeros_(self.model.bias)
        self.rule = rule
        self.args, self.processor = PolicyArgs(), None
        self.prompt_ids: list[str] = []

    def write(self, _policy: Any, prompts: Any, args: Any, *, seed: int, keys: list[int]) -> Any:
        self.prompt_ids += [prompt.id for prompt in prompts]
        text = [self.rule(prompt.messages[0]["content"], k) for prompt in prompts for k in range(args.n)]
        finish = ["length" if answer == CUT else "stop" for answer in text]
        return SimpleNamespace(text=text, finish=finish, lengths_B=torch.tensor(list(map(len, text))))


@pytest.fixture
def pool():
    with GraderPool(workers=1) as graders:
        yield graders


def benchmark(questions: list[str], n: int = 1, **changes: Any) -> Benchmark:
    spec = BenchmarkSpec(
        id="sums",
        protocol="test",
        version=1,
        title="sums",
        domain="math",
        modality="text",
        hub=HubData(id="x/y"),
        scoring=Scoring(grader="exact"),
        report=Report(metrics=({"name": "avg"},)),
    )
    rows = [
        Example(id=f"row{i}", messages=({"role": "user", "content": text},), gold="4", breakdown={"half": str(i % 2)})
        for i, text in enumerate(questions)
    ]
    return Benchmark(replace(spec, **changes), "paper", Generation(n=n), rows, "f")


@pytest.fixture
def run(monkeypatch, tmp_path, pool):
    """Evaluate a benchmark with a policy: its records by row and answer."""

    def evaluate(
        policy: Scripted, tested: Benchmark, name: str = "run", adopt=(), step: int = 0, batches: int = 99, **args
    ):
        monkeypatch.setattr(conversation, "write_answers", policy.write)
        engine = EvalEngine(pool, tmp_path / name, adopt=[tmp_path / other for other in adopt], args=EvalArgs(**args))
        engine.begin("scripted", step)
        for example in tested.examples[:batches]:
            engine.answer(policy, [Request(tested, example)])  # type: ignore[arg-type]
        records = engine.finish().get(tested.key, [])
        return {(r.sample_id, r.sample_idx): r for r in records}

    return evaluate


def by_question(text: str, k: int) -> str:
    return {"right": RIGHT, "wrong": WRONG, "hedged": HEDGED, "cut": CUT, "mixed": RIGHT if k == 0 else WRONG}[text]


def test_every_answer_is_graded_and_recorded(run, tmp_path):
    records = run(Scripted(by_question), benchmark(["right", "wrong", "hedged", "mixed"], n=2))
    verdicts = {key: r.correct for key, r in records.items()}
    assert verdicts == {
        **{("row0", k): True for k in (0, 1)},
        **{(row, k): False for row in ("row1", "row2") for k in (0, 1)},
        ("row3", 0): True,
        ("row3", 1): False,
    }
    last = records["row3", 1]
    assert (last.response, last.gold, last.extracted, last.reason, last.n_tokens) == (WRONG, "4", WRONG, "wrong", 1)
    assert last.breakdown == {"half": "1"}
    on_disk = read_records([tmp_path / "run" / "rank0.jsonl"])
    assert sorted(r.key for r in on_disk) == sorted(r.key for r in records.values())


def test_stop_strings_cut_the_answer(run):
    tested = benchmark(["right"])
    tested = replace(tested, generation=Generation(stop=(" or", "zzz")))
    (record,) = run(Scripted(lambda *_: "4 or 5"), tested).values()
    assert record.response == "4"
    assert record.correct


def test_an_answer_without_result_that_was_cut_is_truncated(run):
    scoring = Scoring(grader="math")
    (record,) = run(Scripted(by_question), benchmark(["cut"], scoring=scoring)).values()
    assert (record.correct, record.reason) == (False, "truncated")


def test_further_graders_are_recorded_beside_the_first(run):
    scoring = Scoring(grader="exact", also=("math",))
    (record,) = run(Scripted(lambda *_: r"\boxed{4.0}"), benchmark(["right"], scoring=scoring)).values()
    assert (record.score, dict(record.also)) == (0.0, {"math": 1.0})


def test_answers_for_a_judge_are_recorded_without_a_verdict(run):
    (record,) = run(Scripted(by_question), benchmark(["right"], scoring=Scoring(grader=None, judge="j"))).values()
    assert (record.correct, record.reason, record.grader) == (None, "no_grader", "")


# --- never twice -----------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_where_it_stopped(run, tmp_path):
    tested = benchmark(["right", "wrong", "mixed", "right"], n=2)
    unbroken = run(Scripted(by_question), tested, "whole")
    run(Scripted(by_question), tested, "killed", batches=2)
    path = tmp_path / "killed" / "rank0.jsonl"
    path.write_bytes(path.read_bytes()[:-30])  # killed while it wrote the last line
    later = Scripted(by_question)
    resumed = run(later, tested, "later", adopt=["killed"], step=7)
    assert {record.step for record in resumed.values()} == {7}  # of one evaluation, which reports look for by its step
    assert {record.step for record in read_records([tmp_path / "later/rank0.jsonl"])} == {7}
    assert [name.split("/")[1] for name in later.prompt_ids] == ["row1", "row2", "row3"]
    assert {key: (r.correct, r.response) for key, r in resumed.items()} == {
        key: (r.correct, r.response) for key, r in unbroken.items()
    }
    assert len(read_records([tmp_path / "later" / "rank0.jsonl"])) == 8  # a run's own files hold all that it counts


def test_written_but_unjudged_answers_are_judged_not_written_again(run, tmp_path):
    tested = benchmark(["right"])
    (record,) = run(Scripted(by_question), tested, "first").values()
    unjudged = replace(record, reason=PENDING, correct=None, score=0.0)
    path = tmp_path / "killed" / "rank0.jsonl"
    RecordWriter(path).append([unjudged])
    later = Scripted(by_question)
    (judged,) = run(later, tested, "later", adopt=["killed"]).values()
    assert later.prompt_ids == []
    assert judged.correct is True


@pytest.mark.parametrize(
    "changes",
    [{"scoring": Scoring(grader="math")}, {"gold": "5.0"}, {"scoring": Scoring(grader="exact", also=("numeric",))}],
    ids=["grader", "gold", "further grader"],
)
def test_what_changes_the_verdict_is_judged_anew_and_not_answered_anew(run, changes):
    """Else a run that was stopped to mend its grader would end with verdicts of both."""
    first = Scripted(lambda text, k: r"\boxed{4.0}")
    exact = benchmark(["a"], scoring=Scoring(grader="exact"))
    (before,) = run(first, exact, "first").values()
    assert before.correct is False
    gold = changes.pop("gold", None)
    changed = benchmark(["a"], **({"scoring": Scoring(grader="exact")} | changes))
    if gold is not None:
        changed = replace(changed, examples=[replace(changed.examples[0], gold=gold)], fingerprint="other rows")
    later = Scripted(by_question)
    (again,) = run(later, changed, "later", adopt=["first"]).values()
    assert not later.prompt_ids
    assert again.response == before.response
    assert again.fingerprint == changed.fingerprint
    (fresh,) = run(Scripted(lambda text, k: r"\boxed{4.0}"), changed, "fresh").values()
    for name in ("grader", "gold", "correct", "reason", "also", "score"):
        assert getattr(again, name) == getattr(fresh, name)


def test_a_users_grader_that_was_mended_judges_again(run, tmp_path, monkeypatch):
    (tmp_path / "mended_grader.py").write_text("def is_right(text, gold):\n    return False\n")
    monkeypatch.syspath_prepend(tmp_path)
    tested = benchmark(["right"], scoring=Scoring(grader=named_grader("mended_grader.is_right")))
    (before,) = run(Scripted(by_question), tested, "first").values()
    assert before.correct is False
    (same,) = run(Scripted(by_question), tested, "same", adopt=["first"]).values()
    assert same.time == before.time
    monkeypatch.setattr(custom, "_LOADED", {})  # a new process
    monkeypatch.delitem(sys.modules, "mended_grader")
    (tmp_path / "mended_grader.py").write_text("def is_right(text, gold):\n    return str(gold) in text  # mended\n")
    importlib.invalidate_caches()
    later = Scripted(by_question)
    (after,) = run(later, tested, "later", adopt=["first"]).values()
    assert not later.prompt_ids
    assert after.correct is True


def changed_weights(policy: Scripted, tested: Benchmark) -> Benchmark:
    with torch.no_grad():
        policy.model.weight[0, 0] += 1e-6
    return tested


CHANGES = {
    "weights": changed_weights,
    "decoding": lambda _, tested: replace(tested, generation=Generation(max_new_tokens=7)),
    "version": lambda _, tested: replace(tested, spec=replace(tested.spec, version=2)),
    "profile": lambda _, tested: replace(tested, profile="curve"),
    "prompt": lambda _, tested: replace(
        tested, examples=[replace(tested.examples[0], messages=({"role": "user", "content": "wrong"},))]
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_could_change_the_answer_is_answered_anew(run, change):
    tested = benchmark(["right"])
    run(Scripted(by_question), tested, "first")
    later = Scripted(by_question)
    run(later, CHANGES[change](later, tested), "later", adopt=["first"])
    assert len(later.prompt_ids) == 1


def test_a_conversation_is_one_answer_that_is_taken_over_whole(run):
    single = benchmark(["right"])
    talk = replace(single, examples=[replace(single.examples[0], turns=("right", "wrong"))])
    run(Scripted(by_question), single, "single")
    first, later, other = (Scripted(by_question) for _ in range(3))
    (record,) = run(first, talk, "first", adopt=["single"]).values()
    assert (len(first.prompt_ids), record.response, record.n_tokens) == (2, "A1: 4\nA2: 4\n", 2)
    run(later, talk, "later", adopt=["first"])
    assert later.prompt_ids == []
    changed = replace(talk, examples=[replace(talk.examples[0], turns=("right", "hedged"))])
    run(other, changed, "other", adopt=["first"])
    assert len(other.prompt_ids) == 2


def test_the_seed_matters_only_to_sampled_answers(run):
    greedy = benchmark(["right"])
    sampled = replace(greedy, generation=Generation(temperature=1.0))
    for tested, new_prompts in ((greedy, 0), (sampled, 1)):
        run(Scripted(by_question), tested, "first", seed=1)
        later = Scripted(by_question)
        run(later, tested, "later", adopt=["first"], seed=2)
        assert len(later.prompt_ids) == new_prompts


def test_fingerprints_see_one_changed_bit_and_moved_values_but_not_the_layout():
    first = nn.Linear(64, 64)
    before = weights_fingerprint(first)
    assert weights_fingerprint(first.double().float()) == before
    with torch.no_grad():
        first.weight[13, 7] = torch.nextafter(first.weight[13, 7], torch.tensor(9.0))
    after = weights_fingerprint(first)
    with torch.no_grad():
        first.bias.copy_(first.bias.flip(0))
    assert len({before, after, weights_fingerprint(first)}) == 3
