"""From measured pass counts to a training order."""

import json
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tiny import trainer

from callbacks import DifficultyWriter
from datamodules import PromptDataModule, SourceArgs
from datamodules.difficulty import DifficultyArgs, DifficultyBalancedSampler, balance_difficulty
from lit_uniopd.errors import UserError
from lit_uniopd.modules import Evaluation
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.scorers.pass_rates import Difficulty, read_difficulties
from lit_uniopd.types import Prompt
from lit_uniopd.utils.jsonl import append_lines


def prompt(i: int) -> Prompt:
    return Prompt(id=str(i), messages=({"role": "user", "content": f"{i}="},))


def append_difficulties(path: Path, entries: list[Difficulty]) -> None:
    append_lines(path, map(asdict, entries))


def measured(path: Path, correct: list[int], attempts: int = 8) -> list[Prompt]:
    prompts = [prompt(i) for i in range(len(correct))]
    append_difficulties(
        path, [Difficulty(p.key, p.id, "d", c, attempts, 0) for p, c in zip(prompts, correct, strict=True)]
    )
    return prompts


def test_medium_prompts_are_repeated_and_none_is_removed(tmp_path):
    prompts = measured(tmp_path / "d.jsonl", [0] * 6 + [3] * 2 + [8] * 4)
    report = balance_difficulty([*prompts, prompt(99)], DifficultyArgs(str(tmp_path / "d.jsonl")), seed=0)
    assert report.before == [6, 0, 0, 2, 0, 0, 0, 0, 4]
    assert report.after == [6, 0, 0, 6, 0, 0, 0, 0, 4]
    assert report.unmeasured == 1
    assert report.repeats_P.tolist() == [1] * 6 + [3, 3] + [1] * 5


def test_the_ablations_leave_prompts_out_and_say_so(tmp_path, caplog):
    prompts = measured(tmp_path / "d.jsonl", [0] * 6 + [3] * 2 + [8] * 4)
    with caplog.at_level("INFO"):
        report = balance_difficulty(
            [*prompts, prompt(99)], DifficultyArgs(str(tmp_path / "d.jsonl"), shape="drop_all_wrong"), seed=0
        )
    assert report.after == [0, 0, 0, 2, 0, 0, 0, 0, 4]
    assert report.repeats_P.tolist() == [0] * 6 + [1] * 7
    assert "6 of 13 training prompts are left out (drop_all_wrong)" in caplog.text
    for options in ({"target": 5}, {"cap": 2}):
        args = DifficultyArgs(str(tmp_path / "d.jsonl"), shape="drop_all_right", **options)
        with pytest.raises(UserError, match=r"drop_all_right repeats no prompt; leave out --data\.difficulty\.target"):
            balance_difficulty(prompts, args, seed=0)


def test_what_is_left_out_is_never_seen():
    sampler = DifficultyBalancedSampler([torch.tensor([0, 1, 0]), torch.tensor([1, 1, 0])], batch_size=1)
    assert sorted(row for batch in sampler for row in batch) == [1, 3, 4]


def test_a_source_without_a_prompt_left_is_named(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}=", "answer": "1", "id": str(i)}) + "\n" for i in range(3)))
    source = SourceArgs(path=str(rows), grader="exact")
    data = PromptDataModule(train=source, batch_size=1)
    data.setup("fit")
    entries = [Difficulty(p.key, p.id, "d", 8, 8, 0) for p in data.train_prompts]
    append_difficulties(tmp_path / "d.jsonl", entries)
    args = DifficultyArgs(str(tmp_path / "d.jsonl"), shape="drop_all_right")
    emptied = PromptDataModule(train=source, batch_size=1, difficulty=args)
    with pytest.raises(UserError, match=r"drop_all_right leaves none of the 3 prompts of .*; choose another shape"):
        emptied.setup("fit")


def test_the_order_shows_each_prompt_as_often_as_it_should_over_all_ranks():
    repeats = [torch.tensor([1, 3]), torch.tensor([2])]
    counts: Counter[int] = Counter()
    for rank in range(2):
        sampler = DifficultyBalancedSampler(repeats, batch_size=1, rank=rank, world_size=2)
        for batch in sampler:
            counts.update(batch)
    assert counts == Counter({0: 1, 1: 3, 2: 2})


def test_a_resumed_order_goes_on_exactly():
    repeats = [torch.tensor([1, 3, 2, 1])]
    unbroken = [
        batch
        for sampler in [DifficultyBalancedSampler(repeats, batch_size=2, seed=4)]
        for _ in range(3)
        for batch in sampler
    ]
    first = DifficultyBalancedSampler(repeats, batch_size=2, seed=4)
    stream = iter(first)
    batches = [next(stream), next(stream)]
    second = DifficultyBalancedSampler(repeats, batch_size=2, seed=4)
    second.load_state_dict(first.state_dict())
    assert [*batches, next(iter(second))] == unbroken[:3]


