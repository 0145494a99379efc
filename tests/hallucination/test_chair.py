"""CHAIR and AMBER against the official functions' numbers, and what the lexicon finds."""

import json
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_uniopd.benchmarks.metrics import build_metrics
from lit_uniopd.benchmarks.metrics.yes_no import YesNo
from lit_uniopd.errors import UserError
from lit_uniopd.hallucination import Lexicon, amber_counts, chair, chair_counts, coco
from lit_uniopd.hallucination.amber import nouns_in
from lit_uniopd.hallucination.chair import scores_of
from lit_uniopd.hallucination.lexicon import singular
from lit_uniopd.rewards import GRADERS

GOLDEN = Path(__file__).parent.parent / "golden"
CHAIR = json.loads((GOLDEN / "sentinel_chair.json").read_text())
AMBER = json.loads((GOLDEN / "sentinel_amber.json").read_text())["generative"]


def test_counts_and_scores_are_the_official_ones():
    synonyms, counts = CHAIR["inputs"]["synonyms"], []
    for caption, expected in zip(CHAIR["inputs"]["captions"], CHAIR["outputs"]["per_caption"], strict=True):
        mentions = [(form, synonyms[form]) for form in caption["extracted_objects"] if form in synonyms]
        counts.append(chair_counts(mentions, caption["ground_truth_classes"]))
        assert counts[-1].mentions == len(expected["mentions"])
        assert counts[-1].hallucinated == len(expected["hallucinated"])
    scores, outputs = scores_of(counts), CHAIR["outputs"]
    assert scores.chair_i == pytest.approx(outputs["chair_i"])
    assert scores.chair_s == pytest.approx(outputs["chair_s"])
    assert scores.chair_s_refined == pytest.approx(outputs["chair_s_over_captions_with_a_mention"])
    assert scores.recall == pytest.approx(outputs["object_recall"])
    assert scores.chair_i != pytest.approx(CHAIR["macro_trap"]["value"])


def test_our_lexicon_reads_the_same_captions_alike():
    captions = CHAIR["inputs"]["captions"]
    scores = chair([c["caption"] for c in captions], [c["ground_truth_classes"] for c in captions])
    assert scores.chair_i == pytest.approx(CHAIR["outputs"]["chair_i"])
    assert scores.recall == pytest.approx(CHAIR["outputs"]["object_recall"])


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("Two men and three women ride bikes.", ["person", "person", "bicycle"]),
        ("A hot dog, no dog.", ["hot dog"]),
        ("The train track is empty.", []),
        ("A train on the train tracks.", ["train"]),
        ("Wine glasses and knives on the tables", ["wine glass", "knife", "dining table"]),
        ("A teddy bear next to a bear", ["teddy bear", "bear"]),
        ("a dog and a dog", ["dog"]),
        ("Orange juice and an orange.", ["orange"]),
        ("Buses, benches and sheep", ["bus", "bench", "sheep"]),
        ("A calm mood.", []),
    ],
)
def test_what_the_lexicon_finds(text, classes):
    assert [name for _, name in coco().mentions(text)] == classes


def test_the_lexicon_has_the_80_classes():
    assert len(coco().classes) == 80


@pytest.mark.parametrize(
    ("plural", "word"),
    [
        ("dogs", "dog"),
        ("buses", "bus"),
        ("glass", "glass"),
        ("ponies", "pony"),
        ("couches", "couch"),
        ("boxes", "box"),
        ("people", "person"),
        ("bus", "bus"),
        ("horses", "horse"),
        ("vases", "vase"),
    ],
)
def test_singulars(plural, word):
    assert singular(plural) == word


def test_a_word_of_two_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match="'bat' stands for"):
        Lexicon({"animal": ["bat"], "sport": ["bat"]})
    (tmp_path / "x.yaml").write_text("nothing: 1")
    with pytest.raises(UserError, match="is no lexicon"):
        Lexicon.read(tmp_path / "x.yaml")


def test_amber_is_counted_as_its_evaluator_does():
    inputs, case = AMBER["inputs"], AMBER["cases"][0]
    association, safe = inputs["association"], inputs["global_safe_words"]
    counts = []
    for text, nouns, notes in zip(case["responses"], case["nouns_in_vocabulary"], inputs["annotations"], strict=True):
        assert nouns_in(text, association, safe) == nouns
        counts.append(amber_counts(nouns, notes["truth"], notes["hallu"], association, safe))
    expected = case["released_evaluator"]
    scores = {
        "CHAIR": sum(c.hallucinated for c in counts) / sum(c.nouns for c in counts),
        "Cover": sum(c.covered for c in counts) / sum(c.truth for c in counts),
        "Hal": sum(c.hallucinated > 0 for c in counts) / len(counts),
        "Cog": sum(c.targets for c in counts) / sum(c.all_targets for c in counts),
    }
    for name, value in scores.items():
        assert 100 * value == pytest.approx(expected[name], abs=0.1), name
    # The formulas printed in the paper are of each response; they differ, and are not what is reported.
    formulas = case["paper_formula_set_based_mean"]
    assert all(len(set(nouns)) == len(nouns) for nouns in case["nouns_in_vocabulary"])
    assert 100 * fmean(c.hallucinated / c.nouns for c in counts) == pytest.approx(formulas["chair"])
    assert 100 * fmean(c.targets / c.nouns for c in counts) == pytest.approx(formulas["cog"])


