import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import Prompts, module, prompts, trainer

from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.errors import UserError

ASKED = "has a gold answer but no grader, and its outcome would stay unknown; name one by `grader` of its source"


def source(tmp_path: Path, **columns: Any) -> str:
    rows = [{"prompt": p.messages[0]["content"], "answer": p.gold, "domain": p.domain} | columns for p in prompts(4)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "t.jsonl")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_gold_answer_without_a_grader_is_asked_about(model_dirs, tmp_path, split):
    """It was silent: all outcomes unknown, and held-out prompts not answered."""
    path = source(tmp_path)
    sources: dict[str, Any] = {"train": SourceArgs(path=path, grader="exact"), split: SourceArgs(path=path)}
    with pytest.raises(UserError, match=f"Prompt 't.jsonl:1' {ASKED}"):
        trainer(tmp_path).fit(module(model_dirs), PromptDataModule(**sources, batch_size=4))


def test_one_of_several_prompts_is_enough_to_ask(model_dirs, tmp_path):
    *graded, last = prompts(4)
    with pytest.raises(UserError, match=f"Prompt 'p3' {ASKED}"):
        trainer(tmp_path).fit(module(model_dirs), Prompts([*graded, replace(last, grader=None)]))


@pytest.mark.parametrize(
    ("options", "columns", "known"),
    [({"grader": "exact"}, {}, True), ({}, {"grader": "exact"}, True), ({"answer_column": ""}, {}, False)],
    ids=["of the source", "a column", "answers unread"],
)
def test_each_remedy_works(model_dirs, tmp_path, options, columns, known):
    runner = trainer(tmp_path)
    data = PromptDataModule(SourceArgs(path=source(tmp_path, **columns), **options), batch_size=4)
    runner.fit(module(model_dirs), data)
    assert float(runner.callback_metrics["rollout/unknown_outcomes"]) == (0 if known else 1)
