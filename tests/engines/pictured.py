"""What the tests of real engines with pictures share: prompts, and how answers are written and compared."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tiny_pictures import asked, picture

from lit_uniopd.policy import Policy
from lit_uniopd.policy.chat_template import EncodedPrompt
from lit_uniopd.policy.multimodal import image_token_ids
from lit_uniopd.sampling import Completions, SamplingArgs, sample
from lit_uniopd.types import Prompt

SQUARE, WIDE, TALL = picture(56, 56, 0), picture(120, 40, 1), picture(40, 90, 2)
PROMPTS = [
    asked("one", "what?", SQUARE),
    asked("none", "2+2?"),
    asked("two", "both?", TALL, SQUARE),
    asked("other", "and what is there?", WIDE),
]


def write(
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    change: Callable[[EncodedPrompt], EncodedPrompt] = lambda prompt: prompt,
    **options: Any,
) -> Completions:
    encoded = [change(policy.encode(prompt)) for prompt in prompts]
    with policy.answering():
        return sample(
            policy.model,
            [prompt.tokens for prompt in encoded],
            SamplingArgs(**{"n": 1, "max_new_tokens": 12, "temperature": 0, **options}),
            eos_ids=[],
            pad_id=0,
            seed=3,
            vision=[prompt.vision for prompt in encoded],
            unprocessed=[prompt.unprocessed for prompt in encoded],
            processor=policy.processor,
        )


def same_tokens(vllm: Completions, loop: Completions) -> None:
    assert torch.equal(vllm.tokens_BT, loop.tokens_BT)


def with_log_probs_of_transformers(
    policy: Policy, prompts: Sequence[Prompt], answers: Completions, n: int = 1, temperature: float = 1.0
) -> None:
    """Check log-probs against the model itself, called as transformers' own users do.

    Tokens that stand for pictures are forbidden, and vLLM's log-probs are over the others.
    """
    for row, tokens in enumerate(answers.tokens_BT):
        encoded = policy.encode(prompts[row // n])
        ids = torch.tensor([encoded.tokens + tokens.tolist()])
        inputs: dict[str, Any] = dict(encoded.vision)
        if inputs and "image_grid_thw" in inputs:
            inputs["mm_token_type_ids"] = (ids == policy.model.config.image_token_id).int()
        with policy.answering():
            logits = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **inputs).logits
        logits = logits[0, len(encoded.tokens) - 1 : -1].double() / temperature
        logits[:, image_token_ids(policy.model)] = -torch.inf
        expected = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(answers.logps_BT[row].double(), expected, atol=1e-4, rtol=0)
