"""Image-text families whose processors need torchvision: their image processors' output beside tokens made by hand.

Log-probs and gradients of a batch are compared with those of single rows by plain transformers.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tiny_pictures import SIZE, TEXT, TOWER, image_processor, pair_gradient, picture, scattered
from torch import Tensor, nn

from lit_uniopd.policy import Policy
from lit_uniopd.policy.backbone import check_head

IMAGE, VIDEO, START, END, NEWLINE = 60, 61, 62, 63, 59
LANGUAGE: dict[str, Any] = TEXT | {"vocab_size": 64}
GRID: dict[str, Any] = LANGUAGE | {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
        "partial_rotary_factor": 1.0,
    }
}
Encode = Callable[[list[Any], list[int]], tuple[list[int], dict[str, Tensor]]]


def encoder(processor: Any, tokens_of: Callable[[Any, int], list[int]]) -> Encode:
    """Tokens of pictures, then of text, with what the image processor gives.

    Args:
        processor: of pictures.
        tokens_of: tokens of the numbered picture, from the processor's output.
    """

    def encode(pictures: list[Any], text: list[int]) -> tuple[list[int], dict[str, Tensor]]:
        if not pictures:
            return text, {}
        features = processor([pictures], return_tensors="pt")
        tokens = [token for number in range(len(pictures)) for token in tokens_of(features, number)]
        features.pop("num_soft_tokens_per_image", None)
        return tokens + text, dict(features)

    return encode


def glm4v() -> tuple[nn.Module, Encode]:
    size: dict[str, Any] = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    pictures = image_processor("Glm4vImageProcessor", patch_size=14, merge_size=2, size=size)
    tower: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 32,
    }
    config = transformers.Glm4vConfig(
        text_config=GRID,
        vision_config=tower | {"patch_size": 14, "image_size": 56},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=START,
        image_end_token_id=END,
    )
    encode = encoder(pictures, lambda out, n: [START, *[IMAGE] * (int(out["image_grid_thw"][n].prod()) // 4), END])
    return scattered(transformers.Glm4vForConditionalGeneration, config), encode


def mistral3() -> tuple[nn.Module, Encode]:
    pictures = image_processor(
        "PixtralImageProcessor", size={"longest_edge": 84}, patch_size={"height": 28, "width": 28}
    )
    tower: dict[str, Any] = TOWER | {"image_size": 84}
    config = transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**LANGUAGE),
        vision_config=transformers.PixtralVisionConfig(**tower),
        image_token_index=IMAGE,
        spatial_merge_size=2,
    )

    def tokens_of(out: Any, number: int) -> list[int]:
        height, width = (int(edge) // 28 for edge in out["image_sizes"][number])
        return [token for _ in range(height) for token in (*[IMAGE] * width, NEWLINE)]

    return scattered(transformers.Mistral3ForConditionalGeneration, config), encoder(pictures, tokens_of)


def gemma4() -> tuple[nn.Module, Encode]:
    pictures = image_processor("Gemma4ImageProcessor", patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    sizes = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64, "global_head_dim": 16}
    tower: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "patch_size": 4}
    config = transformers.Gemma4Config(
        text_config=LANGUAGE | sizes | {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 512},
        vision_config=tower
        | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "pooling_kernel_size": 2},
        audio_config=None,
        image_token_id=IMAGE,
        boi_token_id=START,
        eoi_token_id=END,
    )
    encode = encoder(pictures, lambda out, n: [START, *[IMAGE] * int(out["num_soft_tokens_per_image"][n]), END])
    return scattered(transformers.Gemma4ForConditionalGeneration, config), encode


def llava_onevision() -> tuple[nn.Module, Encode]:
    grid = [[28, 56], [56, 28], [56, 56]]
    pictures = image_processor("LlavaOnevisionImageProcessor", size=SIZE, image_grid_pinpoints=grid)
    config = transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(**LANGUAGE),
        vision_config=transformers.SiglipVisionConfig(**TOWER),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=grid,
    )
    model = scattered(transformers.LlavaOnevisionForConditionalGeneration, config)

    def tokens_of(out: Any, number: int) -> list[int]:
        options: dict[str, Any] = {name: out[name] for name in ("image_sizes", "batch_num_images") if name in out}
        features = model.model.get_image_features(out["pixel_values"], **options)
        return [IMAGE] * len(getattr(features, "pooler_output", features)[number])

    return model, encoder(pictures, tokens_of)


SQUARE, WIDE, TALL = picture(56, 56, 0), picture(120, 30, 1), picture(28, 90, 2)
ROWS = [([SQUARE], [3, 4, 5]), ([WIDE], [6, 7]), ([TALL, SQUARE], [8]), ([], [5, 6, 7, 8])]
ANSWERS = [[10, 11, 2], [12, 2]]


@pytest.mark.parametrize("make", [glm4v, mistral3, gemma4, llava_onevision])
def test_batches_have_the_log_probs_and_gradients_of_single_rows(make: Callable[[], tuple[nn.Module, Encode]]) -> None:
    model, encode = make()
    check_head(model)
    rows = [(*encode(*row), answer) for row in ROWS for answer in ANSWERS]
    expected = []
    for tokens, vision, answer in rows:
        ids = torch.tensor([tokens + answer])
        inputs: dict[str, Any] = dict(vision)
        if isinstance(model, transformers.Gemma4ForConditionalGeneration | transformers.Glm4vForConditionalGeneration):
            inputs["mm_token_type_ids"] = (ids == IMAGE).int()
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[0, len(tokens) - 1 : -1]
        expected.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0])
    gradient = pair_gradient(model, expected)

    policy = Policy(model, SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0, eos_token_id=2)))
    policy.train()
    policy.switch_off_dropout()
    tokens_BT = torch.tensor([[10, 11, 2], [12, 2, 0]] * len(ROWS))
    mask_BT = torch.tensor([[True] * 3, [True, True, False]] * len(ROWS))
    prompts, vision = [tokens for tokens, _, _ in rows], [vision for _, vision, _ in rows]
    logps_BT, _ = policy.token_logps(prompts, tokens_BT, mask_BT, vision=vision)
    torch.testing.assert_close(logps_BT[mask_BT], torch.cat(expected).detach(), atol=1e-4, rtol=1e-4)
    assert (pair_gradient(model, list(logps_BT)) - gradient).norm() <= 1e-4 * gradient.norm()
