"""The real server: rollouts with whole weights and adapters after every change, and a teacher's log-probs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from engines.comparisons import PROMPTS, change, large_steps, load, same, with_log_probs_of
from modules.opd.test_lag import Watch
from modules.opd.test_stopping import questions
from peft import LoraConfig, get_peft_model
from tiny import Prompts, module, prompts, sgd, trainer

from lit_uniopd.errors import UserError
from lit_uniopd.modules import LossArgs
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import Completions, SamplingArgs, ServerArgs, engine_vllm_server, sample
from lit_uniopd.teachers import HttpArgs, TeacherArgs
from lit_uniopd.types import Rollouts


def write(model: Any, server: ServerArgs | None, **options: Any) -> Completions:
    engine = "loop" if server is None else "vllm"
    args = SamplingArgs(**{"n": 1, "max_new_tokens": 24, "temperature": 0, **options}, engine=engine, server=server)
    return sample(model, PROMPTS, args, eos_ids=[], pad_id=0, seed=3)


def server_args(real_server: Any, tmp_path: Any, **options: Any) -> ServerArgs:
    return ServerArgs(urls=[real_server.url], model="student", directory=str(tmp_path / "weights"), **options)


def test_whole_weights_after_every_change(real_server, untied_dir, tmp_path):
    model, server = load(untied_dir), server_args(real_server, tmp_path)
    for step in range(4):
        same(write(model, server), write(model, None))
        change(model, step)


def test_adapters_after_every_change(real_server, untied_dir, tmp_path):
    base, server = load(untied_dir), server_args(real_server, tmp_path)
    write(base, server)  # whatever it had before
    adapted: Any = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])).eval()
    answers = []
    for step in range(3):
        same(write(adapted, server), loop := write(adapted, None))
        answers.append(loop.tokens_BT)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)) * 0.2
    assert not torch.equal(answers[0], answers[2])


def test_several_draws_and_their_log_probs(real_server, untied_dir, tmp_path):
    model, server = load(untied_dir), server_args(real_server, tmp_path)
    answers = write(model, server, n=3, temperature=0.7)
    assert len({tuple(row.tolist()) for row in answers.tokens_BT}) == 9
    assert torch.equal(answers.tokens_BT, write(model, server, n=3, temperature=0.7).tokens_BT)
    with_log_probs_of(model, answers, temperature=0.7)


def test_a_killed_server_is_one_sentence_and_a_new_one_gets_the_weights(real_server, untied_dir, tmp_path):
    model, server = load(untied_dir), server_args(real_server, tmp_path, retries=0)
    write(model, server)
    change(model, 5)
    real_server.kill()
    with pytest.raises(UserError, match=rf"^The server {real_server.url} .*start it again, and resume\.$"):
        write(model, server)
    real_server.start()
    same(write(model, server), write(model, None))


def test_a_server_of_another_name_is_refused_at_once(real_server, tmp_path):
    server = ServerArgs(urls=[real_server.url], model="another", directory=str(tmp_path))
    with pytest.raises(UserError, match=r"serves student.*not sampling\.server\.model another"):
        engine_vllm_server.connect(server)


def test_a_teacher_behind_it_scores_as_one_in_memory(tiny_dirs, untied_dir, tmp_path, teacher_server):
    runs = []
    for teacher in (
        PolicyArgs(path=untied_dir),
        TeacherArgs(path=untied_dir, placement="http", http=HttpArgs(urls=[teacher_server.url], model="student")),
    ):
        model = module(tiny_dirs, teachers={"default": teacher}, optimizer=sgd)
        trainer(tmp_path, max_steps=1).fit(model, Prompts(prompts(4)))
        assert model.rollouts is not None
        runs.append(model.rollouts)
    local, remote = runs
    assert torch.equal(local.tokens_BT, remote.tokens_BT)
    assert bool(remote.teacher_ok_B.all())
    torch.testing.assert_close(remote.teacher_logps_BT, local.teacher_logps_BT, atol=1e-4, rtol=0)


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4, alpha=8)])
@pytest.mark.thinned(2)
def test_with_lag_it_writes_by_the_weights_of_the_step_before(real_server, tiny_dirs, untied_dir, tmp_path, lora):
    """Greedy answers of every step are those that the loop writes by the weights that the student had then."""
    student, server = PolicyArgs(path=untied_dir, lora=lora), server_args(real_server, tmp_path, max_drift=20)
    sampling = SamplingArgs(n=1, max_new_tokens=12, temperature=0, engine="vllm", server=server, lag=1)
    loss = LossArgs(kind="reverse_kl")
    model = module(tiny_dirs, student=student, sampling=sampling, loss=loss, optimizer=large_steps)
    watch = Watch()
    write(load(untied_dir), server)  # whatever it had before
    trainer(tmp_path, callbacks=[watch], max_epochs=2).fit(model, questions(tmp_path))

    def in_the_loop(step: int, rollouts: Rollouts) -> torch.Tensor:
        writer = Policy.load(student, trainable=True)
        state = {name.removeprefix("policy."): p for name, p in watch.weights[step].items()}
        writer.load_state_dict(state, strict=False)
        args, ends = replace(sampling, engine="loop", server=None, lag=0), sorted(writer.eos_ids)
        prompt_tokens = rollouts.prompt_tokens
        return sample(writer.model.eval(), prompt_tokens, args, eos_ids=ends, pad_id=writer.pad_id, seed=0).tokens_BT

    assert len(watch.rollouts) == 4
    for step, rollouts in enumerate(watch.rollouts):
        assert torch.equal(rollouts.tokens_BT, in_the_loop(max(step - 1, 0), rollouts))
        assert step == 0 or not torch.equal(rollouts.tokens_BT, in_the_loop(step, rollouts))
