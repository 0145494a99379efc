"""The real server reads pictures: answers and log-probs are the loop's, from the very same tokens."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.comparisons import change
from engines.conftest import RealServer
from engines.picture_models import save
from engines.pictured import PROMPTS, SQUARE, same_tokens, with_log_probs_of_transformers, write
from tiny_pictures import asked, picture

from lit_uniopd.errors import UserError
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import ServerArgs

pytestmark = [
    pytest.mark.exhaustive,  # test_pictures.py has the engine in the process, test_servers.py the server
    pytest.mark.skipif(
        find_spec("torchvision") is None, reason="torchvision is not installed here; `make test-engines` brings it"
    ),
]


@pytest.fixture(scope="session", params=["qwen25_vl", "llava"])
def path(request: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(request.param, tmp_path_factory.mktemp("served") / request.param))


@pytest.fixture(scope="session")
def server(path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    options = ("--logprobs-mode", "processed_logprobs", "--enable-lora", "--max-lora-rank", "8")
    server = RealServer(path, tmp_path_factory.mktemp("server") / "log", *options)
    yield server
    server.kill()


def vllm(server: RealServer, tmp_path: Path) -> dict[str, Any]:
    args = ServerArgs(urls=[server.url], model="student", directory=str(tmp_path / "weights"))
    return {"engine": "vllm", "server": args}


def test_whole_weights_after_every_change(server, path, tmp_path):
    policy = Policy.load(PolicyArgs(path=path), trainable=True)
    answers = []
    for step in range(3):
        written = write(policy, PROMPTS, **vllm(server, tmp_path))
        same_tokens(written, write(policy, PROMPTS))
        with_log_probs_of_transformers(policy, PROMPTS, written)
        answers.append(written.tokens_BT)
        change(policy.model, step)
    assert not any(torch.equal(answers[0], other) for other in answers[1:])


def test_adapters_after_every_change(server, path, tmp_path):
    lora = LoraArgs(rank=4, alpha=8, target_modules=r".*language_model.*(q_proj|down_proj)")
    policy = Policy.load(PolicyArgs(path=path), trainable=True)
    write(policy, PROMPTS, **vllm(server, tmp_path))  # whatever it had before
    policy = Policy.load(PolicyArgs(path=path, lora=lora), trainable=True)
    answers = []
    for step in range(2):
        written = write(policy, PROMPTS, **vllm(server, tmp_path))
        same_tokens(written, write(policy, PROMPTS))
        answers.append(written.tokens_BT)
        with torch.no_grad():
            for name, parameter in policy.model.named_parameters():
                if "lora_" in name:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)) * 0.2)
    assert not torch.equal(*answers)


def test_several_draws_and_a_limit_of_pixels(server, path, tmp_path):
    policy = Policy.load(PolicyArgs(path=path, max_pixels=6300), trainable=False)
    prompts = [asked("large", "what?", picture(112, 112, 5)), asked("square", "what?", SQUARE)]
    answers = write(policy, prompts, n=3, temperature=0.7, **vllm(server, tmp_path))
    with_log_probs_of_transformers(policy, prompts, answers, n=3, temperature=0.7)
    assert len({tuple(row.tolist()) for row in answers.tokens_BT}) == 6


def test_other_tokens_of_a_picture_are_an_error(server, path, tmp_path):
    policy = Policy.load(PolicyArgs(path=path), trainable=False)
    write(policy, PROMPTS, **vllm(server, tmp_path))

    def asked_otherwise(encoded):
        messages = ({"role": "system", "content": [{"type": "text", "text": "be brief"}]},)
        source = replace(encoded.unprocessed, messages=messages + encoded.unprocessed.messages)
        return replace(encoded, unprocessed=source)

    with pytest.raises(
        UserError,
        match=rf"^The server {server.url} makes other tokens of a prompt with pictures than the student's processor: "
        r"\d+ instead of \d+, unlike from token \d+ on; start it with the student's own processor files",
    ):
        write(policy, PROMPTS[:1], change=asked_otherwise, **vllm(server, tmp_path))
