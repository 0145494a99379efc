"""Tiny image-text models in the format of the hub, with heads of 32 numbers, which vLLM's kernels for CPUs know."""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_pictures import CHAT, SIZE, TEXT, TOWER, WHOLE_PICTURE, scattered, tiny_idefics3, tiny_llava, tokenizer

from lit_uniopd.policy.multimodal import image_token_ids

LANGUAGE: dict[str, Any] = TEXT | {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32}
EYES: dict[str, Any] = TOWER | {"hidden_size": 64}
ROPE: dict[str, Any] = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}


def llava() -> tuple[Any, Any]:
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=SIZE)
    return tiny_llava(pictures, LANGUAGE, EYES)


def idefics3() -> tuple[Any, Any]:
    return tiny_idefics3(transformers.Idefics3ImageProcessor(**WHOLE_PICTURE), LANGUAGE, EYES)


def qwen25_vl() -> tuple[Any, Any]:
    tower = {"patch_size": 14, "fullatt_block_indexes": [1], "window_size": 56}
    kinds = (transformers.Qwen2_5_VLConfig, transformers.Qwen2_5_VLForConditionalGeneration)
    return _qwen(*kinds, transformers.Qwen2_5_VLProcessor, transformers.Qwen2VLVideoProcessor, tower, ROPE)


def qwen3_vl() -> tuple[Any, Any]:
    tower = {"patch_size": 16, "num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
    kinds = (transformers.Qwen3VLConfig, transformers.Qwen3VLForConditionalGeneration)
    rope = ROPE | {
        "mrope_interleaved": True
    }  # as in published configs; vLLM reads it, transformers takes it for granted
    return _qwen(*kinds, transformers.Qwen3VLProcessor, transformers.Qwen3VLVideoProcessor, tower, rope)


def _qwen(
    config_kind: Any, model_kind: Any, processor_kind: Any, videos: Any, tower: Any, rope: Any
) -> tuple[Any, Any]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    words, patch = tokenizer(*names.values()), tower["patch_size"]
    size = {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 16 * (2 * patch) ** 2}
    processor = processor_kind(
        transformers.Qwen2VLImageProcessor(patch_size=patch, merge_size=2, size=size),
        words,
        videos(patch_size=patch, merge_size=2),
        chat_template=CHAT.replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    widths = {"depth": 2, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 128}
    config = config_kind(
        text_config=LANGUAGE | {"vocab_size": len(words), "rope_parameters": rope},
        vision_config=widths | tower,
        **{name: words.convert_tokens_to_ids(word) for name, word in names.items()},
    )
    return scattered(model_kind, config), processor


MODELS = {"llava": llava, "idefics3": idefics3, "qwen25_vl": qwen25_vl, "qwen3_vl": qwen3_vl}


def save(name: str, directory: Path) -> Path:
    """Write one of the models as published checkpoints are: CLIP's weights have a longer name there."""
    model, processor = MODELS[name]()
    with torch.no_grad():  # no token of a picture is likely, as in trained models
        model.get_output_embeddings().weight[image_token_ids(model)] = 0.0
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    if name == "llava":
        file = directory / "model.safetensors"
        weights = {
            key.replace("vision_tower.", "vision_tower.vision_model.", 1): value
            for key, value in load_file(file).items()
        }
        save_file(weights, file, metadata={"format": "pt"})
    return directory
