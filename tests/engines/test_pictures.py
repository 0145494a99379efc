"""Prompts with pictures: vLLM in the trainer's process writes what the loop writes, from the very same tokens."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from engines.comparisons import ROOM, Drifts, change, on_policy
from engines.picture_models import MODELS, save
from engines.pictured import PROMPTS, SQUARE, same_tokens, with_log_probs_of_transformers, write
from tiny import Prompts, trainer
from tiny_pictures import asked, picture

from lit_uniopd.errors import UserError
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import engine_vllm_colocated

pytestmark = pytest.mark.skipif(
    find_spec("torchvision") is None, reason="torchvision is not installed here; `make test-engines` brings it"
)
VLLM = {"engine": "vllm", "colocate": ROOM}


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("pictures")
    return {name: str(save(name, root / name)) for name in MODELS}


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.thinned(2)
def test_the_most_probable_answers_are_those_of_the_loop_after_every_change(paths, name):
    """Of the weights that read pictures too; prompts with one, two and no pictures are in one batch."""
    policy = Policy.load(PolicyArgs(path=paths[name]), trainable=True)
    answers = []
    for step in range(3):
        vllm, loop = write(policy, PROMPTS, **VLLM), write(policy, PROMPTS)
        same_tokens(vllm, loop)
        with_log_probs_of_transformers(policy, PROMPTS, vllm)
        answers.append(loop.tokens_BT)
        change(policy.model, step)
    assert not any(torch.equal(answers[0], other) for other in answers[1:])


def test_a_change_of_the_tower_alone_is_sent_and_old_features_are_forgotten(paths):
    policy = Policy.load(PolicyArgs(path=paths["llava"]), trainable=True)
    before = write(policy, PROMPTS, **VLLM)
    change(policy.model.model.vision_tower, 3)
    after = write(policy, PROMPTS, **VLLM)
    same_tokens(after, write(policy, PROMPTS))
    assert not torch.equal(before.logps_BT, after.logps_BT)
    assert torch.equal(before.tokens_BT[1], after.tokens_BT[1])  # it has no picture


def test_adapters_are_merged_on_the_way(paths):
    policy = Policy.load(PolicyArgs(path=paths["qwen25_vl"], lora=LoraArgs(rank=4, alpha=8)), trainable=True)
    for step in range(2):
        same_tokens(write(policy, PROMPTS, **VLLM), write(policy, PROMPTS))
        with torch.no_grad():
            for name, parameter in policy.model.named_parameters():
                if "lora_" in name:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)) * 0.2)


def test_several_draws_and_their_log_probs(paths):
    policy = Policy.load(PolicyArgs(path=paths["qwen25_vl"]), trainable=False)
    answers = write(policy, PROMPTS, n=3, temperature=0.7, **VLLM)
    with_log_probs_of_transformers(policy, PROMPTS, answers, n=3, temperature=0.7)
    assert len({tuple(row.tolist()) for row in answers.tokens_BT}) == 12
    assert torch.equal(answers.tokens_BT, write(policy, PROMPTS, n=3, temperature=0.7, **VLLM).tokens_BT)


def test_a_limit_of_pixels_holds_for_both(paths):
    args = PolicyArgs(path=paths["qwen25_vl"])
    free, limited = (Policy.load(each, trainable=False) for each in (args, replace(args, max_pixels=6300)))
    prompts = [asked("large", "what?", picture(112, 112, 5)), asked("square", "what?", SQUARE)]
    lengths = [[len(policy.encode(prompt).tokens) for prompt in prompts] for policy in (free, limited)]
    assert lengths[0][0] > lengths[1][0]
    assert lengths[0][1] == lengths[1][1]  # it is small enough
    for policy in (free, limited):
        vllm = write(policy, prompts, **VLLM)
        same_tokens(vllm, write(policy, prompts))
        with_log_probs_of_transformers(policy, prompts, vllm)


# --- what must not pass in silence ---


def test_other_tokens_of_a_picture_are_an_error(paths):
    """The student's processor has changed after the engine read its settings."""
    policy = Policy.load(PolicyArgs(path=paths["qwen25_vl"]), trainable=False)
    write(policy, PROMPTS, **VLLM)

    def encode_otherwise(encoded):
        return replace(encoded, tokens=[*encoded.tokens[:6], *encoded.tokens[5:]])

    with pytest.raises(
        UserError,
        match=r"^vLLM in this process makes other tokens of a prompt with pictures than the student's processor: "
        r"\d+ instead of \d+, unlike from token \d+ on; set sampling\.engine=loop\.$",
    ):
        write(policy, PROMPTS[:1], change=encode_otherwise, **VLLM)
    same_tokens(write(policy, PROMPTS, **VLLM), write(policy, PROMPTS))  # nothing is left over in the engine


def test_a_tower_that_keeps_old_weights_is_an_error(paths, monkeypatch):
    policy = Policy.load(PolicyArgs(path=paths["idefics3"]), trainable=True)
    write(policy, PROMPTS, **VLLM)
    old = {name: value.clone() for name, value in engine_vllm_colocated.checkpoint_weights(policy.model)}
    monkeypatch.setattr(engine_vllm_colocated, "checkpoint_weights", lambda _: iter(old.items()))
    change(policy.model.model.vision_model, 4)
    with pytest.raises(UserError, match=r"^vLLM in this process kept old weights: "):
        write(policy, PROMPTS, **VLLM)


# --- training ---


def test_it_samples_from_the_student_of_every_step(paths, tmp_path):
    drifts, path = Drifts(), paths["qwen25_vl"]
    student = PolicyArgs(path=path, lora=LoraArgs(rank=4, alpha=8))
    model = on_policy({"student": path}, student=student, teachers={"default": PolicyArgs(path=path)})
    trainer(tmp_path, callbacks=[drifts]).fit(model, Prompts([*PROMPTS, *PROMPTS, *PROMPTS]))
    assert len(drifts.largest) == 3
    assert max(drifts.largest) < 0.1  # vLLM's log-probs leave out the tokens that no answer may have
