"""Teachers behind the real server: their top log-probs, what is learnt from them, and what the server cannot say."""

from typing import Any

import pytest
import torch
from engines.comparisons import load
from tiny import Memory, Prompts, module, prompts, sgd, trainer, weights

from lit_uniopd.errors import UserError
from lit_uniopd.modules import LossArgs, UniOPD
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import HttpArgs, TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Rollouts
from lit_uniopd.utils.http import Servers


def behind(server: Any, path: str, **options: Any) -> TeacherArgs:
    return TeacherArgs(path=path, placement="http", http=HttpArgs(urls=[server.url], model="student", **options))


def written(tiny_dirs: dict[str, str]) -> Rollouts:
    student = Policy.load(PolicyArgs(path=tiny_dirs["student"]), trainable=True)
    return write_answers(student, prompts(4), SamplingArgs(n=3, max_new_tokens=24), seed=3)


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.thinned(3)
def test_top_log_probs_are_those_of_transformers_in_float64(tiny_dirs, untied_dir, teacher_server, k):
    rollouts, student = written(tiny_dirs), Policy.load(PolicyArgs(path=tiny_dirs["student"]), trainable=False)
    pool = TeacherPool({"default": behind(teacher_server, untied_dir, batch=4)}, top_k=k)
    pool.load(student)
    rollouts.teacher_logps_BT, ok_B = pool.score(rollouts, temperature=1.0, max_tokens=1000)
    assert ok_B.all(), pool.failures
    teacher = load(untied_dir).double()
    for row, length in enumerate(rollouts.lengths_B.tolist()):
        answer = rollouts.tokens_BT[row, :length]
        ids = torch.tensor([[*rollouts.prompt_tokens[row], *answer.tolist()]])
        with torch.no_grad():
            logps_TV = teacher(input_ids=ids).logits[0, -length - 1 : -1].log_softmax(-1)
        top_ids_TK, top_logps_TK = rollouts.teacher_top_ids[row].long(), rollouts.teacher_top_logps[row].double()
        assert top_ids_TK.shape == (length, k)
        torch.testing.assert_close(top_logps_TK, logps_TV.gather(1, top_ids_TK), atol=1e-4, rtol=0)
        best_TK = logps_TV.topk(k, dim=-1).values
        torch.testing.assert_close(top_logps_TK.sort(dim=-1, descending=True).values, best_TK, atol=1e-4, rtol=0)
        sampled_T = logps_TV.gather(1, answer[:, None])[:, 0]
        torch.testing.assert_close(rollouts.teacher_logps_BT[row, :length].double(), sampled_T, atol=1e-4, rtol=0)


@pytest.mark.parametrize("k", [3, 20])
@pytest.mark.thinned(2)
def test_what_is_learnt_is_what_a_teacher_in_memory_teaches(tiny_dirs, untied_dir, tmp_path, teacher_server, k):
    loss = LossArgs(kind="topk", top_k=k, top_k_direction="forward")
    runs: list[tuple[UniOPD, dict[str, float]]] = []
    for teacher in (PolicyArgs(path=untied_dir), behind(teacher_server, untied_dir)):
        model, memory = module(tiny_dirs, teachers={"default": teacher}, loss=loss, optimizer=sgd), Memory()
        trainer(tmp_path, logger=memory, max_steps=2).fit(model, Prompts(prompts(8)))
        runs.append((model, memory.values))
    (local, local_values), (remote, remote_values) = runs
    assert remote_values["rollout/teacher_failed"] == 0
    for name, value in weights(local).items():
        torch.testing.assert_close(weights(remote)[name], value, atol=2e-5, rtol=1e-4)
    assert remote_values["train/divergence"] == pytest.approx(local_values["train/divergence"], abs=1e-4)
    assert local_values["train/grad_norm"] > 0.1


def test_its_limit_is_told_at_the_start(tiny_dirs, untied_dir, tmp_path, teacher_server):
    loss = LossArgs(kind="topk", top_k=21, top_k_direction="forward")
    model = module(tiny_dirs, teachers={"default": behind(teacher_server, untied_dir)}, loss=loss)
    with pytest.raises(
        UserError,
        match=r"^--model\.loss\.top_k 21 is more than .* answers 400 .*max allowed: 20.* --max-logprobs 21\.$",
    ):
        trainer(tmp_path).fit(model, Prompts(prompts(4)))


@pytest.mark.parametrize("server", ["teacher_server", "real_server"])
def test_it_scores_at_temperature_1_whatever_is_asked_for(request, untied_dir, server):
    """Raw or processed log-probs: prompts are not sampled. This is why other temperatures are refused."""
    served = request.getfixturevalue(server)
    ids = [5, 7, 9, 11, 13, 20, 21]
    body = {"model": "student", "prompt": [ids], "max_tokens": 1, "prompt_logprobs": 0}
    servers = Servers([served.url], timeout=60)
    (once,), (halved,) = (
        servers.post("/v1/completions", {**body, "temperature": temperature})["choices"] for temperature in (1.0, 0.5)
    )
    logps = [
        [entry[str(i)]["logprob"] for i, entry in zip(ids[1:], choice["prompt_logprobs"][1:], strict=True)]
        for choice in (once, halved)
    ]
    assert logps[0] == pytest.approx(logps[1], abs=1e-5)
    if server == "teacher_server":
        with torch.no_grad():
            expected = load(untied_dir)(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        assert logps[0] == pytest.approx([float(expected[t, i]) for t, i in enumerate(ids[1:])], abs=1e-4)
