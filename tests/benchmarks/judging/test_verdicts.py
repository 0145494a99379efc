"""Replies of judges, read or not; and the file of verdicts."""

import math
from dataclasses import replace

import pytest

from lit_uniopd.benchmarks.judging.verdicts import (
    Verdict,
    keep_verdicts,
    letter_share,
    read_label,
    read_letter,
    read_mark,
    read_objects,
    read_points,
    read_verdicts,
)


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("My final verdict is tie: [[A=B]].", "A=B"),
        ("[[A>B]] at first, but then [[B>>A]]", "B>>A"),
        ("[[a>>b]]", "A>>B"),
        ("[[A<<B]]", "B>>A"),
        ("[[B<A]]", "A>B"),
        ("[B=A]", "A=B"),
        ("[A>B] and [[B>A]]", "B>A"),
        ("<think>[[A>B]]?</think>[[B>A]]", "B>A"),
        ("<think>[[A>B]] or", None),
        ("[[A>B]] <think>hm", None),
        ("A>B", None),
        ("[[A>A]]", None),
        ("[[A>B]] [[C]]", "A>B"),
        ("[[A>B]] [[=]]", None),
        ("", None),
    ],
)
def test_labels(reply, label):
    assert read_label(reply) == label


@pytest.mark.parametrize(
    ("reply", "points"),
    [
        ("1. two of them, [[2]]\n2. [[1.5]]\nSum: [[3.5]]", 3.5),
        ("[[0]]", 0.0),
        ("评分过程\n最终得分\uff1a1分\n最终得分为: 4.5分", 4.5),
        ("最终得分\uff1a-200分", None),
        ("[[6]]", None),
        ("<think>[[3]]</think>最终得分\uff1a2", 2.0),
        ("5", None),
        ("", None),
    ],
)
def test_points(reply, points):
    assert read_points(reply, 5) == points


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("m", "m"),
        (" M\n", "M"),
        ("**m**", "m"),
        ("[[M]]", "M"),
        ("m.", "m"),
        ("m or M", None),
        ("model", None),
        ("", None),
        ("I prefer m", None),
        ("<think>m</think>M", "M"),
        ("<think>m", None),
    ],
)
def test_letters(reply, letter):
    assert read_letter(reply, ("m", "M")) == letter


@pytest.mark.parametrize(
    ("reply", "mark"),
    [
        ("0.5", 0.5),
        ("1", 1.0),
        ("1.0 because", 1.0),
        ("[[0.3]] no, [[0.4]]", 0.4),
        (".5", 0.5),
        ("[[ 1. ]]", 1.0),
        ("1.1", None),
        ("-0.5", None),
        ("0.5/1", None),
        ("about 0.5", None),
        ("[[7]]", None),
        ("nan", None),
        ("", None),
        ("0.5, because", None),
        ("<think>0.1</think> 0.2", 0.2),
        ("<think>0.1", None),
    ],
)
def test_marks(reply, mark):
    assert read_mark(reply) == mark


@pytest.mark.parametrize(
    ("reply", "names"),
    [
        ('["dog", "dining table"]', ["dog", "dining table"]),
        ("Sure: ['dog', \"man's hat\"].", ["dog", "man's hat"]),
        ("```json\n[]\n```", []),
        ("<think>['cat']</think>['dog']", ["dog"]),
        ("dog, cat", None),
        ("[dog, cat]", None),
        ("[1, 2]", None),
        ('["dog", "ca', None),
        ("", None),
    ],
)
def test_objects(reply, names):
    assert read_objects(reply) == names


def test_shares():
    logps = {"m": math.log(0.2), "M": math.log(0.6), "x": math.log(0.2)}
    assert letter_share(logps, ("m", "M")) == pytest.approx(0.25)
    assert letter_share({"m": -3.0}, ("m", "M")) == 1.0  # as AlpacaEval: the other one is not among the first five
    assert letter_share({"x": -0.1}, ("m", "M")) is None


VERDICT = Verdict("b@p", "1", 0, "model_first", "hash", {"name": "j"}, {"sha256": "t"}, 1.0, reply="[[A>B]]")


def test_the_first_verdict_stays_and_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    other = replace(VERDICT, order="baseline_first", value=None)
    keep_verdicts(path, [VERDICT, other])
    with path.open("a") as file:
        file.write('{"benchmark": "b@p", "sample_')  # a killed run
    keep_verdicts(path, [replace(VERDICT, value=0.0), replace(VERDICT, sample_id="2")])
    verdicts = read_verdicts(path)
    assert [v.sample_id for v in verdicts.values()] == ["1", "1", "2"]
    assert verdicts[VERDICT.key] == VERDICT
    assert verdicts[other.key].value is None


@pytest.mark.parametrize(
    "change",
    [{"asked": "x"}, {"order": ""}, {"judge": {"name": "k"}}, {"template": {"sha256": "u"}}, {"sample_idx": 1}],
    ids=str,
)
def test_what_makes_another_verdict(change):
    assert replace(VERDICT, **change).key != VERDICT.key


def test_what_does_not():
    assert replace(VERDICT, value=0.0, reply="x", time=3.0, served_model="m").key == VERDICT.key
