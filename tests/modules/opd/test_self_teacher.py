"""Teachers that are the student: at the start, as it is, averaged; in full and by adapters."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from modules.opd.test_uni_opd import KillAt, Killed, checkpointed, shuffled_prompts
from tiny import Prompts, adam, module, prompts, trainer, weights
from transformers import AutoModelForCausalLM

from lit_uniopd.doctor import run_all_checks
from lit_uniopd.errors import UserError
from lit_uniopd.memory import plan_memory
from lit_uniopd.modules import LossArgs, UniOPD
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.modules.opd.scoring import frozen_logps
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import HttpArgs, ReadsArgs, TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Rollouts

LORA = LoraArgs(rank=4, alpha=8)
KINDS = ("student_at_start", "student", "student_average")
HINT = ReadsArgs(template="say yes: {prompt}")
ITSELF = "is the student itself"


def teacher(kind: str, reads: ReadsArgs | None = HINT, decay: float = 0.5) -> TeacherArgs:
    return TeacherArgs(weights=kind, reads=reads, **({"decay": decay} if kind == "student_average" else {}))  # type: ignore[arg-type]


def opd(paths: dict[str, str], kind: str, lora: LoraArgs | None = None, **options: Any) -> UniOPD:
    reads = {name: options.pop(name) for name in ("reads", "decay") if name in options}
    student = PolicyArgs(path=paths["student"], lora=lora)
    return module(paths, student=student, teachers={"default": teacher(kind, **reads)}, optimizer=adam, **options)


class Watch(Callback):
    """The trained weights and what the teacher said, step by step."""

    def __init__(self) -> None:
        self.rollouts: list[Rollouts] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        self.rollouts.append(rollouts)
        self.weights.append({n: p.detach().clone() for n, p in pl_module.policy.named_parameters()})


def fitted(root: Path, model: UniOPD, steps: int = 3) -> Watch:
    watch = Watch()
    trainer(root, callbacks=[watch], max_steps=steps, max_epochs=-1).fit(model, Prompts(prompts(8)))
    return watch


def by_transformers(paths: dict[str, str], tensors: dict[str, torch.Tensor], rollouts: Rollouts) -> list[torch.Tensor]:
    """Log-probs of the answers behind the teacher's prompt, in float64, with adapters multiplied into the weights."""
    model: Any = AutoModelForCausalLM.from_pretrained(paths["student"]).double()
    tokenizer = Policy.load(PolicyArgs(path=paths["student"]), trainable=False).tokenizer
    state = model.state_dict()
    for name, value in state.items():
        full, lora = f"model.{name}", f"model.base_model.model.{name.removesuffix('.weight')}"
        if full in tensors:
            value.copy_(tensors[full])
        if f"{lora}.lora_A.default.weight" in tensors:
            a, b = (tensors[f"{lora}.lora_{x}.default.weight"].double() for x in "AB")
            value.add_(2 * b @ a)  # alpha / rank
    results = []
    for prompt, tokens, length in zip(
        rollouts.prompts, rollouts.tokens_BT.tolist(), rollouts.lengths_B.tolist(), strict=True
    ):
        text = f"<bos>u:say yes: {prompt.messages[0]['content']}<end><bos>a:"
        read = [tokenizer.convert_tokens_to_ids(t) for t in tokenizer.tokenize(text)]
        with torch.no_grad():
            logits = model(torch.tensor([read + tokens[:length]])).logits[0, len(read) - 1 : -1]
        results.append(logits.log_softmax(-1).gather(1, torch.tensor(tokens[:length])[:, None])[:, 0])
    return results


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.thinned(3)
def test_it_says_what_a_model_of_these_weights_says(model_dirs, tmp_path, kind, lora):
    """Of the third step: after two steps with decay 1/2 the average is 1/4 start + 1/4 first + 1/2 second weights."""
    watch = fitted(tmp_path, opd(model_dirs, kind, lora))
    start, first, second = watch.weights
    assert not all(torch.equal(start[name], second[name]) for name in start)
    expected = {
        "student_at_start": start,
        "student": second,
        "student_average": {name: start[name] / 4 + first[name] / 4 + second[name] / 2 for name in start},
    }[kind]
    if lora is not None and kind == "student_at_start":
        expected = {name: tensor for name, tensor in start.items() if ".lora_" not in name}
    rollouts = watch.rollouts[2]
    for row, logps in enumerate(by_transformers(model_dirs, expected, rollouts)):
        torch.testing.assert_close(rollouts.teacher_logps_BT[row, : len(logps)].double(), logps, atol=2e-5, rtol=0)


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("loss", ["sampled", "reverse_kl"])
@pytest.mark.parametrize("kind", [*KINDS, "student_average at decay 0"])
@pytest.mark.thinned(4)
def test_equal_prompts_and_weights_have_nothing_to_say(model_dirs, tmp_path, kind, loss, lora, caplog):
    """As the student is first, and at every step where the teacher is it; bit for bit those of a pass of its own."""
    kind, follows = kind.split()[0], kind in ("student", "student_average at decay 0")
    same = ReadsArgs(template="{prompt}")
    model = opd(model_dirs, kind, lora, reads=same, decay=0.0 if follows else 0.5, loss=LossArgs(kind=loss))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        watch = fitted(tmp_path, model)
    assert caplog.text.count(f"Teacher default {ITSELF}") == 1
    for rollouts in watch.rollouts if follows else watch.rollouts[:1]:
        assert float(rollouts.advantages_BT.abs().max()) < 1e-4
    if follows:
        again = watch.rollouts[-1]
        options: dict[str, Any] = {"temperature": 1.0, "max_tokens": 16384}
        scored_BT, _ = model.teachers.score(again, **options)
        assert torch.equal(scored_BT, frozen_logps(model.policy, again, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_reads_something_else_or_holds_the_student_back_is_not_warned_of(model_dirs, tmp_path, kind, caplog):
    with caplog.at_level(logging.WARNING):
        fitted(tmp_path, opd(model_dirs, kind), steps=1)
        assert ITSELF not in caplog.text
        anchored = AdvantageArgs(outcome_weight=1.0)
        fitted(tmp_path, opd(model_dirs, kind, reads=None, advantage=anchored), steps=1)
    assert (ITSELF in caplog.text) == (kind == "student")  # which cannot hold it back


@pytest.mark.parametrize(("loss", "lora"), [("sampled", LORA), ("forward_kl", None), ("forward_kl", LORA)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.thinned(4)
def test_a_killed_and_resumed_run_equals_an_unbroken_one(model_dirs, tmp_path, kind, lora, loss):
    options: dict[str, Any] = {"loss": LossArgs(kind=loss)}
    unbroken = opd(model_dirs, kind, lora, **options)
    checkpointed(tmp_path / "whole").fit(unbroken, shuffled_prompts(tmp_path))
    first = checkpointed(tmp_path / "first")
    first.callbacks.append(KillAt(2))
    with pytest.raises(Killed):
        first.fit(opd(model_dirs, kind, lora, **options), shuffled_prompts(tmp_path))
    second, last = opd(model_dirs, kind, lora, **options), tmp_path / "first/ckpt/last.ckpt"
    checkpointed(tmp_path / "second").fit(second, shuffled_prompts(tmp_path), ckpt_path=last, weights_only=True)
    assert all(torch.equal(p, weights(unbroken)[name]) for name, p in weights(second).items())
    for name, average in second.teachers.averages.items():
        held = unbroken.teachers.averages[name].held
        assert all(torch.equal(tensor, held[key]) for key, tensor in average.held.items())
        assert any(not torch.equal(tensor, average.trained[key]) for key, tensor in average.held.items())


def test_an_average_is_in_its_checkpoint_and_needed_there(model_dirs, tmp_path, caplog):
    checkpointed(tmp_path, max_steps=1).fit(opd(model_dirs, "student_average", LORA), Prompts(prompts(4)))
    last = tmp_path / "ckpt/last.ckpt"
    saved = torch.load(last, weights_only=True)
    assert saved["averages"]["default"].keys() == {n.removeprefix("policy.") for n in saved["state_dict"]}
    with caplog.at_level(logging.WARNING):
        fit = checkpointed(tmp_path / "other", max_steps=2)
        fit.fit(opd(model_dirs, "student", LORA), Prompts(prompts(4)), ckpt_path=last, weights_only=True)
    assert "average for teacher default is not used" in caplog.text
    fit, model = checkpointed(tmp_path / "third", max_steps=3), opd(model_dirs, "student_average", LORA)
    last = tmp_path / "other/ckpt/last.ckpt"
    with pytest.raises(UserError, match=r"holds no average for --model\.teachers\.default\.weights student_average"):
        fit.fit(model, Prompts(prompts(4)), ckpt_path=last, weights_only=True)


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_student_gets_its_weights_back_bit_for_bit(model_dirs, lora):
    """Also where scoring is broken off."""
    student = Policy.load(PolicyArgs(path=model_dirs["student"], lora=lora), trainable=True)
    pool = TeacherPool({"default": teacher("student_average")})
    pool.load(student)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 1e-3)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    averaged = {name: tensor.clone() for name, tensor in pool.averages["default"].held.items()}

    def broken_off() -> None:
        with pool._teachers["default"].gathered():
            held = dict(pool["default"].named_parameters())
            assert all(torch.equal(held[name], tensor) for name, tensor in averaged.items())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_off()
    assert all(torch.equal(p, before[name]) for name, p in student.named_parameters())
    assert all(torch.equal(t, averaged[name]) for name, t in pool.averages["default"].held.items())
    assert (pool["default"] is student) == (lora is not None)


def test_two_teachers_of_the_start_share_one_copy(model_dirs):
    student = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    pool = TeacherPool({name: teacher("student_at_start") for name in ("math", "code")})
    pool.load(student)
    assert pool["math"] is pool["code"] is student.references[0]
    assert not any(p.requires_grad for p in pool["math"].parameters())


def test_it_writes_behind_its_own_prompt(model_dirs):
    student = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    pool = TeacherPool({"default": teacher("student")})
    pool.load(student)
    written = pool.write(student, prompts(2), SamplingArgs(n=2, max_new_tokens=8), seed=3)
    read = [pool.reading(prompt) for prompt in prompts(2)]
    expected = write_answers(student, read, SamplingArgs(n=2, max_new_tokens=8), seed=3)
    assert torch.equal(written.tokens_BT, expected.tokens_BT)
    assert written.prompt_tokens[0] == student.encode(prompts(1)[0]).tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "x"}, r"teachers\.math\.path has no meaning"),
        ({"revision": "main"}, r"revision has no meaning"),
        ({"dtype": "bfloat16"}, r"dtype has no meaning"),
        ({"quantization": "4bit"}, r"quantization has no meaning"),
        ({"placement": "cpu_offload"}, r"placement has no meaning"),
        ({"placement": "http", "http": HttpArgs(["http://h"])}, r"in this process .*placement has no meaning"),
        ({"placement": "disk_cache", "cache": "c"}, r"placement has no meaning"),
        ({"lora": LoraArgs()}, r"lora trains adapters"),
        ({"decay": 1.5}, r"decay must be in \[0, 1\]"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_options_of_another_model_are_refused(kind, options, message):
    if "decay" in options and kind != "student_average":
        message = "decay"
    with pytest.raises(UserError, match=message):
        TeacherPool({"math": TeacherArgs(weights=kind, **options)})


def test_a_decay_without_an_average_is_refused():
    with pytest.raises(UserError, match=r"decay is that of --model\.teachers\.math\.weights student_average"):
        TeacherPool({"math": TeacherArgs(path="x", decay=0.9)})


def test_an_average_in_sixteen_bits_is_refused(model_dirs, tmp_path):
    student = PolicyArgs(path=model_dirs["student"], dtype="bfloat16")
    model = module(model_dirs, student=student, teachers={"default": teacher("student_average")})
    with pytest.raises(UserError, match=r"student_average is held as .*--model\.student\.dtype bfloat16"):
        trainer(tmp_path, max_steps=1).fit(model, Prompts(prompts(4)))


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_plan_counts_what_it_holds(model_dirs, tmp_path, kind, lora):
    model = opd(model_dirs, kind, lora)
    fitted(tmp_path, model, steps=1)
    plan = plan_memory(model.memory_setup())
    planned = sum(a.bytes for a in plan.allocations if a.exact and not a.name.startswith(("policy", "grad", "opt")))
    held = {id(p): p for copy in model.policy._copies for p in (*copy.parameters(), *copy.buffers())}
    if not held:
        held = {id(t): t for average in model.teachers.averages.values() for t in average.held.values()}
    assert planned == sum(tensor.nbytes for tensor in held.values())
    assert (planned > 0) == (kind == "student_average" or (kind == "student_at_start" and lora is None))
    assert any(a.name.endswith("default: scoring") for a in plan.allocations)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reads", [HINT, None])
def test_the_doctor_knows_it(model_dirs, kind, reads):
    model = opd(model_dirs, kind, reads=reads)
    findings = {f.name: f for f in run_all_checks(model, Prompts(prompts(4)))}
    assert "teacher default: " in findings["models"].message
    assert findings["disagreement default"].status == ("green" if reads else "yellow")
    assert not model.policy or not model.policy.references
    messages = [f.message for f in run_all_checks(model, Prompts(prompts(4))) if ITSELF in f.message]
    assert len(messages) == (reads is None)