def test_a_word_of_two_objects_means_the_first_that_the_evaluator_comes_to():
    """It looks through the associated words of all objects, then at the objects: a child is a person, and no child."""
    association = {"person": ["man", "child"], "child": ["boy"], "hiker": ["man"]}
    assert amber_counts(["child", "person"], ["person", "child"], [], association).covered == 1
    assert amber_counts(["man", "person"], ["person", "hiker"], [], association).covered == 1
    assert amber_counts(["boy", "man"], ["person", "child"], [], association).covered == 2


def test_ambers_questions_are_scored_with_no_as_the_positive_class():
    golden = json.loads((GOLDEN / "sentinel_amber.json").read_text())["discriminative"]
    kinds = {"overall": "", "existence": "hallucination", "attribute": "attribute"}
    kinds |= {name: name for name in ("state", "number", "action", "relation")}
    metric = YesNo(1, positive="no", primary="f1")
    assert kinds.keys() == golden["expected"].keys()
    for name, kind in kinds.items():
        records: list[Any] = []
        for item in golden["items"]:
            if kind in item["type"]:
                grade = GRADERS["yes_no"](item["truth"], item["response"], exact=True)
                records.append(SimpleNamespace(gold=item["truth"], extracted=grade.extracted, correct=grade.correct))
        scores = metric.scores(torch.tensor(metric.stats(records)))
        for score, value in golden["expected"][name].items():
            # Theirs are cut to one digit, over denominators that begin at 0.001, and F1 is of the cut ones.
            assert 100 * float(scores[score.lower()]) == pytest.approx(value, abs=0.2), (name, score)
    assert GRADERS["yes_no"]("no", "No, it is not").correct, "which is wrong there"


def test_graders_leave_the_counts_for_the_metric():
    grade = GRADERS["chair"](["dog"], "A dog on a bench.")
    assert (grade.correct, grade.score) == (False, 0.5)
    assert json.loads(grade.extracted or "") == {"mentions": 2, "hallucinated": 1, "hit": 1, "truth": 1}
    assert GRADERS["chair"]({"objects": ["dog"]}, "A dog.").correct
    gold = {"truth": ["dog"], "hallu": ["man"], "association": {"dog": ["puppy"], "man": []}, "safe_words": []}
    assert GRADERS["amber"](gold, "A puppy.").correct
    assert GRADERS["amber"](gold, "A puppy and a man.").score == 0.5
    assert GRADERS["amber"](None, "x").reason == "no_gold"


@pytest.mark.parametrize(
    ("silence", "reason"), [("", "no_answer"), (" \n", "no_answer"), ("<think>a cat", "truncated")]
)
def test_silence_misses_all_that_the_picture_shows(silence, reason):
    """As the evaluators do, which count the annotations of every caption: 2 of 4 objects, 0 of 2 hallucinations."""
    association = {"dog": ["puppy"], "ball": [], "cat": []}
    amber = {"truth": ["dog", "ball"], "hallu": ["cat"], "association": association, "safe_words": []}
    cases: list[tuple[str, Any, dict[str, Any], dict[str, float]]] = [
        ("chair", ["dog", "cat"], {}, {"chair_i": 0, "chair_s": 0, "chair_s_refined": 0, "recall": 2 / 4}),
        ("chair", ["dog", "cat"], {"reading": "robust"}, {"chair_i": 0, "recall": 2 / 4}),
        ("amber", amber, {}, {"chair": 0, "cover": 2 / 4, "hal": 0, "cog": 0}),
    ]
    for grader, gold, options, expected in cases:
        captions = ["A dog and a cat." if grader == "chair" else "A puppy and a ball.", silence]
        grades = [GRADERS[grader](gold, caption, **options) for caption in captions]
        assert (grades[1].correct, grades[1].score, grades[1].reason) == (False, 0.0, reason)
        records: Any = [
            SimpleNamespace(extracted=g.extracted, response=c) for g, c in zip(grades, captions, strict=True)
        ]
        (metric,) = build_metrics([{"name": grader}], 1)
        scores = metric.scores(torch.tensor(metric.stats(records)))
        assert {name: float(scores[name]) for name in expected} == pytest.approx(expected)
    hallucinating = GRADERS["amber"](amber, "A cat."), GRADERS["amber"](amber, silence)
    (metric,) = build_metrics([{"name": "amber"}], 1)
    records = [SimpleNamespace(extracted=grade.extracted) for grade in hallucinating]
    assert float(metric.scores(torch.tensor(metric.stats(records)))["cog"]) == 1 / 2
