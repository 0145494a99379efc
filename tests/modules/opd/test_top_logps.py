"""Top-k distillation from teachers on servers: the same training as from a teacher in this process."""

from typing import Any

import pytest
import torch
from tiny import Memory, Prompts, module, prompts, trainer, weights
from transformers import AutoModelForCausalLM

from lit_uniopd.errors import UserError
from lit_uniopd.modules import LossArgs, UniOPD
from lit_uniopd.modules.opd.losses import divergence_loss
from lit_uniopd.modules.opd.scoring import update_batches
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import HttpArgs, TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Rollouts

FORWARD: dict[str, Any] = {"kind": "topk", "top_k": 5, "top_k_direction": "forward"}
PROTOCOLS = ["vllm", "sglang"]


@pytest.fixture(autouse=True)
def no_naps(monkeypatch) -> None:
    monkeypatch.setattr("lit_uniopd.utils.http.time.sleep", lambda _: None)


def on_servers(urls: list[str], **options: Any) -> TeacherArgs:
    return TeacherArgs(placement="http", http=HttpArgs(urls=urls, **options))


def fitted(paths: dict[str, str], tmp_path: Any, **options: Any) -> tuple[UniOPD, dict[str, float]]:
    model, memory = module(paths, **{"loss": LossArgs(**FORWARD), **options}), Memory()
    trainer(tmp_path, logger=memory, max_steps=4, max_epochs=-1).fit(model, Prompts(prompts(8)))
    return model, memory.values


@pytest.fixture(scope="module")
def student(model_dirs) -> Policy:
    return Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)


def scored(student: Policy, urls: list[str], top_k: int = 5, temperature: float = 1.0, **options: Any) -> Rollouts:
    rollouts = write_answers(student, prompts(4), SamplingArgs(n=2, max_new_tokens=12), seed=1)
    pool = TeacherPool({"default": on_servers(urls, **options)}, top_k=top_k)
    pool.load(student)
    rollouts.teacher_logps_BT, rollouts.teacher_ok_B = pool.score(rollouts, temperature=temperature, max_tokens=1000)
    return rollouts


def by_hand(paths: dict[str, str], rollouts: Rollouts, k: int, kept: list[int]) -> dict[str, torch.Tensor]:
    """Gradients of the mean over answers of the forward KL over K + 1 buckets: transformers in float64, row by row."""
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(paths[name], dtype=torch.float64).eval() for name in ("student", "math")
    )
    total = torch.zeros((), dtype=torch.float64)
    for row in kept:
        length = int(rollouts.lengths_B[row])
        ids = torch.tensor([[*rollouts.prompt_tokens[row], *rollouts.tokens_BT[row, :length].tolist()]])
        p_TV = student(ids).logits[0, -length - 1 : -1].softmax(-1)
        q_TV = teacher(ids).logits[0, -length - 1 : -1].softmax(-1).detach()
        named_TK = q_TV.topk(k, dim=-1).indices
        p, q = p_TV.gather(1, named_TK), q_TV.gather(1, named_TK)
        p_tail, q_tail = 1 - p.sum(1), 1 - q.sum(1)
        total = total + ((q * (q / p).log()).sum(1) + q_tail * (q_tail / p_tail).log()).mean()
    (total / len(rollouts)).backward()
    gradients: dict[str, Any] = {name: parameter.grad for name, parameter in student.named_parameters()}
    return gradients


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("k", [1, 5, 20])
def test_gradients_are_those_of_transformers_in_float64(model_servers, model_dirs, student, protocol, k):
    rollouts = scored(student, model_servers.urls["math"], k, protocol=protocol, batch=3)
    assert rollouts.teacher_ok_B.all()
    student.zero_grad()
    options: dict[str, Any] = {"temperature": 1.0, "denominator": float(len(rollouts)), "trained": WeightedMeans()}
    divergence_loss(student, (), rollouts, LossArgs(**FORWARD | {"top_k": k}), **options).backward()
    expected = by_hand(model_dirs, rollouts, k, list(range(len(rollouts))))
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, parameter in student.model.named_parameters():
        assert parameter.grad is not None
        assert float((parameter.grad.double() - expected[name]).abs().max()) < 2e-5 * largest


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=2)])
@pytest.mark.parametrize("placed", ["vllm", "sglang", "beside"])
@pytest.mark.thinned(3)
def test_training_is_that_of_teachers_in_this_process(model_dirs, tmp_path, model_servers, placed, lora):
    """Of one teacher on servers, or of one there and one here; two updates of each rollout."""
    options: dict[str, Any] = {"student": PolicyArgs(path=model_dirs["student"], lora=lora), "updates_per_rollout": 2}
    expected, expected_values = fitted(model_dirs, tmp_path, **options)
    here = PolicyArgs(path=model_dirs["code"])
    protocol: Any = "vllm" if placed == "beside" else placed
    teachers = {"math": on_servers(model_servers.urls["math"], protocol=protocol), "code": here}
    if placed != "beside":
        expected, expected_values = fitted(
            model_dirs, tmp_path, teachers={"default": PolicyArgs(path=model_dirs["math"])}, **options
        )
        teachers = {"default": teachers["math"]}
    model, values = fitted(model_dirs, tmp_path, teachers=teachers, **options)
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(model)[name], value, atol=1e-5, rtol=1e-5)
    assert values["train/divergence"] == pytest.approx(expected_values["train/divergence"], rel=1e-4)
    assert values["train/loss"] == pytest.approx(expected_values["train/loss"], rel=1e-4)


