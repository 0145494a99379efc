"""What is kept of a rollout, against an enumeration by hand."""

import json

import pytest
import torch
from callbacks_data import rollouts
from tiny import make_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lit_uniopd.diagnostics.preferences import WeighedPairs
from lit_uniopd.policy.chat_template import continued
from lit_uniopd.types import EncodedPair, PreferencePair, Prompt
from lit_uniopd.view.records import chosen_groups, group_record, pair_records, token_pieces

RETURNS = [[0.5, 0.7], [-0.9], [0.1], [0.4], [-0.2, 0.0], [-0.3], [2.0], [0.0]]
OUTCOMES = [1, 0, 0, 1, 1, 0, -1, 0]
GROUPS = [0, 0, 1, 1, 2, 2, 3, 3]


def record(sample, rows, **options):
    settings = {"step": 4, "teacher": "math", "why": ["best"], "gap_threshold": None, "max_tokens": 10}
    return group_record(sample, rows, pieces=lambda ids: ["x"] * len(ids), **{**settings, **options})


def test_the_best_the_worst_and_the_most_misordered_group_of_each_teacher():
    sample = rollouts(RETURNS, OUTCOMES, GROUPS)
    # Groups 0 and 1 are in order, group 2 too (-0.1 over -0.3); nothing is misordered.
    assert chosen_groups(sample, ["a"] * 8) == {3: ["best"], 0: ["worst"]}
    flipped = rollouts(RETURNS, [0, 1, 1, 0, 0, 1, -1, 0], GROUPS)  # worst inversion: 0.6 over -0.9 in group 0
    assert chosen_groups(flipped, ["a"] * 8) == {3: ["best"], 0: ["worst", "misordered"]}
    routes = ["a"] * 4 + ["b"] * 4
    assert chosen_groups(flipped, routes) == {
        0: ["best", "worst", "misordered"],
        3: ["best"],
        2: ["worst", "misordered"],
    }


def test_domains_choose_for_themselves_and_unscored_answers_do_not_count():
    sample = rollouts(RETURNS, OUTCOMES, GROUPS)
    sample.prompts[6:] = [Prompt(id="3", messages=({"role": "user", "content": ""},), domain="code")] * 2
    assert chosen_groups(sample, ["a"] * 8) == {3: ["best", "worst"], 0: ["best", "worst"]}
    sample.teacher_ok_B[:2] = False
    assert chosen_groups(sample, ["a"] * 8)[1] == ["best"]
    sample.teacher_ok_B[:] = False
    assert chosen_groups(sample, ["a"] * 8) == {}


def test_a_record_has_what_trains():
    sample = rollouts([[0.5, -0.5, 1.0], [-3.0]], [1, 0], [7, 7])
    sample.student_logps_BT = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, 0, 0]])
    sample.teacher_logps_BT += sample.student_logps_BT
    sample.advantages_BT = sample.advantages_BT + 0.2 * sample.mask_BT
    sample.clipped_BT[0, 1] = True
    sample.keep_B[1] = False
    group = record(sample, [0, 1], gap_threshold=3.0)
    assert json.loads(json.dumps(group)) == group
    right, wrong = group["answers"]
    assert right["student"] == [-1.0, -1.0, -1.0]
    assert right["teacher"] == [-0.5, -1.5, 0.0]
    assert right["advantage"] == pytest.approx([0.7, -0.3, 1.2])
    assert right["return"] == pytest.approx([1 / 3, 1 / 3 + 0.2], abs=1e-4)
    assert (right["flags"], wrong["flags"]) == (".c.", "g")
    assert (right["kept"], wrong["kept"]) == (True, False)
    assert (right["length"], wrong["length"]) == (3, 1)


def test_long_answers_are_cut_and_masked_and_unscored_ones_marked():
    sample = rollouts([[0.5] * 5, [0.1]], [1, 0], [0, 0])
    sample.advantages_BT = torch.zeros_like(sample.advantages_BT)
    sample.teacher_ok_B[1] = False
    long, unscored = record(sample, [0, 1], max_tokens=2)["answers"]
    assert long["length"] == 5
    assert len(long["tokens"]) == len(long["student"]) == len(long["teacher"]) == len(long["flags"]) == 2
    assert long["masked"]
    assert long["return"] == [0.5, 0.0]
    assert not unscored["scored"]
    assert not unscored["masked"]
    assert unscored["teacher"] == []


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte a token, as byte-level BPE falls back to."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("text", ["a b", "naïve 🙂🙂 日本", "x\n\n  y ", "\u0301e", ""])
def test_pieces_join_to_the_text_though_characters_span_tokens(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text).input_ids
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)


def test_bytes_that_make_no_character_are_still_told():
    tokenizer = byte_tokenizer()
    broken = tokenizer("🙂").input_ids[:2] + tokenizer("ab").input_ids
    pieces = token_pieces(tokenizer, broken)
    assert len(pieces) == 4
    assert "".join(pieces).endswith("ab")
    assert "".join(pieces) == tokenizer.decode(broken)


def test_special_tokens_are_shown():
    tokenizer = make_tokenizer()
    ids = [tokenizer.get_vocab()[token] for token in ("1", "2", "<end>")]
    assert token_pieces(tokenizer, ids) == ["1", "2", "<end>"]


def test_sentence_pairs_keep_their_context_picture_and_evidence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe."}]},)
    # As a table by columns has it: null where an object is not this row's.
    row = {"verdicts": {"dog": "factual", "cat": None}, "votes": {"dog": [True, None], "cat": None}, "boxes": []}
    described = Prompt("p", messages, images=("dog.png",), row={**row, "detectors": ["a", "b"], "context": "A dog."})
    embedded = Prompt("q", messages, images=(b"bytes",))
    prompts = [continued(described, "A dog."), embedded]
    pairs = tuple(EncodedPair(PreferencePair(prompt, "good", "bad"), (), (), ()) for prompt in prompts)
    ones = torch.ones(2)
    weights = WeighedPairs(
        pairs, ones * float("nan"), ones, ones, ones, further={"mastery": torch.tensor([0.25, 0.75])}
    )
    first, second = pair_records(weights, step=3, count=9)
    assert json.loads(json.dumps(first)) == first
    assert (first["prompt"], first["context"]) == ("[picture]Describe.", "A dog.")
    assert first["images"] == [str(tmp_path / "dog.png")]
    assert first["verdicts"] == {"dog": "factual"}
    assert first["votes"] == {"dog": [True, None]}
    assert first["detectors"] == ["a", "b"]
    assert (first["mastery"], first["score_chosen"]) == (0.25, None)
    assert (second["prompt"], second["images"]) == ("[picture]Describe.", [])
    assert not {"context", "verdicts", "boxes"} & set(second)
