"""Where detectors see what they see: fractions of the picture, whatever the processor made of it."""

import json

import pytest
import torch
from PIL import Image

from lit_uniopd.hallucination import BootstrapArgs, Bootstrapper
from lit_uniopd.hallucination.bootstrap import Candidate
from lit_uniopd.hallucination.detectors import (
    ClosedSet,
    Detection,
    Detector,
    GroundingDino,
    NoisyOracle,
    OmDetTurbo,
    Owlv2,
    TableDetector,
)
from lit_uniopd.hallucination.detectors.base import inside, on_picture, opened
from lit_uniopd.hallucination.objects import ObjectExtractor
from lit_uniopd.hallucination.records import caption_line, pair_rows
from lit_uniopd.types import Prompt
from lit_uniopd.utils.images import open_image


def to_pixels(box, size):
    """In pixels, as the library tells boxes."""
    return [edge * side for edge, side in zip(box, size * 2, strict=True)]


def cut(box, size):
    return [min(max(edge, 0.0), side) for edge, side in zip(box, size * 2, strict=True)]


def of_the_library(detector, picture, name):
    """Best score of an object, and its box in pixels, from the library's own post-processing."""
    if isinstance(detector, ClosedSet):
        _, out = detector.run(images=[picture])
        sizes = [picture.size[::-1]]
        (boxes,) = detector.processor.post_process_object_detection(out, threshold=0.0, target_sizes=sizes)
        rows = [i for i, label in enumerate(boxes["labels"].tolist()) if detector.labels[label] == name]
    elif isinstance(detector, Owlv2):
        inputs = detector.processor(images=picture, text=[[name]], return_tensors="pt")
        (boxes,) = detector.processor.post_process_grounded_object_detection(
            detector.model(**inputs), threshold=0.0, target_sizes=[picture.size[::-1]]
        )
        rows = list(range(len(boxes["scores"])))
    else:
        encoded, out = detector.run(images=[picture], text=[[name]], padding=True)
        (boxes,) = detector.processor.post_process_grounded_object_detection(
            out, encoded["input_ids"], threshold=0.0, text_threshold=0.0, target_sizes=[picture.size[::-1]]
        )
        rows = list(range(len(boxes["scores"])))
    best = max(rows, key=lambda i: float(boxes["scores"][i]))
    return float(boxes["scores"][best]), boxes["boxes"][best].tolist()


@pytest.mark.parametrize("kind", ["dino", "owl", "rt_detr"])
def test_boxes_are_the_librarys(request, pictures, kind):
    path = str(request.getfixturevalue(kind))
    detector = {
        "dino": lambda: GroundingDino(path, box_threshold=0.0, text_threshold=0.0, label_match="substring"),
        "owl": lambda: Owlv2(path, threshold=0.0, prompt="{}"),
        "rt_detr": lambda: ClosedSet(path, threshold=0.0),
    }[kind]()
    # Random weights may see few objects of a closed set; one of all they do see.
    names = sorted(set(detector.labels.values())) if isinstance(detector, ClosedSet) else ["dog", "person"]
    compared = 0
    for file in pictures:  # wide, high and square ones
        picture = open_image(file)
        for name in names:
            detection = detector.present(file, [name])[name]
            if detection.box is None:
                continue
            score, box = of_the_library(detector, picture, name)
            assert detection.score == pytest.approx(score, abs=1e-5)
            assert to_pixels(detection.box, picture.size) == pytest.approx(cut(box, picture.size), abs=1e-3)
            compared += 1
    assert compared >= len(pictures)


def test_boxes_of_omdet_turbo_are_those_of_its_best_query(omdet, pictures):
    detector = OmDetTurbo("-", threshold=0.0)
    detector.model, detector.processor = omdet
    detections = detector.present(pictures[0], ["cat", "dog"])
    with torch.no_grad():
        _, out = detector.run(images=opened(pictures[:1]), text=[["cat", "dog"]])
    for column, name in enumerate(("cat", "dog")):
        best = int(out.decoder_class_logits[0, :, column].argmax())
        x, y, width, height = out.decoder_coord_logits[0, best].tolist()
        expected = cut([x - width / 2, y - height / 2, x + width / 2, y + height / 2], (1, 1))
        box = detections[name].box
        assert box is not None
        assert list(box) == pytest.approx(expected, abs=1e-5)


def test_the_margin_of_a_thin_picture_is_taken_off():
    (sheet,) = opened([Image.new("RGB", (300, 1))])
    assert sheet.size == (300, 6)  # rows 2 of 0 to 5
    assert on_picture((0.25, 2 / 6, 0.5, 3 / 6), sheet) == pytest.approx((0.25, 0.0, 0.5, 1.0))
    assert on_picture((0.0, 0.0, 1.0, 1.0), sheet) == (0.0, 0.0, 1.0, 1.0), "cut at the picture's edges"
    assert inside((-0.1, 0.2, 1.3, 0.4)) == (0.0, 0.2, 1.0, 0.4)


