"""Who finds the objects of a sentence: the lexicon, a scene-graph parser, or both."""

from typing import Any

import pytest

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination import Lexicon, chair_words, coco
from lit_uniopd.hallucination.detectors import TableDetector
from lit_uniopd.hallucination.objects import ObjectExtractor, parse_triples
from lit_uniopd.modules.sentinel_bootstrap import SentenceBootstrap
from lit_uniopd.policy.args import PolicyArgs

GRAPHS = {
    "A woman beside a lamp on the train.": "( woman , beside , lamp ) , ( woman , on , train )",
    "Coaches train the dogs.": "( coach , train , dogs )",
    "A bus.": "( bus , is , red )",
    "A calm scene.": "( scene , is , calm )",
    "Nothing.": "",
}


class Parser:
    """The graphs of known sentences."""

    path = "-"

    def __call__(self, sentences):
        return [parse_triples(GRAPHS[sentence]) for sentence in sentences]

    def prepare(self, device):
        pass


def extractor(lexicon: Lexicon, **options: Any) -> ObjectExtractor:
    parser: Any = Parser()
    return ObjectExtractor(lexicon, parser, **options)


def test_the_papers_only_extractor_is_the_parser():
    extract = extractor(coco(), lexicon_finds=False)
    assert extract(list(GRAPHS)) == [["woman", "lamp", "train"], ["coach", "dog"], ["bus"], [], []]
    assert [extract.canonical(word) for word in ("woman", "lamp")] == ["person", "lamp"]
    assert extract([]) == []


def test_the_released_code_has_both_one_behind_the_other():
    extract = extractor(chair_words())
    assert extract(list(GRAPHS)) == [["woman", "train", "lamp"], ["train", "dog", "coach"], ["bus"], [], []]


def test_the_lexicon_alone():
    assert ObjectExtractor(coco())(list(GRAPHS)) == [["woman", "train"], ["dog"], ["bus"], [], []]


def test_something_must_find_objects():
    with pytest.raises(ValueError, match="scene_graph must be given"):
        ObjectExtractor(lexicon_finds=False)
    with pytest.raises(UserError, match=r"--model\.lexicon_finds false .* name a parser by --model\.scene_graph"):
        SentenceBootstrap(PolicyArgs(path="-"), [TableDetector({})], lexicon_finds=False)


def test_captions_are_resumed_only_by_the_same_extraction():
    def settings(**options: Any) -> str:
        return SentenceBootstrap(PolicyArgs(path="-"), [TableDetector({})], seed=0, **options).settings

    parser: Any = Parser()
    runs = [
        settings(),
        settings(lexicon="chair"),
        settings(lexicon="chair_robust"),
        settings(scene_graph=parser),
        settings(scene_graph=parser, lexicon_finds=False),
    ]
    assert len(set(runs)) == len(runs)
    assert settings() == runs[0]
