"""The detectors of transformers, from tiny random configs in the format of the hub, on real files of many kinds."""

import json
from typing import Any

import pytest

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination import coco
from lit_uniopd.hallucination.detectors import ClosedSet, GroundingDino, NoisyOracle, OmDetTurbo, Owlv2, TableDetector
from lit_uniopd.hallucination.detectors.base import opened
from lit_uniopd.playground.scene_pairs import CORRELATED, oracles
from lit_uniopd.utils.images import open_image

OBJECTS = [
    ["dog"],
    ["cat", "dog", "wine glass"],
    ["person"],
    ["dog", "cat"],
    ["cat"],
    ["wine glass"],
    ["person", "dog"],
]


def make(request, name, **options):
    return {
        "dino": lambda: GroundingDino(str(request.getfixturevalue("dino")), **options),
        "mm_dino": lambda: GroundingDino(str(request.getfixturevalue("mm_dino")), **options),
        "owl": lambda: Owlv2(str(request.getfixturevalue("owl")), **options),
        "rt_detr": lambda: ClosedSet(str(request.getfixturevalue("rt_detr")), **options),
    }[name]()


@pytest.mark.parametrize("name", ["dino", "mm_dino", "owl"])
def test_many_pictures_at_once_are_as_one_by_one(request, pictures, name):
    thresholds: dict[str, Any] = {"threshold": 0.5} if name == "owl" else {"box_threshold": 0.0, "text_threshold": 0.0}
    if name != "owl":
        thresholds["label_match"] = "substring"
    together, alone = make(request, name, batch_size=3, **thresholds), make(request, name, **thresholds)
    for names, batched in zip(OBJECTS, together.look(pictures, OBJECTS), strict=True):
        assert set(batched) == set(names)
    # Pictures of one size: padding of others is seen by these models, a little.
    alike = [picture.resize((80, 80)) for picture in opened(pictures)]
    detections = together.look(alike, OBJECTS)
    assert len({single.score for row in detections for single in row.values()}) > 3
    for image, names, batched in zip(alike, OBJECTS, detections, strict=True):
        for name, single in alone.present(image, names).items():
            assert batched[name].found == single.found
            assert batched[name].score == pytest.approx(single.score, abs=1e-4)
            assert (batched[name].box is None) == (not single.found)


@pytest.mark.parametrize("name", ["dino", "mm_dino", "owl", "rt_detr"])
def test_odd_pictures_are_looked_at_too(request, odd_pictures, name):
    paths = list(odd_pictures.values())
    detections = make(request, name, batch_size=4).look(paths, [["dog", "cat"]] * len(paths))
    assert [set(row) for row in detections] == [{"dog", "cat"}] * len(paths)


@pytest.mark.parametrize("name", ["dino", "owl", "rt_detr"])
def test_thresholds_decide(request, pictures, name):
    options = ("threshold",) if name in ("owl", "rt_detr") else ("box_threshold", "text_threshold")
    never = make(request, name, **dict.fromkeys(options, 0.9999))
    always = make(request, name, **dict.fromkeys(options, 0.0))
    if name == "dino":
        always.label_match = "substring"
    # Of the closed vocabulary's boxes only the best are kept, whatever the threshold.
    objects = ["dog", "person", "tv", "airplane", "motorcycle", "dining table"] if name == "rt_detr" else ["dog"]
    assert not any(detection.found for detection in never.present(pictures[0], objects).values())
    assert any(detection.found for detection in always.present(pictures[0], objects).values())


def test_boxes_of_grounding_dino_are_labelled_as_by_the_library(dino, pictures):
    detector = GroundingDino(str(dino), box_threshold=0.5, text_threshold=0.4)
    detector.prepare("cpu")
    texts = [["dog", "cat", "wine glass"]]
    encoded, out = detector.run(images=[open_image(pictures[0])], text=texts, padding=True)
    probs = out.logits[0].sigmoid()
    threshold = float(probs.amax(dim=1).sort().values[6])
    detector.box_threshold = threshold
    detector.text_threshold = float(probs[probs > 0].quantile(0.5))
    (boxes,) = detector.processor.post_process_grounded_object_detection(
        out, encoded["input_ids"], threshold=threshold, text_threshold=detector.text_threshold, target_sizes=[(60, 80)]
    )
    labels, scores = detector._labels(probs, encoded["input_ids"][0])
    assert len(labels) == 5
    assert scores == pytest.approx(boxes["scores"].tolist())
    # The library also lets the end of the caption into a label.
    assert labels == [label.replace(" [SEP]", "").replace("[SEP]", "") for label in boxes["text_labels"]]


def test_owl_scores_are_the_models_own(request, owl, pictures):
    """Against the library's own post-processing."""
    detector = Owlv2(str(owl), threshold=0.0, prompt="{}")
    detections = detector.present(pictures[0], ["dog", "cat"])
    image = open_image(pictures[0])
    inputs = detector.processor(images=image, text=[["dog", "cat"]], return_tensors="pt")
    (boxes,) = detector.processor.post_process_grounded_object_detection(
        detector.model(**inputs), threshold=0.0, text_labels=[["dog", "cat"]]
    )
    best = {}
    for label, score in zip(boxes["text_labels"], boxes["scores"].tolist(), strict=True):
        best[label] = max(score, best.get(label, 0.0))
    # The library gives each box to its best label; we ask for each object by itself.
    assert max(detection.score for detection in detections.values()) == pytest.approx(max(best.values()), abs=1e-5)
    assert all(detections[name].score >= score - 1e-5 for name, score in best.items())


