"""Tokenizer, processor and LLaVA of the multimodal playground; its language half is the text playground's student."""

from typing import Any

import torch
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lit_uniopd.playground.images import PATCH, SIDE
from lit_uniopd.playground.models import BOS, CHARACTERS, make_tokenizer
from lit_uniopd.playground.models import encode as encode_text
from lit_uniopd.playground.vision_tasks import MARK, Question

EXTRA_TOKENS = (MARK, "B", "D", "P")
"""Tokens after those of the text playground, whose ids do not change: its experts can teach this student."""
PICTURE_TOKENS = (SIDE // PATCH) ** 2
PICTURE_ID = 3 + len(CHARACTERS)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def make_processor() -> LlavaProcessor:
    """The text playground's tokenizer with a few more tokens; pictures are used as drawn."""
    tokenizer: PreTrainedTokenizerFast = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [MARK]})
    tokenizer.add_tokens([token for token in EXTRA_TOKENS if token != MARK])
    tokenizer.chat_template = CHAT_TEMPLATE
    pictures = CLIPImageProcessorPil(
        do_resize=False, do_center_crop=False, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=MARK,
        chat_template=CHAT_TEMPLATE,
    )


def make_llava(student: Any, seed: int) -> LlavaForConditionalGeneration:
    """A LLaVA around a copy of the text student, with an untrained tower.

    Args:
        student: of the text playground.
        seed: of the new weights.
    """
    vocabulary = 3 + len(CHARACTERS) + len(EXTRA_TOKENS)
    config = LlavaConfig(
        text_config={**student.config.to_dict(), "vocab_size": vocabulary},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        image_token_index=PICTURE_ID,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = LlavaForConditionalGeneration(config)
        text_embeddings, embeddings = student.get_input_embeddings().weight, model.get_input_embeddings().weight
        with torch.no_grad():
            for parameter in (*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()):
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.1)
            body = {name: value for name, value in student.model.state_dict().items() if "embed_tokens" not in name}
            model.model.language_model.load_state_dict(body, strict=False)
            embeddings[: len(text_embeddings)] = text_embeddings
            extra = embeddings[len(text_embeddings) :]
            extra.copy_(text_embeddings.mean(dim=0) + 0.1 * torch.randn_like(extra))
    return model


def encode(question: Question) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Ids and pixels of a question, as the processor makes them, and many times faster."""
    ids: list[int] = [BOS]
    for place, piece in enumerate(question.prompt.split(MARK)):
        if place:
            ids += [PICTURE_ID] * PICTURE_TOKENS
        for character in piece:
            index = EXTRA_TOKENS.index(character) if character in EXTRA_TOKENS else -1
            ids += [PICTURE_ID + index] if index > 0 else encode_text(character)
    picture = question.picture()
    if picture is None:
        return ids, {}
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, SIDE, SIDE, 3)
    return ids, {"pixel_values": (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5}
