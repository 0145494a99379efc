"""The detectors of transformers, from tiny random configs in the format of the hub, on real files of many kinds."""

import json
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    BertTokenizer,
    CLIPTokenizer,
    DetrImageProcessorPil,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    OmDetTurboConfig,
    OmDetTurboForObjectDetection,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
)

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination import coco
from lit_uniopd.hallucination.detectors import ClosedSet, GroundingDino, NoisyOracle, OmDetTurbo, Owlv2, TableDetector
from lit_uniopd.hallucination.detectors.base import opened
from lit_uniopd.pictures import open_picture

WORDS = ["dog", "cat", "wine", "glass", "a", "photo", "of", "person", "table", "dining", ".", ","]
SWIN = {
    "model_type": "swin",
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [2, 2, 2, 2],
    "window_size": 4,
    "out_features": ["stage2", "stage3", "stage4"],
}
BERT = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def spread(model):
    """Random weights far from uniform, so that scores differ."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def grounding(directory, config_class, model_class):
    given = {**SWIN}
    backbone = AutoConfig.for_model(given.pop("model_type"), **given)
    config = config_class(
        backbone_config=backbone,
        text_config=AutoConfig.for_model("bert", **{k: v for k, v in BERT.items() if k != "model_type"}),
        d_model=64,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=12,
        max_text_len=32,
        disable_custom_kernels=True,
    )
    spread(model_class(config)).save_pretrained(directory)
    vocabulary = directory / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]) + "\n")
    tokenizer = BertTokenizer(vocab=str(vocabulary))
    sized = GroundingDinoImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 64})
    GroundingDinoProcessor(sized, tokenizer).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def dino(tmp_path_factory):
    return grounding(tmp_path_factory.mktemp("dino"), GroundingDinoConfig, GroundingDinoForObjectDetection)


@pytest.fixture(scope="session")
def mm_dino(tmp_path_factory):
    return grounding(tmp_path_factory.mktemp("mm"), MMGroundingDinoConfig, MMGroundingDinoForObjectDetection)


@pytest.fixture(scope="session")
def owl(tmp_path_factory):
    directory = tmp_path_factory.mktemp("owl")
    pieces = ["!", *(f"{word}</w>" for word in WORDS), "<|startoftext|>", "<|endoftext|>"]
    letters = sorted({c for word in WORDS for c in word})
    every = dict.fromkeys([*pieces, *letters, *(f"{c}</w>" for c in letters)])
    table = {piece: i for i, piece in enumerate(every)}
    tokenizer = CLIPTokenizer(vocab=table, merges=[], pad_token="!", model_max_length=16)
    ends = {"bos_token_id": table["<|startoftext|>"], "eos_token_id": table["<|endoftext|>"], "pad_token_id": 0}
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Owlv2Config(
        text_config={**small, "vocab_size": len(tokenizer), "max_position_embeddings": 16, **ends},
        vision_config={**small, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    spread(Owlv2ForObjectDetection(config)).save_pretrained(directory)
    Owlv2Processor(Owlv2ImageProcessorPil(size={"height": 64, "width": 64}), tokenizer).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def rt_detr(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rt")
    labels = ["person", "aeroplane", "tvmonitor", "diningtable", "dog", "motorbike"]
    config = RTDetrV2Config(
        backbone_config=RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],  # pyright: ignore[reportCallIssue]
        ),
        encoder_in_channels=[8, 16, 16],
        encoder_hidden_dim=16,
        d_model=16,
        feat_channels=[16, 16, 16],  # pyright: ignore[reportCallIssue]
        decoder_in_channels=[16, 16, 16],
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=12,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    spread(RTDetrV2ForObjectDetection(config)).save_pretrained(directory)
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Files of several modes, sizes and formats."""
    directory = tmp_path_factory.mktemp("pictures")
    kinds = [("RGB", (80, 60), "jpg"), ("RGBA", (33, 90), "png"), ("L", (64, 64), "png"), ("P", (50, 20), "gif")]
    kinds += [("CMYK", (40, 40), "jpg"), ("1", (30, 70), "png"), ("RGB", (7, 5), "webp")]
    paths = []
    for i, (mode, size, suffix) in enumerate(kinds):
        noise = Image.effect_noise(size, 90).convert("RGB").convert(mode)
        noise.save(directory / f"{i}.{suffix}")
        paths.append(str(directory / f"{i}.{suffix}"))
    return paths


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
    for names, found in zip(OBJECTS, together.look(pictures, OBJECTS), strict=True):
        assert set(found) == set(names)
    # Pictures of one size: padding of others is seen by these models, a little.
    alike = [picture.resize((80, 80)) for picture in opened(pictures)]
    seen = together.look(alike, OBJECTS)
    assert len({score for row in seen for _, score in row.values()}) > 3
    for image, names, found in zip(alike, OBJECTS, seen, strict=True):
        for asked, (there, score) in alone.present(image, names).items():
            assert found[asked][0] == there
            assert found[asked][1] == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("name", ["dino", "mm_dino", "owl", "rt_detr"])