def test_a_caption_that_is_too_long_is_asked_in_portions(dino, pictures):
    detector = GroundingDino(str(dino), box_threshold=0.0, text_threshold=0.0, label_match="substring")
    detector.prepare("cpu")
    names = [f"{a} {b}" for a in ("dog", "cat", "wine", "person") for b in ("glass", "table", "dog", "cat", "photo")]
    portions = detector._captions(names)
    assert len(portions) > 1
    assert [name for portion in portions for name in portion] == names
    for portion in portions:
        ids = detector.processor.tokenizer(". ".join(portion) + ".").input_ids
        assert len(ids) <= detector.model.config.max_text_len
    assert set(detector.present(pictures[0], names)) == set(names)


def test_a_closed_vocabulary_has_cocos_names_and_looks_once(rt_detr, pictures):
    detector = ClosedSet(str(rt_detr), threshold=0.0)
    assert [name for name in coco().classes if detector.supports(name)] == [
        "person",
        "motorcycle",
        "airplane",
        "dog",
        "dining table",
        "tv",
    ]
    assert detector.votes(pictures[:1], [["dog", "lamp"]])[0]["lamp"] is None
    calls = []
    inner = detector._detected
    detector._detected = lambda images: calls.append(len(images)) or inner(images)  # type: ignore[method-assign]
    first = detector.look(pictures[:3], [["dog"], ["person"], ["tv"]])
    again = detector.look(pictures[:3], [["dog"], ["person"], ["tv"]])
    assert first == again
    assert calls == [2], "the first picture was looked at by votes, the others once"


def test_omdet_turbo_tells_every_object_apart(omdet, pictures):
    detector = OmDetTurbo("-", threshold=0.7, batch_size=3)
    detector.model, detector.processor = omdet
    detections = detector.look(pictures, OBJECTS)
    assert {detection.found for row in detections for detection in row.values()} == {True, False}
    for image, names, row in zip(pictures, OBJECTS, detections, strict=True):
        alone = detector.present(image, names)
        assert {name: detection.score for name, detection in row.items()} == pytest.approx(
            {name: detection.score for name, detection in alone.items()}, abs=1e-3
        )


def test_omdet_turbo_needs_torchvision(tmp_path):
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(UserError, match=r"OmDetTurbo\.path .* cannot be loaded"):
            OmDetTurbo(str(tmp_path)).prepare("cpu")


def test_mistakes_name_the_picture_and_the_detector(tmp_path, dino, pictures):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    detector = GroundingDino(str(dino))
    with pytest.raises(UserError, match=r"broken\.jpg cannot be read"):
        detector.present(str(broken), ["dog"])
    with pytest.raises(UserError, match=r"Owlv2\.path .* cannot be loaded"):
        Owlv2(str(tmp_path / "nothing")).prepare("cpu")
    with pytest.raises(UserError, match=r"has no picture 'other\.png'"):
        TableDetector({"one.png": ["dog"]}).present("other.png", ["dog"])
    with pytest.raises(UserError, match=r"NoisyOracle\.miss must be in"):
        NoisyOracle("x.jsonl", miss=1.5)
    with pytest.raises(UserError, match=r"NoisyOracle\.shared must be in"):
        NoisyOracle("x.jsonl", shared=-0.1)
    with pytest.raises(UserError, match=r"NoisyOracle\.truth .*`images` and `objects`"):
        NoisyOracle(str(broken)).prepare("cpu")


def test_noisy_oracles_err_at_their_rates_and_always_alike(tmp_path):
    file = tmp_path / "truth.jsonl"
    rows = [{"images": [f"pictures/{i}.png"], "objects": ["dog"]} for i in range(2000)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    images, objects = [f"/elsewhere/{i}.png" for i in range(2000)], [["dog", "cat"]] * 2000
    first = NoisyOracle(str(file), miss=0.2, false_alarm=0.05, seed=1).look(images, objects)
    assert first == NoisyOracle(str(file), miss=0.2, false_alarm=0.05, seed=1).look(images, objects)
    other = NoisyOracle(str(file), miss=0.2, false_alarm=0.05, seed=2).look(images, objects)
    missed = sum(not row["dog"][0] for row in first) / 2000
    alarms = sum(bool(row["cat"][0]) for row in first) / 2000
    both = sum(not a["dog"][0] and not b["dog"][0] for a, b in zip(first, other, strict=True)) / 2000
    # Four standard deviations.
    assert missed == pytest.approx(0.2, abs=0.036)
    assert alarms == pytest.approx(0.05, abs=0.02)
    assert both == pytest.approx(0.04, abs=0.018), "independent"


def test_oracles_that_share_errors_err_together_as_often_as_computed(tmp_path):
    file = tmp_path / "truth.jsonl"
    rows = [{"images": [f"pictures/{i}.png"], "objects": ["dog"]} for i in range(4000)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    images, objects = [f"{i}.png" for i in range(4000)], [["dog", "cat"]] * 4000
    looks = [detector.look(images, objects) for detector in oracles(file, 1, CORRELATED)]
    missed = [[not row["dog"][0] for row in look] for look in looks]
    alarms = [[bool(row["cat"][0]) for row in look] for look in looks]
    for (first, second), rates in ((missed, (0.3, 0.2)), (alarms, (0.2, 0.3))):
        # At half of the objects the second errs where the first's number is below its rate, else by a number of its own.
        both = 0.5 * 0.2 + 0.5 * 0.3 * 0.2
        for errors, share in ((first, rates[0]), (second, rates[1]), (map(all, zip(first, second, strict=True)), both)):
            four_deviations = 4 * (share * (1 - share) / 4000) ** 0.5
            assert sum(errors) / 4000 == pytest.approx(share, abs=four_deviations)
