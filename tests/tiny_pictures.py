"""Parts of tiny image-text models, and gradients to compare them by."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tiny import make_tokenizer
from torch import Tensor, nn

from lit_uniopd.types import Prompt

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
SIZE = {"height": 28, "width": 28}
CHAT = (
    "{% for m in messages %}<bos>{{ m['role'][0] }}:{% for c in m['content'] %}{% if c['type'] == 'image' %}PICTURE"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end>{% endfor %}{% if add_generation_prompt %}<bos>a:{% endif %}"
)
"""A chat template in which PICTURE stands for what a processor replaces by a picture's tokens."""


def tokenizer(*extra: str) -> Any:
    """One token per character, and these words, which are special."""
    words = make_tokenizer(None, extra=extra)
    words.add_special_tokens({"additional_special_tokens": ["<end>", *extra]})
    return words


def image_processor(name: str, **options: Any) -> Any:
    """The one that needs no torchvision."""
    return getattr(transformers, name + "Pil")(**options)


def scattered(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = kind(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def picture(width: int, height: int, seed: int) -> Any:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 255, (height, width, 3), dtype="uint8"))


def asked(name: str, text: str, *pictures: Any) -> Prompt:
    """A question behind pictures."""
    content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": text}]
    return Prompt(name, ({"role": "user", "content": content},), images=pictures)


def pair_gradient(model: nn.Module, logps: Sequence[Tensor]) -> Tensor:
    """Gradient of DPO's loss on pairs of answers that follow each other, its reference at even odds; all weights."""
    sums = torch.stack([answer.sum() for answer in logps])
    loss = -nn.functional.logsigmoid(0.1 * (sums[::2] - sums[1::2])).mean()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    filled = [
        weight.new_zeros(weight.shape) if grad is None else grad for weight, grad in zip(weights, grads, strict=True)
    ]
    return torch.cat([grad.flatten() for grad in filled])


WHOLE_PICTURE: dict[str, Any] = {
    "size": {"longest_edge": 28},
    "max_image_size": {"longest_edge": 28},
    "do_image_splitting": False,
}
"""Idefics3 without its pieces of a picture."""


def tiny_llava(pictures: Any, text: dict[str, Any] = TEXT, tower: dict[str, Any] = TOWER) -> tuple[Any, Any]:
    """LLaVA-1.5 and its processor, with an image processor of this installation."""
    words = tokenizer("<image>")
    processor = transformers.LlavaProcessor(
        pictures,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("PICTURE", "<image>"),
    )
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(vocab_size=len(words), **text),
        vision_config=transformers.CLIPVisionConfig(**tower),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    return scattered(transformers.LlavaForConditionalGeneration, config), processor


def tiny_idefics3(pictures: Any, text: dict[str, Any] = TEXT, tower: dict[str, Any] = TOWER) -> tuple[Any, Any]:
    """Idefics3 and its processor, likewise."""
    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<row_1_col_1>")
    processor = transformers.Idefics3Processor(
        pictures, words, image_seq_len=1, chat_template=CHAT.replace("PICTURE", "<image>")
    )
    config = transformers.Idefics3Config(
        text_config=transformers.LlamaConfig(vocab_size=len(words), **text).to_dict(),
        vision_config=tower,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return scattered(transformers.Idefics3ForConditionalGeneration, config), processor