def test_odd_pictures_are_looked_at_too(request, odd_pictures, name):
    paths = list(odd_pictures.values())
    found = make(request, name, batch_size=4).look(paths, [["dog", "cat"]] * len(paths))
    assert [set(row) for row in found] == [{"dog", "cat"}] * len(paths)


@pytest.mark.parametrize("name", ["dino", "owl", "rt_detr"])
def test_thresholds_decide(request, pictures, name):
    options = ("threshold",) if name in ("owl", "rt_detr") else ("box_threshold", "text_threshold")
    never = make(request, name, **dict.fromkeys(options, 0.9999))
    always = make(request, name, **dict.fromkeys(options, 0.0))
    if name == "dino":
        always.label_match = "substring"
    # Of the closed vocabulary's boxes only the best are kept, whatever the threshold.
    asked = ["dog", "person", "tv", "airplane", "motorcycle", "dining table"] if name == "rt_detr" else ["dog"]
    assert not any(there for there, _ in never.present(pictures[0], asked).values())
    assert any(there for there, _ in always.present(pictures[0], asked).values())


def test_boxes_of_grounding_dino_are_labelled_as_by_the_library(dino, pictures):
    detector = GroundingDino(str(dino), box_threshold=0.5, text_threshold=0.4)
    detector.prepare("cpu")
    asked = [["dog", "cat", "wine glass"]]
    given, out = detector.run(images=[open_picture(pictures[0])], text=asked, padding=True)
    probs = out.logits[0].sigmoid()
    threshold = float(probs.amax(dim=1).sort().values[6])
    detector.box_threshold = threshold
    detector.text_threshold = float(probs[probs > 0].quantile(0.5))
    (boxes,) = detector.processor.post_process_grounded_object_detection(
        out, given["input_ids"], threshold=threshold, text_threshold=detector.text_threshold, target_sizes=[(60, 80)]
    )
    labels, scores = detector._labels(probs, given["input_ids"][0])
    assert len(labels) == 5
    assert scores == pytest.approx(boxes["scores"].tolist())
    # The library also lets the end of the caption into a label.
    assert labels == [label.replace(" [SEP]", "").replace("[SEP]", "") for label in boxes["text_labels"]]


def test_owl_scores_are_the_models_own(request, owl, pictures):
    """Against the library's own post-processing."""
    detector = Owlv2(str(owl), threshold=0.0, prompt="{}")
    found = detector.present(pictures[0], ["dog", "cat"])
    image = open_picture(pictures[0])
    inputs = detector.processor(images=image, text=[["dog", "cat"]], return_tensors="pt")
    (boxes,) = detector.processor.post_process_grounded_object_detection(
        detector.model(**inputs), threshold=0.0, text_labels=[["dog", "cat"]]
    )
    best = {}
    for label, score in zip(boxes["text_labels"], boxes["scores"].tolist(), strict=True):
        best[label] = max(score, best.get(label, 0.0))
    # The library gives each box to its best label; we ask for each object by itself.
    assert max(score for _, score in found.values()) == pytest.approx(max(best.values()), abs=1e-5)
    assert all(found[name][1] >= score - 1e-5 for name, score in best.items())