def test_a_word_has_the_best_box_of_its_class():
    boxes = {"i": {"man": [0.0, 0.0, 0.5, 1.0], "woman": [0.5, 0.0, 1.0, 1.0]}}
    detector = TableDetector({"i": {"man": 0.6, "woman": 0.9}}, vocabulary=["man", "woman", "dog"], boxes=boxes)
    (row,) = detector.detect(["i"], [["man", "woman", "dog", "lamp"]], lambda w: "person" if "man" in w else w)
    best = Detection(True, 0.9, (0.5, 0.0, 1.0, 1.0))
    assert row == {"man": best, "woman": best, "dog": Detection(False, 0.0), "lamp": None}


def test_a_detector_of_ones_own_may_tell_no_places():
    class Pairs(Detector):
        def look(self, images, objects):
            return [{name: (name == "dog", 0.5) for name in names} for names in objects]

    (row,) = Pairs().detect(["i"], [["dog", "cat"]])
    assert row == {"dog": Detection(True, 0.5), "cat": Detection(False, 0.5)}
    assert Pairs().votes(["i"], [["dog", "cat"]]) == [{"dog": True, "cat": False}]


def test_the_oracle_knows_places_and_mistakes_one_thing_for_another(tmp_path):
    file = tmp_path / "truth.jsonl"
    boxes = {"dog": [0.0, 0.0, 0.5, 0.5], "cup": [0.5, 0.5, 1.0, 1.0]}
    rows = [{"images": [f"{i}.png"], "objects": ["dog", "cup", "bus"], "boxes": boxes} for i in range(60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    oracle = NoisyOracle(str(file), miss=0.0, false_alarm=0.5)
    detections = oracle.look([f"{i}.png" for i in range(60)], [["dog", "bus", "cat"]] * 60)
    assert {row["dog"].box for row in detections} == {(0.0, 0.0, 0.5, 0.5)}
    assert {row["bus"] for row in detections} == {Detection(True, 1.0, None)}, "of this one no place is known"
    imagined = {row["cat"].box for row in detections if row["cat"].found}
    assert imagined == {(0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0), None}
    assert all(row["cat"] == Detection(False, 0.0) for row in detections if not row["cat"].found)


def test_lines_and_pairs_say_what_was_seen_where():
    def write(prompts, step, attempt, *, greedy):
        return [[Candidate("A dog and a cup."), Candidate("A dog and a bus.")] for _ in prompts]

    boxes = {"i": {"dog": [0.1, 0.2, 0.3, 0.4], "cup": [0.5, 0.5, 1.0, 1.00001]}}
    sure, blind = TableDetector({"i": {"dog": 0.9, "cup": 0.8}}, boxes=boxes), TableDetector({"i": ["dog", "cup"]})
    prompt = Prompt("p", ({"role": "user", "content": "?"},), images=("i",))
    bootstrapper = Bootstrapper(write, [sure, blind], ObjectExtractor(), BootstrapArgs(max_sentences=2))
    line = caption_line(bootstrapper.run([prompt])[0], ["sure", "blind"])
    dog = {"object": "dog", "detector": "sure", "score": 0.9, "place": [0.1, 0.2, 0.3, 0.4]}
    cup = {"object": "cup", "detector": "sure", "score": 0.8, "place": [0.5, 0.5, 1.0, 1.0]}
    assert json.loads(json.dumps(line["boxes"])) == [dog, cup]
    (row,) = pair_rows(line)
    assert (row["chosen"], row["rejected"]) == ("A dog and a cup.", "A dog and a bus.")
    assert row["objects_rejected"] == ["dog", "bus"]
    assert row["verdicts"] == {"dog": "factual", "cup": "factual", "bus": "hallucinated"}
    assert row["votes"] == {"dog": [True, True], "cup": [True, True], "bus": [False, False]}
    assert row["boxes"] == [dog, cup]
    assert row["detectors"] == ["sure", "blind"]

    # A line of before there were boxes.
    old = {key: value for key, value in line.items() if key not in ("boxes", "detectors")}
    old["pairs"] = [{k: v for k, v in pair.items() if k != "objects_rejected"} for pair in line["pairs"]]
    (row,) = pair_rows(old)
    assert (row["boxes"], row["detectors"]) == ([], [])
    assert row["verdicts"] == {"dog": "factual", "cup": "factual", "bus": "hallucinated"}
