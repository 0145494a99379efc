"""Prompts with pictures: what the model is given, and that our loop writes what `generate` writes."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from lit_uniopd.benchmarks.synthetic_images import draw
from lit_uniopd.errors import UserError
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs, sample
from lit_uniopd.types import Message, Prompt
from lit_uniopd.utils.images import open_image

SCENE = draw({"drawing": "scene", "objects": ["cat", "dog"]})
TALL = draw({"drawing": "shapes", "items": [["circle", "red", 0.5, 0.5, 0.5]]}).resize((64, 160))
IMAGE, VIDEO, START, END = 60, 61, 62, 63
TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0},
}
TOKENS: dict[str, Any] = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "tie_word_embeddings": True,
}
TOWER: dict[str, Any] = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}


def qwen3_vl() -> nn.Module:
    tower = {**TOWER, "patch_size": 16, "num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=TEXT, vision_config=tower, **TOKENS))


def qwen25_vl() -> nn.Module:
    tower = {**TOWER, "patch_size": 16, "fullatt_block_indexes": [1], "window_size": 64}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=TEXT, vision_config=tower, **TOKENS))


@pytest.fixture(params=[qwen3_vl, qwen25_vl])
def grid_model(request) -> nn.Module:
    torch.manual_seed(0)
    model = request.param()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def encoded(pictures: list[Any], text: list[int]) -> tuple[list[int], dict[str, torch.Tensor]]:
    """What a Qwen processor makes of pictures followed by text."""
    if not pictures:
        return text, {}
    features = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2)(pictures, return_tensors="pt")
    tokens: list[int] = []
    for grid in features["image_grid_thw"]:
        tokens += [START, *[IMAGE] * (int(grid.prod()) // 4), END]
    return tokens + text, dict(features)


PROMPTS = [
    encoded([SCENE], [1, 2, 3]),
    encoded([], list(range(4, 40))),
    encoded([TALL, SCENE], [5]),
    encoded([TALL], [6, 7]),
]


def write(model: nn.Module, chosen: list[int], **options: Any) -> Any:
    args = SamplingArgs(**{"n": 1, "max_new_tokens": 12, "temperature": 0.0, **options})
    tokens, vision = [PROMPTS[i][0] for i in chosen], [PROMPTS[i][1] for i in chosen]
    return sample(model, tokens, args, eos_ids=[9], pad_id=0, seed=3, keys=chosen, vision=vision)


def test_the_loop_writes_what_generate_writes_on_grids_and_mixed_batches(grid_model):
    loop, oracle = (write(grid_model, [0, 1, 2, 3], n=2, engine=engine) for engine in ("loop", "generate"))
    assert torch.equal(loop.tokens_BT, oracle.tokens_BT)
    torch.testing.assert_close(loop.logps_BT, oracle.logps_BT, atol=2e-5, rtol=1e-4)


def test_sampled_answers_do_not_depend_on_the_batch_and_never_hold_a_picture(grid_model):
    together = write(grid_model, [0, 1, 2, 3], n=3, temperature=1.0)
    for i in range(4):
        alone = write(grid_model, [i], n=3, temperature=1.0)
        for j in range(3):
            row = 3 * i + j
            assert torch.equal(alone.tokens_BT[j][alone.mask_BT[j]], together.tokens_BT[row][together.mask_BT[row]])
    assert not torch.isin(together.tokens_BT[together.mask_BT], torch.tensor([IMAGE, VIDEO])).any()


def test_the_picture_matters(grid_model):
    tokens, vision = PROMPTS[0]
    other = {**vision, "pixel_values": vision["pixel_values"].flip(0)}
    args = SamplingArgs(n=1, max_new_tokens=4, temperature=0.0)
    logps = [
        sample(grid_model, [tokens], args, eos_ids=[9], pad_id=0, seed=0, vision=[v]).logps_BT[0, 0]
        for v in (vision, other)
    ]
    assert abs(logps[0] - logps[1]) > 1e-4


# --- a whole policy --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    from lit_uniopd.playground.untrained import write_tiny_vision

    directory = tmp_path_factory.mktemp("tiny") / "vision"
    write_tiny_vision(directory, 0)
    return Policy.load(PolicyArgs(path=str(directory)), trainable=False)


def prompt(images: int, *texts: str) -> Prompt:
    content = [{"type": "image"}] * images + [{"type": "text", "text": text} for text in texts]
    messages: tuple[Message, ...] = ({"role": "user", "content": content},)
    return Prompt(id="p", messages=messages, images=(SCENE, TALL)[:images])


def test_every_picture_takes_its_tokens_in_order(policy):
    image = policy.tokenizer.convert_tokens_to_ids("<image>")
    for count in (0, 1, 2):
        encoded_prompt = policy.encode(prompt(count, "Zwei Bilder, ∑?"))
        assert encoded_prompt.tokens.count(image) == 49 * count
        assert ("pixel_values" in encoded_prompt.vision) == (count > 0)
        assert "Zwei Bilder, ∑?" in policy.tokenizer.decode(encoded_prompt.tokens)


def test_both_engines_agree_on_mixed_batches(policy):
    prompts = [policy.encode(prompt(1, "a")), policy.encode(prompt(0, "b" * 90)), policy.encode(prompt(2, "c"))]
    results = []
    for engine in ("loop", "generate"):
        args = SamplingArgs(n=2, max_new_tokens=10, temperature=0.0, engine=engine)
        with policy.answering():
            results.append(
                sample(
                    policy.model,
                    [p.tokens for p in prompts],
                    args,
                    eos_ids=policy.eos_ids,
                    pad_id=policy.pad_id,
                    seed=0,
                    vision=[p.vision for p in prompts],
                )
            )
    assert torch.equal(results[0].tokens_BT, results[1].tokens_BT)
    torch.testing.assert_close(results[0].logps_BT, results[1].logps_BT, atol=2e-5, rtol=1e-4)


def test_pictures_without_places_and_places_without_pictures_are_refused(policy):
    from dataclasses import replace

    with pytest.raises(UserError, match="do not fit the places"):
        policy.encode(replace(prompt(1, "x"), images=(SCENE, TALL)))
    with pytest.raises(UserError, match="do not fit the places"):
        policy.encode(replace(prompt(2, "x"), images=(SCENE,)))


def test_a_text_model_refuses_pictures(model_dirs):
    text_only = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False)
    with pytest.raises(UserError, match="has pictures"):
        text_only.encode(prompt(1, "x"))


def test_pictures_are_opened_upright_in_rgb_and_within_budget(tmp_path):
    path = tmp_path / "grey.png"
    SCENE.convert("L").save(path)
    assert open_image(str(path)).mode == "RGB"
    small = open_image(SCENE, max_pixels=1000)
    assert small.width * small.height <= 1000
    assert small.width == small.height


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [("https://x/y.png", "on the web"), ("none.png", "does not exist"), (__file__, "cannot be read")],
)
def test_what_is_no_picture_is_named(reference, sentence):
    with pytest.raises(UserError, match=sentence):
        open_image(reference)
