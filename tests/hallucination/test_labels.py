"""Labels of boxes as an uncased tokenizer writes them, against the objects that were looked for."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from lit_uniopd.hallucination.detectors import TableDetector
from lit_uniopd.hallucination.detectors.labels import LabelMatch, labels_to_objects
from lit_uniopd.hallucination.verdicts import Detection, cross_check, vote_of


def votes(objects, labels, match: LabelMatch = "exact"):
    detections = labels_to_objects(objects, labels, [0.9] * len(labels), match)
    return {name: vote_of(detection) for name, detection in detections.items()}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("t-shirt", "t - shirt"),
        ("café table", "cafe table"),
        ("T-Shirt", "t - shirt"),
        ("jack-o'-lantern", "jack - o' - lantern"),
        ("jack-o’-lantern", "jack - o'- lantern"),
        ("child's toy", "child ' s toy"),
        ("child’s toy", "child's toy"),
        ("crème brûlée", "creme brulee"),
        ("cafe\u0301 table", "cafe table"),
        ("piñata", "pinata"),
        ("jalapeño", "jalapeno."),
        ("Müsli", "musli"),
        ("salt & pepper shaker", "salt & pepper shaker"),
        ("salt/pepper shaker", "salt / pepper shaker"),
        ("消防栓", "消 防 栓"),
        ("traffic light", ". traffic light"),
        ("st. bernard", "st. bernard"),
        ("7-up bottle", "7 - up bottle"),
    ],
)
def test_a_label_is_the_object_whatever_the_tokenizer_made_of_it(name, label):
    assert votes([name], [label]) == {name: True}
    assert votes([name, "dog"], [label]) == {name: True, "dog": False}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("man", "woman"),
        ("cat", "cattle"),
        ("dog", "hot dog"),
        ("dog", "a dog"),
        ("traffic light", "traffic"),
        ("t-shirt", "shirt"),
        ("shirt", "t - shirt"),
        ("tie", "bow - tie"),
        ("café table", "table"),
        ("dog", ""),
        ("", "dog"),
        ("...", "."),
        ("resume", "res"),
    ],
)
def test_other_labels_show_nothing(name, label):
    assert votes([name], [label]) == {name: False}


@pytest.mark.parametrize(
    ("objects", "labels", "expected"),
    [
        (["dog", "cat"], ["dog cat"], {"dog": None, "cat": None}),
        (["dog", "cat"], ["dog. cat."], {"dog": None, "cat": None}),
        (["dog", "cat"], ["dog cat", "dog"], {"dog": True, "cat": None}),
        (["dog", "cat", "car"], ["dog cat"], {"dog": None, "cat": None, "car": False}),
        (["dog", "cat", "car"], ["dog cat car"], {"dog": None, "cat": None, "car": None}),
        (["dog", "cat", "car"], ["dog car"], {"dog": None, "cat": False, "car": None}),
        (["t-shirt", "dog"], ["t - shirt dog"], {"t-shirt": None, "dog": None}),
        (["café", "dog"], ["cafe dog"], {"café": None, "dog": None}),
        (["dog", "wine glass"], ["dog wine"], {"dog": None, "wine glass": False}),
        (["wine glass", "fork"], ["wine glass fork"], {"wine glass": None, "fork": None}),
        # A label that is one of the objects joins none.
        (["dining table", "table"], ["dining table"], {"dining table": True, "table": False}),
        (["hot dog", "dog"], ["hot dog"], {"hot dog": True, "dog": False}),
        (["dog", "hot dog"], ["dog hot dog"], {"dog": None, "hot dog": None}),
        (["dog", "cat"], ["dog cat", "cat", "dog"], {"dog": True, "cat": True}),
        (["dog", "cat"], [], {"dog": False, "cat": False}),
    ],
)
def test_a_label_that_joins_objects_decides_on_none(objects, labels, expected):
    assert votes(objects, labels) == expected


def test_an_undecided_box_keeps_its_score_and_leaves_the_verdict_to_others():
    detections = labels_to_objects(["dog", "cat"], ["dog cat", "cat"], [0.9, 0.4], boxes=[(0, 0, 1, 1), (0, 0, 0.5, 1)])
    assert detections == {"dog": Detection(None, 0.9), "cat": Detection(True, 0.4, (0, 0, 0.5, 1))}
    first = {name: vote_of(detection) for name, detection in detections.items()}
    assert cross_check([first, {"dog": False, "cat": True}]) == {"dog": "hallucinated", "cat": "factual"}
    assert cross_check([first]) == {"dog": "uncertain", "cat": "factual"}


def test_what_is_seen_holds_for_the_class_before_what_is_undecided():
    class Undecided(TableDetector):
        def look(self, images, objects):
            row = {"man": Detection(None, 0.9), "woman": Detection(True, 0.3), "cat": Detection(None, 0.5)}
            return [{name: row[name] for name in names} for names in objects]

    (detections,) = Undecided({}).detect(
        ["x"], [["man", "woman", "cat"]], lambda word: "cat" if word == "cat" else "person"
    )
    assert [vote_of(detections[word]) for word in ("man", "woman", "cat")] == [True, True, None]


def test_the_released_rule_compares_characters():
    assert votes(["dog", "man", "t-shirt"], ["dog woman", "t - shirt"], "substring") == {
        "dog": True,
        "man": True,
        "t-shirt": False,
    }


NAMES = ["t-shirt", "café table", "child’s toy", "jack-o'-lantern", "salt & pepper shaker", "Müsli-Bowl", "7-up bottle"]


@pytest.mark.parametrize("name", [*NAMES, "mother-in-law", "消防栓", "p.o. box", "piñata", "dog/cat bed", "no. 5 sign"])
def test_a_name_is_found_behind_berts_own_tokenizer(name):
    """BERT's normalizer, splitter and decoder from the ``tokenizers`` package, over a vocabulary of characters."""
    characters = sorted({*"abcdefghijklmnopqrstuvwxyz0123456789&./-'’消防栓"})
    vocabulary = ["[UNK]", *characters, *(f"##{c}" for c in characters)]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    label = tokenizer.decode(tokenizer.encode(name).ids)
    assert "[UNK]" not in label
    assert votes([name, "dog"], [label]) == {name: True, "dog": False}
