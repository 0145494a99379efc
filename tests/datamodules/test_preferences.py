"""Preference pairs: TRL's conventions, scores and weights, what is dropped, how answers are tokenised."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_tokenizer

from datamodules import PairSourceArgs, PairWeightArgs, PreferenceDataModule, pair_sources
from datamodules.pair_sources import read_pairs
from datamodules.pair_weights import ScoreScale, weigh
from datamodules.token_store import TokenStore
from lit_uniopd.errors import UserError
from lit_uniopd.policy.chat_template import encode_answer, render
from lit_uniopd.types import PreferencePair, Prompt

CHATML = (
    "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant\n{% endif %}"
)


class Reader:
    """Tokenises as a module does."""

    def __init__(self, template: str | None = CHATML) -> None:
        self.tokenizer = make_tokenizer(template)

    def prompt_length(self, prompt: Prompt) -> int:
        return len(render(self.tokenizer, prompt, {}))

    def encode_answer(self, prompt: Prompt, answer: str) -> tuple[list[int], list[int]]:
        return encode_answer(self.tokenizer, prompt, answer, {})


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(tmp_path: Path, rows: list[dict], **options: Any) -> list[PreferencePair]:
    return [*read_pairs(PairSourceArgs(path=write(tmp_path / "pairs.jsonl", rows), **options), "--data.train")]


def set_up(tmp_path: Path, rows: list[dict], template: str | None = CHATML, **options: Any) -> PreferenceDataModule:
    source = PairSourceArgs(path=write(tmp_path / "pairs.jsonl", rows))
    settings: dict[str, Any] = {"batch_size": 1} | options
    data = PreferenceDataModule(train=source, **settings)
    data.answers = Reader(template)
    data.setup("fit")
    return data


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


USER, GOOD, BAD = turn("user", "hi"), turn("assistant", "hello"), turn("assistant", "go away")


def text_parts(*texts: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text} for text in texts]}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": "hello", "rejected": "go away"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [text_parts("hello")], "rejected": [text_parts("go ", "away")]},
    ],
    ids=["standard", "conversational", "whole conversations with a prompt", "implicit prompt", "parts"],
)
def test_conventions_of_trl_mean_the_same(tmp_path, row):
    (pair,) = read(tmp_path, [row])
    assert pair.prompt.messages == (USER,)
    assert (pair.chosen, pair.rejected) == ("hello", "go away")
    assert math.isnan(pair.score_chosen)


def test_several_turns_after_the_prompt_belong_to_it_but_for_the_last(tmp_path):
    talk = [turn("assistant", "who is it?"), turn("user", "me")]
    row = {"prompt": [USER], "chosen": [*talk, GOOD], "rejected": [*talk, BAD]}
    (pair,) = read(tmp_path, [row])
    assert pair.prompt.messages == (USER, *talk)
    with pytest.raises(UserError, match="has no prompt"):
        read(tmp_path, [{name: row[name] for name in ("chosen", "rejected")}])


@pytest.mark.parametrize("form", ["images", "image"])
@pytest.mark.parametrize("table", ["jsonl", "parquet"])
def test_pictures_come_as_trl_has_them(tmp_path, form, table):
    """A list of pictures or one, by path or embedded; the prompt says where they stand, or they open it."""
    from datasets import Dataset
    from PIL import Image

    Image.new("RGB", (8, 6), "red").save(tmp_path / "red.png")
    picture: Any = {"bytes": (tmp_path / "red.png").read_bytes(), "path": None} if table == "parquet" else "red.png"
    content = [{"type": "image", "text": None}, {"type": "text", "text": "what?"}]
    row = {
        "prompt": [{"role": "user", "content": content}],
        "chosen": [text_parts("red")],
        "rejected": [text_parts("blue")],
        form: [picture] if form == "images" else picture,
        "score_chosen": 4.0,
        "score_rejected": 1.0,
    }
    path = tmp_path / f"pairs.{table}"
    if table == "parquet":
        Dataset.from_list([row]).to_parquet(path)
    else:
        write(path, [row])
    (pair,) = read_pairs(PairSourceArgs(path=str(path)), "--data.train")
    assert (pair.chosen, pair.rejected, pair.score_chosen) == ("red", "blue", 4.0)
    (image,) = pair.prompt.images
    with Image.open(image) if isinstance(image, str) else image as opened:
        assert opened.size == (8, 6)
    assert [part["type"] for part in pair.prompt.messages[0]["content"]] == ["image", "text"]
    with pytest.raises(UserError, match="has 0 images for 1 places"):
        read(tmp_path, [{name: row[name] for name in ("prompt", "chosen", "rejected")}])


def test_an_implicit_prompt_of_texts_ends_before_the_space(tmp_path):
    row = {"chosen": "the sky is blue", "rejected": "the sky is green"}
    (pair,) = read(tmp_path, [row])
    assert pair.prompt.messages[0]["content"] == "the sky is"
    assert (pair.chosen, pair.rejected) == (" blue", " green")
    extract = pytest.importorskip("trl.data_utils").extract_prompt(row)
    assert (extract["prompt"], extract["chosen"]) == ("the sky is", " blue")


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("the sky is blue", "the sky is black", "the sky is"),  # TRL: "the sky is bl"
        ("the sky is blue", "the sky is bluer", "the sky is"),  # TRL: "the sky is blue" and an answer of nothing
        ("it is so", "it is", "it"),
        ("is it 3.14?", "is it 3.15?", "is it"),
        ("we don't", "we don", "we"),
        ("Q: why?\nA: so", "Q: why?\nA: sorry", "Q: why?\nA:"),
        ("x = f(a)", "x = f(b)", "x = f("),
        ("\u5929\u7a7a\u662f\u84dd\u8272", "\u5929\u7a7a\u662f\u7eff\u8272", "\u5929\u7a7a\u662f"),  # no spaces
        ("un e\u0301te\u0301", "un e\u0300te", "un"),  # accents of their own belong to their letter
        ("so \U0001f468\u200d\U0001f469", "so \U0001f468\u200d\U0001f467", "so"),  # one sign of several
        ("\u0434\u0430 \u043d\u0435\u0442", "\u0434\u0430 \u043d\u0430", "\u0434\u0430"),
        ("blue", "black", None),
        ("yes", "yes", None),
    ],
)
def test_an_implicit_prompt_has_whole_words(tmp_path, chosen, rejected, prompt):
    row = {"chosen": chosen, "rejected": rejected}
    if prompt is None:
        with pytest.raises(UserError, match="has no prompt, neither as a column nor as what both answers begin with"):
            read(tmp_path, [row])
        return
    (pair,) = read(tmp_path, [row])
    assert pair.prompt.messages == (turn("user", prompt),)
    assert (prompt + pair.chosen, prompt + pair.rejected) == (chosen, rejected)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "hi", "chosen": "a"}, "no column 'rejected'; choose --data.train.rejected_column"),
        ({"prompt": "hi", "chosen": "a", "rejected": ""}, None),
        ({"prompt": "hi", "chosen": "a", "rejected": None}, "column 'rejected' is empty"),
        ({"chosen": "abc", "rejected": "xyz"}, "has no prompt"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "has no prompt"),
        ({"chosen": [USER], "rejected": [USER, BAD]}, "must end with a message of the assistant"),
        ({"chosen": [USER, GOOD], "rejected": [turn("user", "yo"), BAD]}, "answer different conversations"),
        ({"prompt": "hi", "chosen": "a", "rejected": "b", "score_chosen": 1}, "scores of one side only"),
        (
            {"prompt": "hi", "chosen": "a", "rejected": "b", "score_chosen": "good", "score_rejected": 1},
            "column 'score_chosen' must hold a finite number, not 'good'",
        ),
        (
            {"prompt": "hi", "chosen": "a", "rejected": "b", "score_chosen": None, "score_rejected": 1},
            "must hold a finite number, not None",
        ),
    ],
)
def test_mistakes_name_the_row_or_the_column(tmp_path, row, message):
    if message is None:
        assert read(tmp_path, [row])[0].rejected == ""
        return
    with pytest.raises(UserError, match=message):
        read(tmp_path, [row])


def text_of(reader: Reader, tokens: Any) -> str:
    return "".join(reader.tokenizer.convert_ids_to_tokens(list(tokens)))


def test_an_answer_is_what_follows_the_prompt_up_to_the_end_of_its_turn():
    reader = Reader()
    prompt = Prompt("p", (USER,))
    before, answer = reader.encode_answer(prompt, "hello")
    assert before == render(reader.tokenizer, prompt, {})
    assert text_of(reader, answer) == "hello<eos>"  # and not the newline that the template writes behind


def test_without_a_template_the_end_of_sequence_token_ends_the_answer():
    reader = Reader(None)
    before, answer = reader.encode_answer(Prompt("p", (USER,)), " hello")
    assert (text_of(reader, before), text_of(reader, answer)) == ("hi", " hello<eos>")


def test_an_unfinished_assistant_turn_is_continued():
    reader = Reader()
    prompt = Prompt("p", (USER, turn("assistant", "well, ")))
    before, answer = reader.encode_answer(prompt, "hello")
    assert text_of(reader, before).endswith("well, ")
    assert text_of(reader, answer) == "hello<eos>"


def test_a_token_that_would_span_the_end_of_the_prompt_is_taken_apart():
    """Merges of a BPE may reach over the border; both answers must keep the same prompt."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<eos>": 0, "h": 1, "i": 2, "hi": 3, "a": 4}
    backend = Tokenizer(models.BPE(vocabulary, [("h", "i")]))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    assert tokenizer("ahi").input_ids == [4, 3]
    prompt = Prompt("p", (turn("user", "ah"),))
    assert encode_answer(tokenizer, prompt, "i", {}) == ([4, 1], [2, 0])
    assert encode_answer(tokenizer, prompt, "a", {}) == ([4, 1], [4, 0])


