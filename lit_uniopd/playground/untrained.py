"""Two tiny models with random weights, in the format of the hub: a text and an image-text model, for trying things out.

They answer nonsense, but everything around them is real: a byte-level tokenizer that takes any text, a chat template,
a processor, safetensors.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>", "<image>")
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string %}{{ message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{{ '<image>' }}"
    "{%- else %}{{ part['text'] }}{%- endif %}{%- endfor %}{%- endif %}{{ '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
SIDE, PATCH = 56, 8
"""A picture becomes a square of 7 x 7 patches, and as many tokens."""


def make_byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that no text is unknown."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    table = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=table, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [t for t in SPECIAL if t not in (SPECIAL[0], SPECIAL[2])]}
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def write_tiny_text(directory: Path, seed: int) -> None:
    """A Qwen3 of two layers."""
    tokenizer = make_byte_tokenizer()
    config = Qwen3Config(**_text_settings(tokenizer))
    _save(Qwen3ForCausalLM, config, seed, directory)
    tokenizer.save_pretrained(directory)


def write_tiny_vision(directory: Path, seed: int) -> None:
    """A LLaVA: the same Qwen3 behind a CLIP of two layers, and its processor."""
    tokenizer = make_byte_tokenizer()
    config = LlavaConfig(
        text_config={**_text_settings(tokenizer), "model_type": "qwen3"},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        image_token_index=SPECIAL.index("<image>"),
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    _save(LlavaForConditionalGeneration, config, seed, directory)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(directory)


def _text_settings(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _save(kind: Any, config: Any, seed: int, directory: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)  # far from uniform, so that answers depend on prompts
    model.save_pretrained(directory)
