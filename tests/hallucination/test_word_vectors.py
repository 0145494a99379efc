"""Words that are alike by vectors whose cosines are known by hand, and AMBER with them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.metrics import build_metrics
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.errors import UserError
from lit_uniopd.hallucination import amber_counts
from lit_uniopd.hallucination.word_vectors import similar_words
from lit_uniopd.rewards import GRADERS

VECTORS = """dog 1 0
puppy 9 3
wolf 8 6
cat 0 1
fire 0 2
hydrant 1 0
ice cream 1 1
dog 0 1
zero 0 0
"""
"""Cosines with dog: puppy 3 / sqrt(10) = .95, wolf .8, cat 0; of puppy and wolf 30 / sqrt(1000) = .95; a second dog."""


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.txt"
    path.write_text(VECTORS)
    return path


def test_cosines_by_hand(vectors):
    words = ["dog", "puppy", "wolf", "cat", "zero", "unicorn"]
    similar = similar_words(vectors, words, 0.8)
    assert similar == {
        "cat": ["cat"],
        "dog": ["dog", "puppy"],  # the wolf's .8 is not above .8
        "puppy": ["dog", "puppy", "wolf"],
        "wolf": ["puppy", "wolf"],
    }
    assert similar_words(vectors, words, 0.79)["dog"] == ["dog", "puppy", "wolf"]
    assert similar_words(vectors, words, 0.95)["dog"] == ["dog"]


def test_a_phrase_is_its_own_vector_or_the_sum_of_its_parts(vectors):
    """fire hydrant: (1, 2), of which fire has 2 / sqrt(5) = .89; ice cream is a line of its own, of .71 with either."""
    phrases = ["fire hydrant", "fire-hydrant", "fire", "ice cream", "dog"]
    similar = similar_words(vectors, phrases, 0.8)
    assert similar["fire"] == ["fire", "fire hydrant", "fire-hydrant"]
    assert similar["ice cream"] == ["fire hydrant", "fire-hydrant", "ice cream"]  # 3 / sqrt(10)


def test_word2vecs_first_line_is_no_word(vectors, tmp_path):
    (tmp_path / "w2v.txt").write_text("9 2\n" + VECTORS)
    words = ["dog", "puppy", "9"]
    assert similar_words(tmp_path / "w2v.txt", words) == similar_words(vectors, words)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, r"cannot be read \(No such file"),
        ("rat 1 0\n", "has a vector of none of the 1 words"),
        ("dog\n", "line 1 is no word with its numbers"),
        ("rat 1 0\ndog 1\n", "line 2 is no word with its numbers"),
        ("dog one two\n", "line 1 is no word with its numbers"),
    ],
)
def test_files_that_cannot_be_used(text, sentence, tmp_path):
    if text is not None:
        (tmp_path / "bad.txt").write_text(text)
    with pytest.raises(UserError, match=sentence):
        similar_words(tmp_path / "bad.txt", ["dog"])


def test_the_first_word_that_is_like_a_noun_says_which_object_it_means():
    """As inference.py looks: at what objects are associated with before the objects, and at hallucinations first."""
    association = {"cat": ["kitten"], "dog": ["puppy"], "wolf": []}
    similar = {"wolf": ["dog", "puppy", "kitten", "wolf"], "horse": ["dog"]}
    counts = amber_counts(["wolf"], ["dog", "cat"], ["wolf"], association, (), similar)
    assert (counts.hallucinated, counts.covered, counts.targets) == (0, 1, 1)  # forgiven, and a target all the same
    both = amber_counts(["wolf", "puppy"], ["dog", "cat"], [], association, (), similar)
    assert both.covered == 1  # puppy stands before kitten, as dog does before cat
    assert amber_counts(["horse", "wolf"], ["cat"], ["dog"], {"cat": [], "dog": []}, (), similar).targets == 1


def test_amber_with_vectors_has_names_of_its_own(vectors, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"inherit: _amber_vectors\nadapter_args: {{vectors: {vectors}}}\n")
    spec = find_spec(str(mine))
    assert spec.key == "amber_generative@word_vectors"
    gold = load_benchmark(spec, "fixture").examples[2].gold  # car, grass and sky; not there: man and dog
    caption = "A puppy sits in a car."
    records: list[Any] = []
    for similar in (gold["similar"], gold["similar"] | {"puppy": ["car"]}):
        grade = GRADERS["amber"](gold | {"similar": similar}, caption)
        records.append([SimpleNamespace(extracted=grade.extracted)])
    (metric,) = build_metrics(spec.report.metrics, 1)
    as_read, as_if = (metric.scores(torch.tensor(metric.stats(group))) for group in records)
    assert {name: float(value) for name, value in as_read.items()} == pytest.approx(
        {"chair_vectors": 1 / 2, "cover_vectors": 1 / 3, "hal_vectors": 1.0, "cog_vectors": 1 / 2}
    )
    assert float(as_if["chair_vectors"]) == 0.0


@pytest.mark.parametrize(
    "lines",
    [
        "inherit: _amber_vectors\n",
        "inherit: amber_generative\nprotocol: mine\nadapter_args: {vectors: v.txt}\n",
    ],
)
def test_vectors_and_the_metric_that_is_called_by_them_belong_together(lines, tmp_path):
    (tmp_path / "mine.yaml").write_text(lines)
    with pytest.raises(UserError, match="belong together; start your YAML file with `inherit: _amber_vectors`"):
        load_benchmark(find_spec(str(tmp_path / "mine.yaml")), "fixture")