def test_what_does_not_fit_is_dropped_or_cut_and_counted(tmp_path):
    rows = [
        {"prompt": "1", "chosen": "22", "rejected": "333"},
        {"prompt": "1" * 40, "chosen": "2", "rejected": "3"},
        {"prompt": "1", "chosen": "2", "rejected": "2"},
        {"prompt": "1", "chosen": "2222223", "rejected": "2222224"},
    ]
    data = set_up(tmp_path, rows, template=None, max_length=6)
    report = data.report["--data.train"]
    assert (report.rows, report.long_prompts, report.identical, report.cut) == (4, 1, 2, 0)
    assert len(data.train_pairs) == 1
    longer = set_up(tmp_path, rows, template=None, max_length=8)
    assert (longer.report["--data.train"].identical, longer.report["--data.train"].cut) == (1, 2)
    assert len(longer.train_pairs[1].chosen_tokens) == 7  # cut before its end, without an end token
    with pytest.raises(
        UserError, match=r"Nothing is left of --data.train.path .*raise --data.max_length or max_prompt_tokens"
    ):
        set_up(tmp_path, rows, template=None, max_length=1)


def test_an_answer_without_a_token_is_dropped_and_counted(tmp_path):
    """Where no token ends an answer, an empty one has none: its mean log-prob would be 0 / 0."""
    rows = [{"prompt": "1", "chosen": "2", "rejected": ""}, {"prompt": "1", "chosen": "2", "rejected": "3"}]
    reader = Reader(None)
    reader.tokenizer.eos_token = None
    data = PreferenceDataModule(train=PairSourceArgs(path=write(tmp_path / "pairs.jsonl", rows)), batch_size=1)
    data.answers = reader
    data.setup("fit")
    assert data.report["--data.train"].empty == 1
    assert "1 dropped for an empty answer" in str(data.report["--data.train"])
    assert len(data.train_pairs) == 1


