"""Architectures whose inputs or caches differ from the usual: batches against single rows by plain transformers."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tiny_pictures import (
    CHAT,
    SIZE,
    TEXT,
    TOWER,
    WHOLE_PICTURE,
    asked,
    image_processor,
    pair_gradient,
    picture,
    scattered,
    tiny_idefics3,
    tiny_llava,
    tokenizer,
)
from torch import Tensor, nn

from lit_uniopd.errors import UserError
from lit_uniopd.policy import Policy
from lit_uniopd.policy.backbone import check_head
from lit_uniopd.policy.multimodal import vision_inputs, vision_of
from lit_uniopd.sampling import SamplingArgs, sample
from lit_uniopd.types import Prompt

ANSWERS = [[10, 11, 2], [12, 2]]


def llava_next() -> tuple[nn.Module, Any]:
    words, grid = tokenizer("<img>"), [[28, 56], [56, 28], [56, 56]]
    pictures = image_processor(
        "LlavaNextImageProcessor", size={"shortest_edge": 28}, crop_size=SIZE, image_grid_pinpoints=grid
    )
    processor = transformers.LlavaNextProcessor(
        pictures,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<img>",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("PICTURE", "<img>"),
    )
    config = transformers.LlavaNextConfig(
        text_config=transformers.LlamaConfig(vocab_size=len(words), **TEXT),
        vision_config=transformers.CLIPVisionConfig(**TOWER),
        image_token_index=words.convert_tokens_to_ids("<img>"),
        image_grid_pinpoints=grid,
    )
    return scattered(transformers.LlavaNextForConditionalGeneration, config), processor


def llava() -> tuple[nn.Module, Any]:
    return tiny_llava(image_processor("CLIPImageProcessor", size={"shortest_edge": 28}, crop_size=SIZE))


def idefics3() -> tuple[nn.Module, Any]:
    return tiny_idefics3(image_processor("Idefics3ImageProcessor", **WHOLE_PICTURE))


def gemma3() -> tuple[nn.Module, Any]:
    words = tokenizer("<img>", "<boi>", "<eoi>")
    for role, word in (("image_token", "<img>"), ("boi_token", "<boi>"), ("eoi_token", "<eoi>")):
        setattr(words, role, word)
        setattr(words, role + "_id", words.convert_tokens_to_ids(word))
    processor = transformers.Gemma3Processor(
        image_processor("Gemma3ImageProcessor", size=SIZE),
        words,
        image_seq_length=4,
        chat_template=CHAT.replace("PICTURE", "<boi>"),
    )
    config = transformers.Gemma3Config(
        text_config=TEXT | {"vocab_size": len(words), "sliding_window": 64},
        vision_config=TOWER,
        mm_tokens_per_image=4,
        image_token_index=words.image_token_id,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
    )
    return scattered(transformers.Gemma3ForConditionalGeneration, config), processor


def paligemma() -> tuple[nn.Module, Any]:
    words = tokenizer("<image>")
    pictures = image_processor("SiglipImageProcessor", size=SIZE)
    pictures.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(pictures, words, chat_template=CHAT.replace("PICTURE", "<image>"))
    config = transformers.PaliGemmaConfig(
        text_config=transformers.GemmaConfig(vocab_size=len(words), **TEXT),
        vision_config=TOWER | {"projection_dim": 32, "model_type": "siglip_vision_model"},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return scattered(transformers.PaliGemmaForConditionalGeneration, config), processor


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's processor
PICTURED = [llava, llava_next, idefics3, gemma3, paligemma]
SQUARE, WIDE, TALL = picture(56, 56, 0), picture(120, 30, 1), picture(28, 90, 2)
ONE, OTHER = asked("one", "what?", SQUARE), asked("other", "and what is there?", WIDE)
TWO, NONE = asked("two", "both?", TALL, SQUARE), asked("none", "2+2?")


def row_by_row(policy: Policy, prompts: list[Prompt], answers: list[list[int]]) -> list[Tensor]:
    """Log-probs of each answer by the model's own logits, its inputs being the processor's for the whole text."""
    out = []
    for prompt in prompts:
        encoded = policy.encode(prompt)
        for answer in answers:
            ids = torch.tensor([encoded.tokens + answer])
            inputs: dict[str, Any] = dict(encoded.vision)
            image = getattr(policy.model.config, "image_token_id", None)
            if isinstance(policy.model, transformers.Gemma3ForConditionalGeneration):
                inputs["token_type_ids"] = (ids == image).long()
            if isinstance(policy.model, transformers.PaliGemmaForConditionalGeneration):
                inputs["token_type_ids"] = (torch.arange(ids.shape[1]) >= len(encoded.tokens)).long()[None]
            logits = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits
            logps = logits[0, len(encoded.tokens) - 1 : -1].log_softmax(-1)
            out.append(logps.gather(1, torch.tensor(answer)[:, None])[:, 0])
    return out


@pytest.mark.parametrize("make", PICTURED)
def test_gradients_of_pairs_with_pictures_are_those_of_single_rows(make: Callable[[], Any]) -> None:
    policy = Policy(*make())
    prompts = [NONE, TWO, ONE, OTHER]
    expected = pair_gradient(policy.model, row_by_row(policy, prompts, ANSWERS))
    policy.train()
    policy.switch_off_dropout()
    encoded = [policy.encode(prompt) for prompt in prompts for _ in ANSWERS]
    tokens_BT = torch.tensor([[10, 11, 2], [12, 2, 0]] * len(prompts))
    mask_BT = torch.tensor([[True] * 3, [True, True, False]] * len(prompts))
    vision = [prompt.vision for prompt in encoded]
    logps_BT, _ = policy.token_logps([prompt.tokens for prompt in encoded], tokens_BT, mask_BT, vision=vision)
    actual = pair_gradient(policy.model, list(logps_BT))
    assert (actual - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("make", PICTURED)
@pytest.mark.parametrize("prompts", [[ONE, OTHER], [TWO, ONE, OTHER], [NONE, TWO]], ids=["shapes", "counts", "none"])
def test_log_probs_of_a_batch_are_those_of_single_rows(make: Callable[[], Any], prompts: list[Prompt]) -> None:
    policy = Policy(*make())
    check_head(policy.model)
    expected = row_by_row(policy, prompts, ANSWERS)
    encoded = [policy.encode(prompt) for prompt in prompts for _ in ANSWERS]
    tokens_BT = torch.tensor([answer + [0] * (3 - len(answer)) for _ in prompts for answer in ANSWERS])
    mask_BT = torch.tensor([[step < len(answer) for step in range(3)] for _ in prompts for answer in ANSWERS])
    vision = [prompt.vision for prompt in encoded]
    with torch.no_grad():
        logps_BT, _ = policy.token_logps([prompt.tokens for prompt in encoded], tokens_BT, mask_BT, vision=vision)
    for row, logps in enumerate(expected):
        torch.testing.assert_close(logps_BT[row][mask_BT[row]], logps, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", PICTURED)
@pytest.mark.parametrize("engine", ["loop", "generate"])
def test_rollouts_of_a_batch_have_the_log_probs_of_single_rows(make: Callable[[], Any], engine: Any) -> None:
    policy = Policy(*make())
    prompts = [NONE, TWO, ONE, OTHER]
    encoded = [policy.encode(prompt) for prompt in prompts]
    done = sample(
        policy.model,
        [prompt.tokens for prompt in encoded],
        SamplingArgs(n=2, max_new_tokens=4, engine=engine),
        eos_ids=policy.eos_ids,
        pad_id=policy.pad_id,
        seed=3,
        vision=[prompt.vision for prompt in encoded],
    )
    for row, (tokens, mask) in enumerate(zip(done.tokens_BT, done.mask_BT, strict=True)):
        expected = row_by_row(policy, [prompts[row // 2]], [tokens[mask].tolist()])[0]
        torch.testing.assert_close(done.logps_BT[row][mask], expected, atol=1e-4, rtol=1e-4)


# --- models of text ------------------------------------------------------------------------------------------------


SMALL: dict[str, Any] = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHAPED = SMALL | {key: TEXT[key] for key in list(TEXT)[:5]}
LANGUAGE: dict[str, dict[str, Any]] = {
    "gemma4_text": SHAPED
    | {
        "num_hidden_layers": 4,
        "head_dim": 8,
        "global_head_dim": 16,
        "vocab_size_per_layer_input": 64,
        "hidden_size_per_layer_input": 8,
        "sliding_window": 512,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    },
    "rwkv": SMALL
    | {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "context_length": 128}
    | {"intermediate_size": 64},
    "recurrent_gemma": SHAPED
    | {"num_hidden_layers": 3, "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 16},
    "mamba": SMALL | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "doge": SHAPED,
    "phimoe": SHAPED
    | {"num_local_experts": 4, "router_jitter_noise": 0.5, "hidden_dropout": 0.1, "attention_dropout": 0.1},
}
PROMPTS = [[11, 12, 13], [4, 5, 6, 7, 8, 9, 30, 31, 32], [10], [11, 12, 14]]


def language_model(name: str) -> Any:
    config = transformers.AutoConfig.for_model(name, **LANGUAGE[name])
    return scattered(transformers.AutoModelForCausalLM.from_config, config)


@pytest.mark.parametrize("name", LANGUAGE)
@pytest.mark.parametrize("engine", ["loop", "generate"])
def test_answers_beside_longer_prompts_are_greedy_by_the_forward_pass(name: str, engine: Any) -> None:
    model = language_model(name)
    expected = []
    for prompt in PROMPTS:
        ids = list(prompt)
        while len(ids) < len(prompt) + 6 and ids[-1] != 2:
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        expected.append(ids[len(prompt) :])
    args = SamplingArgs(n=1, max_new_tokens=6, temperature=0.0, engine=engine)
    done = sample(model, PROMPTS, args, eos_ids=[2], pad_id=0, seed=0)
    assert [row[mask].tolist() for row, mask in zip(done.tokens_BT, done.mask_BT, strict=True)] == expected


@pytest.mark.parametrize("name", LANGUAGE)
def test_several_answers_have_the_log_probs_of_the_forward_pass(name: str) -> None:
    model = language_model(name)
    done = sample(model, PROMPTS, SamplingArgs(n=3, max_new_tokens=5), eos_ids=[2], pad_id=0, seed=1)
    for row, (tokens, mask) in enumerate(zip(done.tokens_BT, done.mask_BT, strict=True)):
        prompt, answer = PROMPTS[row // 3], tokens[mask].tolist()
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(done.logps_BT[row][mask], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LANGUAGE)
def test_gradients_of_pairs_in_training_mode_are_those_of_single_rows(name: str) -> None:
    model = language_model(name)
    rows = []
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]  # packed, where the model can
    for prompt, answer in zip(prompts, ANSWERS * 2, strict=True):
        logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        rows.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0])
    expected = pair_gradient(model, rows)
    policy = Policy(model, SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0, eos_token_id=2)))
    policy.train()
    policy.switch_off_dropout()
    tokens_BT, mask_BT = (
        torch.tensor([[10, 11, 2], [12, 2, 0]] * 2),
        torch.tensor([[True] * 3, [True, True, False]] * 2),
    )
    logps_BT, _ = policy.token_logps(prompts, tokens_BT, mask_BT)
    torch.testing.assert_close(logps_BT[mask_BT], torch.cat(rows).detach(), atol=1e-4, rtol=1e-4)
    assert (pair_gradient(model, list(logps_BT)) - expected).norm() <= 1e-4 * expected.norm()


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_model_that_looks_ahead_is_refused() -> None:
    for both_ways in (False, True):
        config = transformers.Gemma3TextConfig(**SHAPED, head_dim=8, use_bidirectional_attention=both_ways)
        model = scattered(transformers.Gemma3ForCausalLM, config)
        with pytest.raises(UserError, match="looks at later tokens") if both_ways else nullcontext():
            check_head(model)


def test_inputs_for_each_token_that_cannot_be_derived_are_refused() -> None:
    pixels = torch.zeros(1, 4, 3, 28, 28)
    kept = vision_of({"pixel_values": pixels, "token_type_ids": torch.zeros(1, 9), "attention_mask": pixels}, 9)
    assert list(kept) == ["pixel_values"]
    for name, value in (
        ("cross_attention_mask", torch.zeros(1, 9, 1, 4)),  # Mllama
        ("moe_mm_token_type_ids", torch.zeros(1, 9, dtype=torch.long)),  # Ernie 4.5 VL
        ("image_patches", [pixels]),  # Fuyu
    ):
        with pytest.raises(UserError, match=f"gives {name} beside the pictures"):
            vision_of({"pixel_values": pixels, name: value}, 9)


def test_pictures_of_unlike_size_are_padded_only_if_the_model_is_told() -> None:
    model, ids = language_model("mamba"), torch.zeros(2, 3, dtype=torch.long)
    rows: list[dict[str, Tensor]] = [{"pixel_values": torch.ones(1, 3, 2, width)} for width in (2, 4)]
    with pytest.raises(UserError, match="pictures of unlike size"):
        vision_inputs(model, ids, rows)
    model.config.image_token_id = 5
    sized = [row | {"image_sizes": torch.tensor([[2, row["pixel_values"].shape[-1]]])} for row in rows]
    inputs = vision_inputs(model, ids, sized)
    assert inputs["pixel_values"].shape == (2, 3, 2, 4)
    assert inputs["pixel_values"].sum(dim=(1, 2, 3)).tolist() == [12, 24]
    assert inputs["image_sizes"].tolist() == [[2, 2], [2, 4]]