def test_counts_of_other_prompts_or_of_different_numbers_of_answers_are_refused(tmp_path):
    path = tmp_path / "d.jsonl"
    prompts = measured(path, [1, 2])
    with pytest.raises(UserError, match="none of the training prompts"):
        balance_difficulty([prompt(77)], DifficultyArgs(str(path)), seed=0)
    append_difficulties(path, [Difficulty(prompt(5).key, "5", "d", 1, 4, 0)])
    with pytest.raises(UserError, match="different numbers of answers"):
        balance_difficulty([*prompts, prompt(5)], DifficultyArgs(str(path)), seed=0)
    with pytest.raises(UserError, match="holds no pass counts"):
        read_difficulties(tmp_path / "none.jsonl")


def test_a_torn_line_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "d.jsonl"
    measured(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-9])
    append_difficulties(path, [Difficulty(prompt(5).key, "5", "d", 1, 8, 0)])
    assert {entry.id for entry in read_difficulties(path).values()} == {"0", "5"}


# --- measuring -------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path) -> SourceArgs:
    rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i), "domain": "math"} for i in range(6)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceArgs(str(tmp_path / "p.jsonl"), grader="exact")


def measure(
    model: str, source: SourceArgs, path: Path, batch_size: int = 2, n: int = 4, **options
) -> dict[str, Difficulty]:
    module = Evaluation(PolicyArgs(path=model), val_sampling=SamplingArgs(n=n, max_new_tokens=3), grader_workers=1)
    run = trainer(path.parent, callbacks=[DifficultyWriter(str(path))], **options)
    run.predict(module, PromptDataModule(predict=source, batch_size=batch_size), return_predictions=False)
    return read_difficulties(path)


def test_a_killed_measurement_goes_on_and_neither_batches_nor_the_kill_change_a_count(model_dirs, source, tmp_path):
    unbroken = measure(model_dirs["student"], source, tmp_path / "unbroken.jsonl")
    assert len(unbroken) == 6
    assert all(entry.attempts == 4 and entry.unknown == 0 for entry in unbroken.values())
    killed = tmp_path / "killed.jsonl"
    measure(model_dirs["student"], source, killed, limit_predict_batches=1)
    assert len(read_difficulties(killed)) == 2
    resumed = measure(model_dirs["student"], source, killed, batch_size=3)
    assert resumed == unbroken
    assert len(killed.read_text().splitlines()) == 6  # nothing was measured twice


def test_pass_counts_of_another_student_or_sampling_are_not_taken_for_this_ones(model_dirs, source, tmp_path):
    path = tmp_path / "counts.jsonl"
    counts = measure(model_dirs["student"], source, path, limit_predict_batches=1)
    (tmp_path / "moved").mkdir()
    same = shutil.copytree(model_dirs["student"], tmp_path / "moved/student")
    for model, n in (("math", 4), ("student", 2)):
        with pytest.raises(UserError, match=r"counts\.jsonl has answers of another policy or other settings; move it"):
            measure(model_dirs[model], source, path, n=n)
    assert read_difficulties(path) == counts
    for changes in ({"grader": "numeric"}, {"answer_column": "domain"}):
        with pytest.raises(UserError, match=r"counts\.jsonl has answers judged by another grader or gold answer; move"):
            measure(model_dirs["student"], replace(source, **changes), path)
    assert len(measure(str(same), source, path)) == 6  # the same weights elsewhere
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    older = [{key: line[key] for key in line.keys() - {"settings", "judged_by"}} for line in lines[:2]]
    path.write_text("".join(json.dumps(line) + "\n" for line in older))
    assert len(measure(model_dirs["student"], source, path)) == 6


def test_the_datamodule_trains_on_the_balanced_order(source, tmp_path):
    data = PromptDataModule(train=source, batch_size=2)
    data.setup("fit")
    append_difficulties(
        tmp_path / "d.jsonl",
        [Difficulty(p.key, p.id, "math", [0, 0, 0, 4, 8, 8][i], 8, 0) for i, p in enumerate(data.train_prompts)],
    )
    balanced = PromptDataModule(train=source, batch_size=2, difficulty=DifficultyArgs(str(tmp_path / "d.jsonl")))
    balanced.setup("fit")
    counts = Counter(p.id for batch in balanced.train_dataloader() for p in batch)
    assert sum(counts.values()) == 8
    assert max(counts.values()) == 3