def test_answers_that_could_not_be_scored_train_nothing(model_servers, model_dirs, student):
    (url, _) = model_servers.urls["math"]
    rollouts = write_answers(student, prompts(4), SamplingArgs(n=2, max_new_tokens=12), seed=1)
    pool = TeacherPool({"default": on_servers([url], requests=1, retries=0)}, top_k=5)
    pool.load(student)
    model_servers.misbehave(url, "short", times=3)
    rollouts.teacher_logps_BT, rollouts.teacher_ok_B = pool.score(rollouts, temperature=1.0, max_tokens=1000)
    kept = rollouts.teacher_ok_B.nonzero().flatten().tolist()
    assert len(kept) == 5
    student.zero_grad()
    trained = WeightedMeans()
    options: dict[str, Any] = {"temperature": 1.0, "denominator": float(len(rollouts)), "trained": trained}
    divergence_loss(student, (), rollouts, LossArgs(**FORWARD), **options).backward()
    expected = by_hand(model_dirs, rollouts, 5, kept)
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, parameter in student.model.named_parameters():
        assert float((parameter.grad.double() - expected[name]).abs().max()) < 2e-5 * largest  # type: ignore[union-attr]
    assert trained.state()["train/divergence"][1] == rollouts.lengths_B[kept].sum()
    # Where no answer of a pass was scored, there is still a gradient for other ranks to wait for.
    student.zero_grad()
    lost = [row for row in range(len(rollouts)) if row not in kept]
    divergence_loss(student, (), rollouts[lost], LossArgs(**FORWARD), **options).backward()
    assert all(p.grad is not None and not p.grad.any() for p in student.parameters() if p.requires_grad)


def test_a_student_that_is_its_own_teacher_learns_nothing(model_dirs, tmp_path, model_servers):
    own = {"default": on_servers(model_servers.urls["student"])}
    model, memory = module(model_dirs, loss=LossArgs(**FORWARD), teachers=own), Memory()
    trainer(tmp_path, logger=memory, max_steps=1).fit(model, Prompts(prompts(4)))
    assert abs(memory.values["train/divergence"]) < 1e-5
    assert memory.values["train/grad_norm"] < 1e-4


def test_passes_are_of_one_teacher_only_where_its_model_is_needed(model_dirs, tmp_path, model_servers):
    """Answers of teachers on servers go together, whoever named their top tokens."""
    served = on_servers(model_servers.urls["math"])

    def names(teachers: dict[str, Any]) -> list[str]:
        model = module(model_dirs, loss=LossArgs(**FORWARD), teachers=teachers)
        trainer(tmp_path, max_steps=1).fit(model, Prompts(prompts(4)))
        assert model.rollouts is not None
        rows = list(range(len(model.rollouts)))
        batches = update_batches(model, model.policy, model.rollouts, rows, 10_000, model.teachers)
        assert sorted(row for _, batch in batches for row in batch) == rows
        return [name for name, _ in batches]

    assert names({"math": served, "code": served}) == [""]
    assert names({"code": PolicyArgs(path=model_dirs["code"]), "math": served}) == ["code", ""]


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (
            {"kind": "reverse_kl"},
            {},
            r"kind reverse_kl compares whole .* name their likeliest tokens only; choose .* topk",
        ),
        ({"kind": "jsd"}, {}, r"--model\.loss\.kind jsd compares whole distributions, and with .*placement http"),
        ({**FORWARD, "top_k_direction": "reverse"}, {}, r"top_k_direction reverse needs .* set it to forward"),
        ({**FORWARD, "top_k_direction": "jsd"}, {}, r"top_k_direction jsd needs .*placement http .* set it to forward"),
        (FORWARD, {"writer": "teacher"}, r"--model\.writer teacher needs the model itself, and with .*placement http"),
        (
            FORWARD,
            {"sampling": SamplingArgs(temperature=0.7)},
            r"--model\.sampling\.temperature 0\.7 .* the servers score at temperature 1; set it to 1",
        ),
    ],
)
def test_what_servers_cannot_say_is_refused_at_once(model_dirs, loss, options, message):
    with pytest.raises(UserError, match=message):
        module(model_dirs, teachers={"math": on_servers(["http://nowhere"])}, loss=LossArgs(**loss), **options)


def test_a_cache_has_no_top_tokens(model_dirs, tmp_path):
    cached = TeacherArgs(path=model_dirs["math"], placement="disk_cache", cache=str(tmp_path))
    with pytest.raises(
        UserError, match=r"kind topk compares whole distributions, and .*disk_cache has log-probs of the"
    ):
        module(model_dirs, teachers={"math": cached}, loss=LossArgs(**FORWARD))


@pytest.mark.parametrize(
    ("top_k", "message"),
    [
        (
            21,
            r"top_k 21 is more than --model\.teachers\.math\.http\.urls \S+ gives, which answers 400 .*max allowed: 20"
            r".*; lower --model\.loss\.top_k, or start the server with --max-logprobs 21\.",
        ),
        (64, r"--model\.loss\.top_k 64 is not less than the 61 tokens that --model\.teachers\.math has, .*; lower it"),
    ],
)
def test_a_servers_limit_is_told_before_any_model_is_loaded(
    model_servers, model_dirs, tmp_path, monkeypatch, top_k, message
):
    monkeypatch.setattr("lit_uniopd.policy.policy.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    teachers = {"math": on_servers(model_servers.urls["math"], model="math")}
    model = module(model_dirs, teachers=teachers, loss=LossArgs(**{**FORWARD, "top_k": top_k}))
    with pytest.raises(UserError, match=message):
        trainer(tmp_path).fit(model, Prompts([prompt for prompt in prompts(8) if prompt.domain == "math"]))