def test_a_caption_that_is_too_long_is_asked_in_portions(dino, pictures):
    detector = GroundingDino(str(dino), box_threshold=0.0, text_threshold=0.0, label_match="substring")
    detector.prepare("cpu")
    names = [f"{a} {b}" for a in ("dog", "cat", "wine", "person") for b in ("glass", "table", "dog", "cat", "photo")]
    portions = detector._captions(names)
    assert len(portions) > 1
    assert [name for part in portions for name in part] == names
    for part in portions:
        ids = detector.processor.tokenizer(". ".join(part) + ".").input_ids
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


@pytest.fixture(scope="session")
def omdet(owl):
    """Put together by hand: to be loaded from a directory, its processor needs torchvision."""
    from transformers.models.omdet_turbo.processing_omdet_turbo import OmDetTurboProcessor

    tokenizer = CLIPTokenizer.from_pretrained(str(owl))
    given = {**SWIN}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": 0}
    config = OmDetTurboConfig(
        text_config={"model_type": "clip_text_model", **text, **ends, "vocab_size": len(tokenizer)},
        backbone_config=AutoConfig.for_model(given.pop("model_type"), **given),
        **dict.fromkeys(("text_projection_in_dim", "text_projection_out_dim"), 16),
        **dict.fromkeys(("task_encoder_hidden_dim", "class_embed_dim", "encoder_dim_feedforward"), 16),
        **dict.fromkeys(("encoder_hidden_dim", "decoder_hidden_dim", "decoder_dim_feedforward"), 32),
        **dict.fromkeys(("encoder_attention_heads", "decoder_num_heads", "decoder_num_layers"), 2),
        vision_features_channels=[32, 32, 32],
        encoder_in_channels=[32, 64, 128],
        num_queries=12,
        image_size=64,
        apply_layernorm_after_vision_backbone=False,
        disable_custom_kernels=True,
    )
    sized = DetrImageProcessorPil(size={"height": 64, "width": 64}, do_pad=False)
    return spread(OmDetTurboForObjectDetection(config)).eval(), OmDetTurboProcessor(sized, tokenizer)


def test_omdet_turbo_tells_every_object_apart(omdet, pictures):
    detector = OmDetTurbo("-", threshold=0.7, batch_size=3)
    detector.model, detector.processor = omdet
    found = detector.look(pictures, OBJECTS)
    assert {there for row in found for there, _ in row.values()} == {True, False}
    for image, names, row in zip(pictures, OBJECTS, found, strict=True):
        alone = detector.present(image, names)
        assert {name: score for name, (_, score) in row.items()} == pytest.approx(
            {name: score for name, (_, score) in alone.items()}, abs=1e-3
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
    with pytest.raises(UserError, match=r"NoisyOracle\.truth .*`images` and `objects`"):
        NoisyOracle(str(broken)).prepare("cpu")


def test_noisy_oracles_err_at_their_rates_and_always_alike(tmp_path):
    file = tmp_path / "truth.jsonl"
    rows = [{"images": [f"pictures/{i}.png"], "objects": ["dog"]} for i in range(2000)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    images, asked = [f"/elsewhere/{i}.png" for i in range(2000)], [["dog", "cat"]] * 2000
    first = NoisyOracle(str(file), miss=0.2, false_alarm=0.05, seed=1).look(images, asked)
    assert first == NoisyOracle(str(file), miss=0.2, false_alarm=0.05, seed=1).look(images, asked)
    other = NoisyOracle(str(file), miss=0.2, false_alarm=0.05, seed=2).look(images, asked)
    missed = sum(not row["dog"][0] for row in first) / 2000
    alarms = sum(row["cat"][0] for row in first) / 2000
    both = sum(not a["dog"][0] and not b["dog"][0] for a, b in zip(first, other, strict=True)) / 2000
    # Four standard deviations.
    assert missed == pytest.approx(0.2, abs=0.036)
    assert alarms == pytest.approx(0.05, abs=0.02)
    assert both == pytest.approx(0.04, abs=0.018), "independent"
