"""Fixtures: detectors of tiny random weights in the format of the hub, and picture files of several kinds."""

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
    swin = {**SWIN}
    backbone = AutoConfig.for_model(swin.pop("model_type"), **swin)
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


@pytest.fixture(scope="session")
def omdet(owl):
    """Put together by hand: to be loaded from a directory, its processor needs torchvision."""
    from transformers.models.omdet_turbo.processing_omdet_turbo import OmDetTurboProcessor

    tokenizer = CLIPTokenizer.from_pretrained(str(owl))
    swin = {**SWIN}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": 0}
    config = OmDetTurboConfig(
        text_config={"model_type": "clip_text_model", **text, **ends, "vocab_size": len(tokenizer)},
        backbone_config=AutoConfig.for_model(swin.pop("model_type"), **swin),
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
