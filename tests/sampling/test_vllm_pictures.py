"""What vLLM is given of a prompt with pictures, and that it must have read the student's tokens."""

import base64
import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from policy.test_architectures import idefics3, llava
from tiny_pictures import asked, picture

from lit_uniopd.errors import UserError
from lit_uniopd.policy.chat_template import EncodedPrompt, encode
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.request import GenerationRequest
from lit_uniopd.sampling.vllm_pictures import (
    REMEDY,
    check_tokens,
    engine_options,
    engine_prompt,
    logps_of,
    processor_settings,
    prompt_logps_of,
    route_of,
    server_prompt,
)
from lit_uniopd.sampling.weight_probe import WeightProbe, _student_logps
from lit_uniopd.sampling.weight_sync import WeightSync
from lit_uniopd.utils.http import Servers

SQUARE, WIDE = picture(56, 56, 0), picture(120, 30, 1)
TWO = asked("two", "both?", WIDE, SQUARE)
TEXT = EncodedPrompt([5, 6, 7])


@pytest.fixture(scope="module")
def made() -> tuple[Any, Any]:
    return llava()


@pytest.mark.parametrize("make", [llava, idefics3])
def test_the_engine_gets_one_place_for_each_picture(make) -> None:
    """Replacing each of them by what the processor writes there gives the tokens of the student."""
    processor = make()[1]
    encoded = encode(processor, TWO, {})
    given = engine_prompt(encoded)
    place = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert given["prompt_token_ids"].count(place) == 2
    one = encode(processor, asked("one", "both?", SQUARE), {}).tokens
    written = one[len("Uu:") : -len("both?Eea:")]  # a token a character; "Uu:" and "Eea:" are those of the template
    expanded = [token for each in given["prompt_token_ids"] for token in (written if each == place else [each])]
    assert expanded == encoded.tokens
    assert [each.size for each in given["multi_modal_data"]["image"]] == [WIDE.size, SQUARE.size]


def test_larger_pictures_are_shrunk_before_it_gets_them(made) -> None:
    shrunk = engine_prompt(encode(made[1], TWO, {}, max_pixels=900))["multi_modal_data"]["image"]
    assert all(each.width * each.height <= 900 for each in shrunk)


def test_servers_get_a_conversation_with_the_very_pixels(made) -> None:
    encoded = encode(made[1], TWO, {"enable_thinking": False})
    fields = server_prompt(encoded)
    assert route_of(fields) == "/v1/chat/completions"
    first, second, text = fields["messages"][0]["content"]
    for part, original in ((first, WIDE), (second, SQUARE)):
        kind, _, data = part["image_url"]["url"].partition(",")
        assert (part["type"], kind) == ("image_url", "data:image/png;base64")
        received = Image.open(io.BytesIO(base64.b64decode(data)))
        assert np.array_equal(np.asarray(received), np.asarray(original))
    assert text == {"type": "text", "text": "both?"}
    assert (fields["add_generation_prompt"], fields["continue_final_message"]) == (True, False)
    assert fields["chat_template_kwargs"] == {"enable_thinking": False}
    assert TWO.messages[0]["content"][0] == {"type": "image"}  # the prompt's own is left alone


def test_an_unfinished_turn_is_continued(made) -> None:
    begun = replace(TWO, messages=(*TWO.messages, {"role": "assistant", "content": [{"type": "text", "text": "both"}]}))
    fields = server_prompt(encode(made[1], begun, {}))
    assert (fields["add_generation_prompt"], fields["continue_final_message"]) == (False, True)


def test_text_stays_tokens() -> None:
    assert engine_prompt(TEXT) == {"prompt_token_ids": [5, 6, 7]}
    assert server_prompt(TEXT) == {"prompt": [5, 6, 7]}
    assert route_of(server_prompt(TEXT)) == "/v1/completions"


def test_pictures_without_their_prompt_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match="give sample\\(\\) unprocessed"):
        engine_prompt(EncodedPrompt([5], {"pixel_values": torch.zeros(1)}))


