"""Rows as data sets are published become the prompts and pairs that their papers trained on."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from published_rows import CAPTION, PUBLISHED, user, verl, write_published

from datamodules import PairSourceArgs, PromptDataModule, SentencePairSourceArgs, SourceArgs
from datamodules.pair_sources import read_pairs
from datamodules.sentence_pairs import read_sentence_pairs
from datamodules.sources import read_prompts
from lit_uniopd.errors import UserError
from lit_uniopd.rewards import GradeItem, GraderPool
from lit_uniopd.types import PreferencePair, Prompt

FLAG = "--data.train"
RIGHT = {
    "sum": "```python\nn = int(input())\nprint(sum(map(int, input().split())))\n```",
    "clip": "```python\ndef clip(xs, how):\n    return [max(x, 0) for x in xs]\n```",
    "7": r"\boxed{7}",
}


def prompts(tmp_path: Path, name: str, **options: Any) -> list[Prompt]:
    return list(read_prompts(SourceArgs(str(write_published(name, tmp_path)), **options), FLAG))


def pairs(tmp_path: Path, name: str, **options: Any) -> list[PreferencePair]:
    return list(read_pairs(PairSourceArgs(str(write_published(name, tmp_path)), **options), FLAG))


def texts(pair: PreferencePair) -> tuple[str, str, str]:
    return str(pair.prompt.messages[-1]["content"]), pair.chosen, pair.rejected


@pytest.mark.parametrize(
    ("name", "options", "routes"),
    [
        ("eurus", {"format": "prime", "grader": "math"}, [("code", "code"), ("code", "code"), ("math", "math")]),
        ("eurus", {"format": "verl", "grader": "math"}, [("taco", "code"), ("apps", "code"), ("numina_olympiads", "math")]),
        ("eurus", {"format": "verl", "domain_column": "ability"}, [("code", "code"), ("code", "code"), ("math", None)]),
        ("verl", {"format": "verl", "grader": "math"}, [("openai/gsm8k", "math")] * 2),
        (
            "verl",
            {"answer_column": "reward_model.ground_truth", "domain_column": "extra_info.split", "grader": "math"},
            [("train", "math")] * 2,
        ),
        ("uni_opd_code", {"answer_column": "label", "domain": "code", "grader": "code"}, [("code", "code")] * 2),
        ("deepmath", {"prompt_column": "question", "answer_column": "final_answer", "grader": "math"}, [("default", "math")]),
    ],
)  # fmt: skip
def test_rows_are_routed(tmp_path: Path, name: str, options: dict[str, Any], routes: list[tuple]):
    read = prompts(tmp_path, name, **options)
    assert [(prompt.domain, prompt.grader) for prompt in read] == routes
    assert all(prompt.gold is not None for prompt in read)


@pytest.mark.parametrize(
    ("published", "extra", "options", "role", "expected"),
    [
        ("verl", {"domain": "math"}, {}, "domain", "math"),  # as Open-MOPD writes them; named or not
        ("verl", {"domain": "math"}, {"domain_column": "data_source"}, "domain", "openai/gsm8k"),
        ("verl", {"answer": "42"}, {}, "gold", "42"),
        ("verl", {"answer": "42"}, {"answer_column": "reward_model.ground_truth"}, "gold", None),
        ("eurus", {"domain": "sums"}, {"format": "prime"}, "domain", "sums"),
    ],
)
def test_a_column_of_a_roles_own_name_goes_before_the_formats(
    tmp_path: Path, published: str, extra: dict, options: dict, role: str, expected: str | None, caplog
):
    path = tmp_path / "rows.jsonl"
    rows = PUBLISHED[published][1]
    assert isinstance(rows, list)
    path.write_text("".join(json.dumps({**row, **extra}) + "\n" for row in rows))
    options = {"format": "verl", "grader": "math"} | options
    read = list(read_prompts(SourceArgs(str(path), **options), FLAG))
    values = [getattr(prompt, role) for prompt in read]
    wanted = [row["reward_model"]["ground_truth"] for row in rows] if expected is None else [expected] * len(rows)
    assert values == wanted
    (column,) = extra
    warned = f"has a column {column!r}, which is read in the place of the format's" in caplog.text
    assert warned == (f"{column}_column" not in options)


def test_no_outcome_of_the_papers_labels_is_unknown(tmp_path: Path):
    """Right answers are right, wrong ones wrong, in the order of the rows: two programs and a number, then programs."""
    read = prompts(tmp_path, "eurus", format="prime", grader="math")
    read += prompts(tmp_path, "uni_opd_code", answer_column="label", grader="code")
    right = [RIGHT["sum"], RIGHT["clip"], RIGHT["7"], RIGHT["sum"], RIGHT["clip"]]
    wrong = ["```python\nprint(0)\n```", "```python\ndef clip(xs, how):\n    return xs\n```", r"\boxed{8}", "", "?"]
    items = [
        GradeItem(str(prompt.grader), prompt.gold, answer, prompt.row)
        for answers in (right, wrong)
        for prompt, answer in zip(read, answers, strict=True)
    ]
    with GraderPool(workers=2) as pool:
        assert [grade.correct for grade in pool.grade(items)] == [True] * 5 + [False] * 5


def test_rows_whose_tests_cannot_be_run_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    labels = [json.dumps(label) for label in (
        {"inputs": ["1"], "outputs": ["1"]},
        {"inputs": [], "outputs": []},
        {"fn_name": "f", "inputs": ["not JSON"], "outputs": ["1"]},
    )]  # fmt: skip
    rows = [verl([user("?")], label, "apps", "code", i) for i, label in enumerate([*labels, "{1, 2}", ["72"]])]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = PromptDataModule(SourceArgs(str(tmp_path / "t.jsonl"), format="prime", grader="math"), batch_size=1)
    with caplog.at_level(logging.WARNING, logger="datamodules"):
        data.setup("fit")
    assert [(p.grader, p.gold) for p in data.train_prompts][1:] == [("math", "{1, 2}"), ("math", "72")]
    (report,) = data.report["train"]
    assert (report.rows, report.kept) == (5, 3)
    assert str(report).endswith("5 rows, 2 dropped since its tests cannot be run; 3 prompts")
    assert "2 of 5 rows are dropped since its tests cannot be run" in caplog.text
    assert "t.jsonl:2 for one" in caplog.text
    (tmp_path / "t.jsonl").write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(UserError, match=r"t\.jsonl: none of 1 rows can be used, the first since its tests cannot"):
        data.setup("fit")


def test_a_wrong_nested_column_is_told_with_those_that_are_there(tmp_path: Path):
    with pytest.raises(
        UserError,
        match=r"no column 'reward_model\.groundtruth' \(did you mean reward_model\.ground_truth\?\); choose "
        r"--data\.train\.answer_column from .*prompt\.0\.content, .*reward_model\.ground_truth, .*extra_info\.split",
    ):
        prompts(tmp_path, "verl", answer_column="reward_model.groundtruth")


def test_pictures_of_published_rows_are_found(tmp_path: Path):
    read = prompts(tmp_path, "openmmreasoner", format="verl", grader="math")
    assert [prompt.images[0].size for prompt in read] == [(32, 32), (40, 40)]
    assert read[0].messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "How many squares?"}]
    (chart,) = prompts(tmp_path, "chartqa", prompt_column="query", answer_column="label.0", images_column="image")
    assert (chart.gold, len(chart.images)) == ("3", 1)


@pytest.mark.parametrize(
    ("name", "options", "scores"),
    [
        ("ultrafeedback_binarized", {}, (8.5, 3.0)),
        ("ultrafeedback", {"format": "ultrafeedback"}, (8.5, 2.0)),
        ("armorm", {"format": "armorm"}, (0.16, 0.05)),
        ("omni_dpo_text", {}, (4.5, 2.0)),
        ("swift", {"format": "swift"}, None),
        ("sharegpt", {"format": "sharegpt"}, None),
    ],
)
def test_pairs_of_text_are_the_same_in_every_format(tmp_path: Path, name: str, options: dict[str, Any], scores: Any):
    (pair,) = pairs(tmp_path, name, **options)
    assert texts(pair) == ("Name a colour.", "Teal.", "7")
    assert scores is None or (pair.score_chosen, pair.score_rejected) == scores


def test_a_rendered_prompt_becomes_a_chat_again(tmp_path: Path):
    (pair,) = pairs(tmp_path, "omni_dpo_math", format="chatml")
    assert pair.prompt.messages == (
        {"role": "system", "content": "Put the answer into a box."},
        {"role": "user", "content": "2 + 2?"},
    )
    assert (pair.chosen, pair.rejected) == (r"\boxed{4}", r"\boxed{5}")
    assert (pair.score_chosen, pair.score_rejected) == (9.0, 2.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"completions": []}, "fewer than two scored answers"),
        ({"completions": [{"response": r, "overall_score": 5.0} for r in "ab"]}, "the same score"),
    ],
)
def test_rows_without_a_pair_are_named(tmp_path: Path, change: dict[str, Any], reason: str):
    row = {**PUBLISHED["ultrafeedback"][1][0], **change}  # type: ignore[index]
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=rf"none of 1 rows can be used, the first since .*{reason}"):
        read_pairs(PairSourceArgs(str(tmp_path / "t.jsonl"), format="ultrafeedback"), FLAG)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sentinel_llava_v15", {"format": "sentinel"}),
        ("sentinel_data_pair", {"format": "sentinel"}),
        ("sentinel_llama_factory", {"prompt_column": "instruction"}),
    ],
)
def test_sentinels_pairs_find_their_pictures(tmp_path: Path, name: str, options: dict[str, Any]):
    path = write_published(name, tmp_path)
    source = SentencePairSourceArgs(str(path), image_folder=str(tmp_path / "pictures"), **options)
    read = read_sentence_pairs(source, FLAG)
    first = read[0]
    assert first.prompt.images == (str(tmp_path / "pictures/VG_100K/2315.png"),)
    assert (
        first.prompt.messages[-1] == {"role": "assistant", "content": CAPTION["context"]}
        or first.prompt.messages[-1]["role"] == "assistant"
    )
    assert first.chosen == "It is flat."
    if name == "sentinel_llava_v15":
        assert len(read) == 3
        assert read[2].prompt.images == (str(tmp_path / "pictures/VG_100K_2/2316.png"),)
        assert read[1].prompt.messages[-1]["role"] == "user"  # nothing was said before


def test_a_picture_that_is_not_there_is_named(tmp_path: Path):
    path = write_published("sentinel_llava_v15", tmp_path)
    (tmp_path / "pictures/VG_100K/2315.png").unlink()
    source = SentencePairSourceArgs(str(path), format="sentinel", image_folder=str(tmp_path / "pictures"))
    with pytest.raises(UserError, match=r"json:1: --data\.train\.image_folder .*pictures has no picture '2315'"):
        read_sentence_pairs(source, FLAG)
    for folder in ("a", "b"):
        (tmp_path / "pictures" / folder).mkdir()
        (tmp_path / "pictures" / folder / "2315.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="has 2 pictures '2315'"):
        read_sentence_pairs(source, FLAG)
    source.image_folder = str(tmp_path / "none")
    with pytest.raises(UserError, match=r"--data\.train\.image_folder .*none is no folder"):
        read_sentence_pairs(source, FLAG)