def test_answers_that_are_only_their_end_are_counted(tmp_path):
    rows = [{"prompt": "1", "chosen": "2", "rejected": bad} for bad in ("", "<eos>", "<eos>\n", "3")]
    report = set_up(tmp_path, rows).report["--data.train"]
    assert (report.empty, report.only_end) == (0, 3)
    assert "3 answers empty but for their end" in str(report)


SCORED = [
    {"prompt": str(i), "chosen": "a", "rejected": "b", "score_chosen": good, "score_rejected": bad}
    for i, (good, bad) in enumerate([(5.0, 1.0), (3.0, 3.0), (2.0, 4.0)])
]


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        ("none", [5.0, 3.0, 2.0]),
        ("zscore", [2 / math.sqrt(10 / 6), 0.0, -1 / math.sqrt(10 / 6)]),
        ("minmax", [1.0, 0.5, 0.25]),
        ("rank", [11 / 12, 0.5, 0.25]),
    ],
)
def test_scores_are_put_on_one_scale(tmp_path, kind, chosen):
    data = set_up(tmp_path, SCORED, weighting=PairWeightArgs(normalization=kind, eta=1.0))
    assert [p.pair.score_chosen for p in data.train_pairs] == pytest.approx(chosen)
    for encoded in data.train_pairs:
        gap = encoded.pair.score_chosen - encoded.pair.score_rejected
        assert encoded.pair.quality == pytest.approx(1 / (1 + math.exp(-gap)))
    report = data.report["--data.train"].weights
    assert report is not None
    assert (report.tied, report.reversed) == (1, 1)