@pytest.mark.parametrize(
    ("read", "length", "place"), [([5, 6, 6, 7], 4, 2), ([5, 6], 2, 2), ([4, 6, 7], 3, 0), (None, 0, 0)]
)
def test_other_tokens_are_an_error(read, length, place) -> None:
    check_tokens(TEXT, [5, 6, 7], "The server X", REMEDY)
    message = (
        "The server X makes other tokens of a prompt with pictures than the student's processor: "
        f"{length} instead of 3, unlike from token {place} on; {REMEDY}."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check_tokens(TEXT, read, "The server X", REMEDY)


def test_both_routes_say_log_probs_in_their_own_form() -> None:
    assert logps_of({"token_logprobs": [-1.0, -2.0]}) == [-1.0, -2.0]
    assert logps_of({"content": [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}]}) == [-1.0, -2.0]
    entries = [None, {"6": {"logprob": -1.0}}, {"7": {"logprob": -2.0}, "8": {"logprob": -0.1}}]
    assert prompt_logps_of({"prompt_logprobs": entries}, TEXT) == [-1.0, -2.0]
    assert prompt_logps_of({"choices": [{"prompt_logprobs": entries}]}, TEXT) == [-1.0, -2.0]
    with pytest.raises(ValueError, match="zip"):
        prompt_logps_of({"prompt_logprobs": entries[:2]}, TEXT)


def test_an_image_text_engine_has_a_processor_and_a_text_engine_none(made) -> None:
    model, processor = made
    options = engine_options(model, processor)
    assert (options["skip_tokenizer_init"], options["limit_mm_per_prompt"]) == (False, {"video": 0, "audio": 0})
    assert engine_options(model, None)["limit_mm_per_prompt"]["image"] == 0
    assert processor_settings(model, None) == ""
    other = llava()[1]
    assert processor_settings(model, other) == processor_settings(model, processor)
    other.image_processor.size = {"shortest_edge": 56}
    assert processor_settings(model, other) != processor_settings(model, processor)


# --- weights ---


def test_the_probe_reads_the_first_picture_and_no_token_of_it(made) -> None:
    model, processor = made
    encoded = encode(processor, TWO, {})
    seen: list[EncodedPrompt] = []

    def engine_logps(prompt: EncodedPrompt) -> torch.Tensor:
        """By transformers alone."""
        seen.append(prompt)
        ids = torch.tensor([prompt.tokens])
        with torch.no_grad():
            logps = model(input_ids=ids, use_cache=False, **prompt.vision).logits[0, :-1].log_softmax(-1)
        logps = logps.gather(1, ids[0, 1:, None])[:, 0]
        logps[ids[0, 1:] == model.config.image_token_id] = -1e9  # an engine may say anything of these
        return logps

    probe = WeightProbe(engine_logps, "The engine", "sampling.colocate.max_drift")
    for prompt, read in ((TEXT, TEXT), (encoded, encoded), (TEXT, encoded)):
        probe.check(model, prompt, limit=1e-4)
        assert seen[-1].tokens == read.tokens
    blind = EncodedPrompt(encoded.tokens, {"pixel_values": torch.zeros_like(encoded.vision["pixel_values"])})
    places = list(range(len(encoded.tokens) - 5, len(encoded.tokens)))
    assert not torch.allclose(_student_logps(model, encoded, places), _student_logps(model, blind, places), atol=1e-3)


def test_a_request_is_probed_by_its_first_picture(made) -> None:
    model, processor = made
    encoded = [encode(processor, prompt, {}) for prompt in (asked("none", "2+2?"), TWO)]
    request = GenerationRequest(
        model=model,
        prompt_tokens=[prompt.tokens for prompt in encoded],
        args=SamplingArgs(n=1),
        eos_ids=[],
        pad_id=0,
        seed=0,
        keys=[0, 1],
        vision=[prompt.vision for prompt in encoded],
        unprocessed=[prompt.unprocessed for prompt in encoded],
    )
    assert request.probe.tokens == encoded[1].tokens
    assert request.probe.unprocessed is encoded[1].unprocessed


def test_adapters_on_the_tower_are_refused_before_a_server_is_asked(tmp_path) -> None:
    """vLLM would load them and read pictures without."""
    model, processor = llava()
    encoded = encode(processor, TWO, {})
    servers = Servers(["http://127.0.0.1:9"], retries=0)
    everywhere: Any = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(UserError, match=r"^sampling\.server\.sync adapter reaches the language model alone, and \d+ "):
        WeightSync(servers, "student", tmp_path, "auto").publish(everywhere, encoded)
    model, _ = llava()
    language: Any = get_peft_model(model, LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    for adapted, prompt in ((language, encoded), (everywhere, TEXT)):
        with pytest.raises(UserError, match=r"^The server http://127\.0\.0\.1:9 of sampling\.server\.urls "):
            WeightSync(servers, "student", tmp_path, "auto").publish(adapted, prompt)