def test_validation_pairs_are_put_on_the_scale_of_training_pairs(tmp_path):
    val = PairSourceArgs(path=write(tmp_path / "val.jsonl", SCORED[:1]))
    data = set_up(tmp_path, SCORED, val=val, weighting=PairWeightArgs(normalization="minmax", min_gap=1.0))
    assert len(data.train_pairs) == 1
    assert data.report["--data.train"].weights.dropped == 2  # type: ignore[union-attr]
    assert data.val_pairs[0].pair.score_chosen == 1.0


def test_weights_that_are_all_alike_are_warned_of(tmp_path):
    rows = [{**row, "score_chosen": 0.011, "score_rejected": 0.010 + i / 1e4} for i, row in enumerate(SCORED)]
    with pytest.warns(UserWarning, match="its scores hardly differ at --data.weighting.eta 0.7"):
        set_up(tmp_path, rows)
    verdicts = [{**row, "score_chosen": 1, "score_rejected": 0} for row in SCORED]
    with pytest.warns(UserWarning, match=r"scores of every pair differ by 1; .* set --model.loss.use_quality false"):
        set_up(tmp_path, verdicts)
    same = [{**row, "score_chosen": 1, "score_rejected": 1} for row in SCORED]
    with pytest.warns(UserWarning, match="scores of every pair differ by 0;"):
        set_up(tmp_path, same)
    with pytest.raises(UserError, match="normalization zscore is not defined: all scores are 1"):
        set_up(tmp_path, same, weighting=PairWeightArgs(normalization="zscore"))
    with pytest.raises(
        UserError, match=r"min_gap 9\.0 leaves none of 3 pairs; their scores differ by at most 4; lower it"
    ):
        set_up(tmp_path, SCORED, weighting=PairWeightArgs(min_gap=9.0))


def test_scores_of_some_sources_only_are_refused(tmp_path):
    bare = PairSourceArgs(path=write(tmp_path / "bare.jsonl", [{"prompt": "1", "chosen": "a", "rejected": "b"}]))
    with pytest.raises(UserError, match="Only some sources of pairs have scores"):
        set_up(tmp_path, SCORED, val=bare)


def test_a_scale_of_ranks_places_new_scores_between_known_ones():
    scores = torch.tensor([[3.0, 1.0]])
    weighed = weigh(scores, PairWeightArgs(normalization="rank"), ScoreScale(scores, "rank"), drop=False)
    assert (float(weighed.chosen_P), float(weighed.rejected_P)) == (0.75, 0.25)


def test_without_a_module_or_answers_the_remedy_is_named(tmp_path):
    source = PairSourceArgs(path=write(tmp_path / "pairs.jsonl", SCORED))
    with pytest.raises(UserError, match="set `answers` of the datamodule"):
        PreferenceDataModule(train=source).setup("fit")
    with pytest.raises(UserError, match=r"name a file or data set by --data.train.path"):
        PreferenceDataModule().setup("fit")


@pytest.mark.parametrize("normalization", ["none", "rank"])
def test_pairs_in_their_file_are_those_in_memory(tmp_path, monkeypatch, normalization):
    weighting = PairWeightArgs(normalization=normalization, min_gap=-10.0)
    kept = set_up(tmp_path, SCORED, weighting=weighting)
    monkeypatch.setattr(pair_sources, "KEPT_BYTES", -1)
    made = set_up(tmp_path, SCORED, weighting=weighting)
    assert made.train_pairs == kept.train_pairs
    assert made.train_pairs[0] is not made.train_pairs[0]  # made anew
    assert kept.train_pairs[0] is kept.train_pairs[0]
    assert made.report == kept.report


def test_a_store_gives_back_the_tokens_of_each_row():
    rows = [((1, 2, 3), (), (70_000,)), ((), (5,), (6, 7))]
    store = TokenStore(columns=3)
    for row in rows:
        store.append(*row)
        assert store[len(store) - 1] == row  # also while it grows
    assert [store[i] for i in range(len(store))] == rows
