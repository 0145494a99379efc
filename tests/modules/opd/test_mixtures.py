"""Several teachers for one prompt."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from modules.opd.test_uni_opd import KillAt, Killed, checkpointed, shuffled_prompts
from teachers.test_reading import exact_logps
from tiny import Prompts, adam, module, prompts, sgd, trainer, weights

from callbacks import RolloutRecorder
from lit_uniopd.doctor import run_all_checks
from lit_uniopd.errors import UserError
from lit_uniopd.functional.mixture import MixtureKind
from lit_uniopd.memory import plan_memory
from lit_uniopd.modules import LossArgs, UniOPD
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import HttpArgs, ReadsArgs, TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Rollouts

SHARES = {"expert": 3.0, "other": 1.0}
TEXTS = {"expert": "<bos>u:{}<end><bos>a:", "other": "<bos>u:yes {}<end><bos>a:"}
LORA = LoraArgs(rank=4, alpha=8)


def teachers(
    paths: Mapping[str, str],
    shares: dict[str, float] | None = None,
    mixture_kind: MixtureKind = "arithmetic",
    **options: Any,
) -> dict[str, TeacherArgs]:
    """Two models, of which one reads more, and their mixture for every prompt."""
    reads = ReadsArgs(template="yes {prompt}")
    return {
        "expert": TeacherArgs(path=paths["math"], **options),
        "other": TeacherArgs(path=paths["code"], reads=reads, **options),
        "default": TeacherArgs(mixture=SHARES if shares is None else shares, mixture_kind=mixture_kind),
    }


def step(paths: dict[str, str], root: Path, **options: Any) -> tuple[UniOPD, dict[str, float]]:
    model = module(paths, **{"teachers": teachers(paths), "optimizer": sgd, **options})
    run = trainer(root, max_steps=1)
    run.fit(model, Prompts(prompts(4)))
    return model, {name: float(value) for name, value in run.callback_metrics.items()}


@pytest.mark.parametrize("mixture_kind", ["arithmetic", "log_linear"])
@pytest.mark.parametrize("kind", ["sampled", "forward_kl", "reverse_kl"])
@pytest.mark.parametrize("tokens", [10_000, 60])
@pytest.mark.thinned(4)
def test_a_step_has_the_loss_of_plain_transformers(model_dirs, tmp_path, kind, tokens, mixture_kind):
    """Probabilities are averaged, or log-probs and divided by their sum: in float64, in one pass and in many."""
    options = {"loss": LossArgs(kind=kind, gap_threshold=None), "micro_batch_tokens": tokens}
    model, logged = step(model_dirs, tmp_path, teachers=teachers(model_dirs, mixture_kind=mixture_kind), **options)
    losses, rewards, count = [], 0.0, 0
    assert model.rollouts is not None
    for prompt, ids, length in zip(
        model.rollouts.prompts, model.rollouts.tokens_BT.tolist(), model.rollouts.lengths_B.tolist(), strict=True
    ):
        asked, answer = str(prompt.messages[0]["content"]), ids[:length]
        student = exact_logps(model_dirs["student"], TEXTS["expert"].format(asked), answer)
        parts = [
            exact_logps(model_dirs[{"expert": "math", "other": "code"}[n]], TEXTS[n].format(asked), answer)
            for n in SHARES
        ]
        teacher = (0.75 * parts[0].exp() + 0.25 * parts[1].exp()).log()
        if mixture_kind == "log_linear":
            teacher = parts[0].exp() ** 0.75 * parts[1].exp() ** 0.25
            teacher = (teacher / teacher.sum(-1, keepdim=True)).log()
        advantage = (teacher - student).gather(1, torch.tensor(answer)[:, None])[:, 0]
        rewards, count = rewards + float(advantage.sum()), count + length
        p, q = (teacher, student) if kind == "forward_kl" else (student, teacher)
        losses.append(float(-advantage.mean() if kind == "sampled" else (p.exp() * (p - q)).sum(-1).mean()))
    assert logged["train/loss"] == pytest.approx(sum(losses) / len(losses), abs=3e-5)
    assert logged["rollout/reward"] == pytest.approx(rewards / count, abs=3e-5)
    assert logged["teacher/default/kl"] == pytest.approx(-logged["rollout/reward"], abs=1e-6)


@pytest.mark.parametrize("mixture_kind", ["arithmetic", "log_linear"])
@pytest.mark.parametrize("kind", ["sampled", "jsd"])
@pytest.mark.thinned(2)
def test_a_mixture_of_one_is_its_teacher_bit_for_bit(model_dirs, tmp_path, kind, mixture_kind):
    alone = {"default": TeacherArgs(path=model_dirs["code"], reads=ReadsArgs(template="yes {prompt}"))}
    mixed = teachers(model_dirs, {"other": 0.2}, mixture_kind)
    results = [step(model_dirs, tmp_path, teachers=t, loss=LossArgs(kind=kind))[0] for t in (alone, mixed)]
    assert all(torch.equal(a, b) for a, b in zip(*(weights(m).values() for m in results), strict=True))


@pytest.mark.parametrize("mixture_kind", ["arithmetic", "log_linear"])
@pytest.mark.parametrize("kind", ["sampled", "jsd"])
@pytest.mark.thinned(2)
def test_a_mixture_of_students_has_nothing_to_say(model_dirs, tmp_path, kind, mixture_kind):
    same: dict[str, str] = dict.fromkeys(list(model_dirs), model_dirs["student"])
    pair = {
        "expert": TeacherArgs(weights="student"),
        "other": TeacherArgs(weights="student_average", decay=0.0),
        "third": TeacherArgs(weights="student_at_start"),
        "default": TeacherArgs(mixture={"expert": 1, "other": 2, "third": 3}, mixture_kind=mixture_kind),
    }
    for lora in (None, LORA):
        student = PolicyArgs(path=same["student"], lora=lora)
        model, logged = step(same, tmp_path, student=student, teachers=pair, loss=LossArgs(kind=kind))
        assert model.rollouts is not None
        assert float(model.rollouts.advantages_BT.abs().max()) < 1e-4
        assert abs(logged["train/loss"]) < 1e-5


@pytest.mark.parametrize(
    ("kind", "mixture_kind"), [("sampled", "arithmetic"), ("jsd", "arithmetic"), ("sampled", "log_linear")]
)
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.thinned(6)
def test_a_killed_and_resumed_run_equals_an_unbroken_one(model_dirs, tmp_path, lora, kind, mixture_kind):
    """Of an expert, and of the student's average and start behind another prompt, whose modules are the same."""
    hint = ReadsArgs(template="yes {prompt}")

    def model() -> UniOPD:
        mixed = {
            "expert": TeacherArgs(path=model_dirs["math"]),
            "average": TeacherArgs(weights="student_average", decay=0.5, reads=hint),
            "start": TeacherArgs(weights="student_at_start", reads=hint),
            "default": TeacherArgs(mixture={"expert": 1, "average": 1, "start": 2}, mixture_kind=mixture_kind),
        }
        student = PolicyArgs(path=model_dirs["student"], lora=lora)
        return module(model_dirs, student=student, teachers=mixed, optimizer=adam, loss=LossArgs(kind=kind))

    unbroken = model()
    checkpointed(tmp_path / "whole").fit(unbroken, shuffled_prompts(tmp_path))
    first = checkpointed(tmp_path / "first")
    first.callbacks.append(KillAt(2))
    with pytest.raises(Killed):
        first.fit(model(), shuffled_prompts(tmp_path))
    second, last = model(), tmp_path / "first/ckpt/last.ckpt"
    checkpointed(tmp_path / "second").fit(second, shuffled_prompts(tmp_path), ckpt_path=last, weights_only=True)
    assert all(torch.equal(p, weights(unbroken)[name]) for name, p in weights(second).items())


@pytest.mark.parametrize("kind", ["sampled", "jsd"])
def test_a_row_that_names_several_teachers_is_taught_by_their_mixture(model_dirs, tmp_path, kind):
    """As by one that the config names; other rows have one teacher, by its name or by their domain."""
    models = {n: t for n, t in teachers(model_dirs).items() if n != "default"}
    named = models | {"even": TeacherArgs(mixture={"other": 2, "expert": 2}), "uneven": TeacherArgs(mixture=SHARES)}
    in_rows: list[Any] = [{"expert": 1.0, "other": 1.0}, {"other": 0.25, "expert": 0.75}, "expert", None]
    in_config = ["even", "uneven", "expert", None]
    results = []
    for rows, args in ((in_rows, models), (in_config, named)):
        data = [replace(p, teacher=t, domain="other") for p, t in zip(prompts(4), rows, strict=True)]
        model = module(model_dirs, teachers=args, optimizer=sgd, loss=LossArgs(kind=kind))
        run = trainer(tmp_path, max_steps=1)
        run.fit(model, Prompts(data))
        results.append((model, run.callback_metrics))
    (of_rows, logged), (of_config, expected) = results
    assert all(torch.equal(a, b) for a, b in zip(*(weights(m).values() for m, _ in results), strict=True))
    assert of_rows.teachers.names == ["expert", "other", "expert-other", "expert-0.75-other-0.25"]
    labels = {"even": "expert-other", "uneven": "expert-0.75-other-0.25", "expert": "expert", "other": "other"}
    for name, label in labels.items():
        assert logged[f"teacher/{label}/kl"] == expected[f"teacher/{name}/kl"]
    counts = of_config.teachers.routes(data)
    assert counts == {"even": 1, "uneven": 1, "expert": 3, "other": 3}
    save = tmp_path / "rollouts.pt"
    assert of_rows.rollouts is not None
    of_rows.rollouts.save(save)
    assert Rollouts.load(save).prompts[0].teacher == of_rows.rollouts.prompts[0].teacher


def scored(student: Policy, args: dict[str, TeacherArgs]) -> tuple[torch.Tensor, torch.Tensor, TeacherPool, Rollouts]:
    pool = TeacherPool(args)
    pool.load(student)
    rollouts = write_answers(student, prompts(4), SamplingArgs(n=2, max_new_tokens=6), seed=0)
    rollouts.prompts = [replace(p, teacher="expert" if p.id == "p1" else None) for p in rollouts.prompts]
    logps_BT, ok_B = pool.score(rollouts, temperature=1.0, max_tokens=1000)
    return logps_BT, ok_B, pool, rollouts


def test_it_does_not_matter_where_those_that_are_mixed_live(model_dirs, tmp_path, model_servers):
    """Sampled log-probs are all that it takes; one of the prompts has a teacher of its own."""
    student = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    expected_BT, *_, pool, rollouts = scored(student, teachers(model_dirs))
    assert pool.routes(rollouts.prompts) == {"default": 6, "expert": 8, "other": 6}
    cached: dict[str, Any] = {"placement": "disk_cache", "cache": str(tmp_path)}
    moved: list[dict[str, Any]] = [{"placement": "cpu_offload"}, cached]
    for options in moved:
        again_BT, ok_B, *_ = scored(student, teachers(model_dirs, **options))
        assert ok_B.all()
        torch.testing.assert_close(again_BT, expected_BT, atol=1e-6, rtol=0)
    expert = TeacherArgs(placement="http", http=HttpArgs(model_servers.urls["math"]))
    served = teachers(model_dirs) | {"expert": expert}
    again_BT, ok_B, *_ = scored(student, served)
    assert ok_B.all()
    torch.testing.assert_close(again_BT, expected_BT, atol=1e-5, rtol=0)


def test_a_log_linear_mixture_may_visit_the_device_or_be_read_from_disk(model_dirs, tmp_path, monkeypatch):
    student = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    expected_BT, _, _, rollouts = scored(student, teachers(model_dirs, mixture_kind="log_linear"))
    for row, (ids, length) in enumerate(zip(rollouts.tokens_BT.tolist(), rollouts.lengths_B.tolist(), strict=True)):
        texts = {n: TEXTS[n].format(rollouts.prompts[row].messages[0]["content"]) for n in SHARES}
        both = [exact_logps(model_dirs[p], texts[n], ids[:length]) for n, p in (("expert", "math"), ("other", "code"))]
        pooled = (0.75 * both[0] + 0.25 * both[1]).log_softmax(-1)
        pooled = both[0] if rollouts.prompts[row].teacher == "expert" else pooled
        logps_T = pooled.gather(1, torch.tensor(ids[:length])[:, None])[:, 0]
        torch.testing.assert_close(expected_BT[row, :length].double(), logps_T, atol=1e-5, rtol=0)
    cached: dict[str, Any] = {"placement": "disk_cache", "cache": str(tmp_path)}
    moved: list[dict[str, Any]] = [{"placement": "cpu_offload"}, cached]
    for options, counts in zip(moved, (None, (0, 8)), strict=True):
        again_BT, ok_B, pool, _ = scored(student, teachers(model_dirs, mixture_kind="log_linear", **options))
        assert ok_B.all()
        torch.testing.assert_close(again_BT, expected_BT, atol=1e-6, rtol=0)
        assert pool.cache_counts() == counts
    monkeypatch.setattr(Policy, "load", lambda *args, **options: pytest.fail("a model was loaded"))
    again_BT, ok_B, pool, _ = scored(student, teachers(model_dirs, mixture_kind="log_linear", **cached))
    assert ok_B.all()
    torch.testing.assert_close(again_BT, expected_BT, atol=1e-6, rtol=0)
    assert pool.cache_counts() == (8, 0)
    assert not pool.loaded
    # Other weights are another mixture, and the same under another name is not.
    swapped = teachers(model_dirs, {"other": 1.0, "expert": 3.0}, "log_linear", **cached)
    torch.testing.assert_close(scored(student, swapped)[0], expected_BT, atol=1e-6, rtol=0)
    with pytest.raises(pytest.fail.Exception, match="a model was loaded"):
        scored(student, teachers(model_dirs, {"expert": 2.0, "other": 1.0}, "log_linear", **cached))


@pytest.mark.parametrize(
    ("mixture_kind", "placement", "kind", "waits"),
    [
        ("log_linear", "cpu_offload", "sampled", True),
        ("log_linear", "resident", "sampled", False),
        ("log_linear", "resident", "jsd", False),
        ("arithmetic", "cpu_offload", "sampled", False),
    ],
)
def test_the_memory_plan_counts_states_that_wait(model_dirs, tmp_path, mixture_kind, placement, kind, waits):
    mixed = teachers(model_dirs, mixture_kind=mixture_kind, placement=placement)
    model, _ = step(model_dirs, tmp_path, teachers=mixed, loss=LossArgs(kind=kind))
    names = {a.name for a in plan_memory(model.memory_setup()).allocations if a.name.endswith("states that wait")}
    assert names == ({f"teacher {name}: states that wait" for name in SHARES} if waits else set())


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        (
            {"placement": "http", "http": HttpArgs(["http://127.0.0.1:1"])},
            r"log_linear divides by a sum .* http servers",
        ),
        ({"placement": "disk_cache", "cache": "c"}, r"expert\.placement is disk_cache and .*other\.placement resident"),
    ],
)
def test_what_cannot_be_mixed_log_linearly_is_refused(expert, message):
    models = {"expert": TeacherArgs(path="a", **expert), "other": TeacherArgs(path="b")}
    mixed = TeacherArgs(mixture=SHARES, mixture_kind="log_linear")
    with pytest.raises(UserError, match=message):
        TeacherPool({**models, "default": mixed})
    TeacherPool({**models, "default": TeacherArgs(mixture={"expert": 1.0}, mixture_kind="log_linear")})  # is expert


def test_an_answer_that_one_of_them_cannot_score_trains_nothing(model_dirs, monkeypatch):
    from lit_uniopd.teachers import LocalTeacher, Scored

    real = LocalTeacher.score

    def score(self: LocalTeacher, rollouts: Rollouts, **options: Any) -> Any:
        if self.name == "other":
            yield Scored([0], None, "no answer")
            rows = list(range(1, len(rollouts)))
            yield from (replace(s, rows=[rows[i] for i in s.rows]) for s in real(self, rollouts[rows], **options))
        else:
            yield from real(self, rollouts, **options)

    monkeypatch.setattr(LocalTeacher, "score", score)
    student = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    logps_BT, ok_B, pool, _ = scored(student, teachers(model_dirs))
    assert ok_B.tolist() == [False] + [True] * 7
    assert not logps_BT[0].any()
    assert pool.failures == {"other, no answer": 1}


@pytest.mark.parametrize(
    ("mixture", "options", "message"),
    [
        ({"math": 1.0, "physics": 1.0}, {}, r"mixture names 'physics', and the models .* are math, code; add it"),
        ({"both": 1.0}, {}, r"mixture names 'both'"),
        ({}, {}, "must name teachers with positive weights"),
        ({"math": 0.0, "code": 1.0}, {}, "must name teachers with positive weights"),
        ({"math": float("nan")}, {}, "must name teachers with positive weights"),
        ({"math": 1.0}, {"path": "x"}, r"both\.path has no meaning; give it to those that are mixed"),
        ({"math": 1.0}, {"reads": ReadsArgs(system="x")}, r"both\.reads has no meaning"),
        ({"math": 1.0}, {"weights": "student"}, r"both\.weights has no meaning"),
        (None, {"mixture_kind": "log_linear"}, r"both\.mixture names none; name them, or leave mixture_kind out"),
    ],
)
def test_mistakes_are_named(mixture, options, message):
    models = {name: TeacherArgs(path=name) for name in ("math", "code")}
    with pytest.raises(UserError, match=message):
        TeacherPool({**models, "both": TeacherArgs(mixture=mixture, **options)})


@pytest.mark.parametrize(
    ("placement", "loss", "writer", "message"),
    [
        ({"placement": "cpu_offload"}, "jsd", "student", r"in one pass, and .*expert\.placement cpu_offload"),
        ({}, "forward_kl", "teacher", r"--model\.writer teacher lets one model write"),
    ],
)
def test_what_cannot_be_done_together_is_refused(model_dirs, placement, loss, writer, message):
    with pytest.raises(UserError, match=message):
        module(model_dirs, teachers=teachers(model_dirs, **placement), loss=LossArgs(kind=loss), writer=writer)


@pytest.mark.parametrize(
    ("placement", "loss", "writer", "message"),
    [
        ({"placement": "cpu_offload"}, "jsd", "student", r"all teachers of prompt 'p0' in one pass"),
        ({}, "forward_kl", "teacher", r"prompt 'p0' has a mixture of 2"),
        ({"cross_tokenizer": True}, "sampled", "student", r"Prompt 'p0' mixes distributions token by token"),
    ],
)
def test_what_a_row_may_not_mix_is_refused_before_models_are_loaded(
    model_dirs, tmp_path, placement, loss, writer, message
):
    """And the doctor says it too."""
    models = {n: t for n, t in teachers(model_dirs, **placement).items() if n != "default"}
    model = module(model_dirs, teachers=models, loss=LossArgs(kind=loss), writer=writer)
    data = Prompts([replace(p, teacher={"expert": 1.0, "other": 1.0}) for p in prompts(2)])
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, max_steps=1).fit(model, data)
    assert not model.teachers.loaded


def test_servers_do_not_mix_their_likeliest_tokens(model_dirs):
    http: dict[str, Any] = {"placement": "http", "http": HttpArgs(["http://127.0.0.1:1"])}
    loss = LossArgs(kind="topk", top_k_direction="forward")
    with pytest.raises(UserError, match=r"placement http does not keep expert on the device"):
        module(model_dirs, teachers=teachers(model_dirs, **http), loss=loss)


def test_doctor_viewer_and_evaluation_know_it(model_dirs, tmp_path):
    model = module(model_dirs, teachers=teachers(model_dirs))
    findings = {f.name: f for f in run_all_checks(model, Prompts(prompts(4)))}
    assert findings["teachers"].message.startswith("default: 4 prompts, expert: 4 prompts, other: 4 prompts")
    assert {findings[f"disagreement {name}"].status for name in ("expert", "other")} <= {"green", "yellow"}
    assert findings["self-test"].status == "green"
    assert not [f for f in findings.values() if f.status == "red"]
    run = trainer(tmp_path, max_steps=1, callbacks=[RolloutRecorder(every_n_steps=1)])
    run.fit(model, Prompts(prompts(4)))
    (file,) = tmp_path.glob("**/rollouts.jsonl")
    assert "yes " in file.read_text()
    assert '"teacher": "default"' in file.read_text()


def test_doctor_and_viewer_know_what_rows_mix(model_dirs, tmp_path):
    models = {n: t for n, t in teachers(model_dirs).items() if n != "default"}
    data = Prompts([replace(p, teacher={"expert": 3.0, "other": 1.0}) for p in prompts(4)])
    model = module(model_dirs, teachers=models)
    findings = {f.name: f for f in run_all_checks(model, data)}
    assert findings["teachers"].message.startswith("expert: 4 prompts, expert-0.75-other-0.25: 4 prompts, other: 4")
    assert findings["self-test"].status == "green"
    assert not [f for f in findings.values() if f.status == "red"]
    wrong = Prompts([replace(p, teacher={"expert": 3.0, "othr": 1.0}) for p in prompts(4)])
    findings = {f.name: f for f in run_all_checks(module(model_dirs, teachers=models), wrong) if f.status == "red"}
    assert "did you mean other?" in findings["teachers"].message
    run = trainer(tmp_path, max_steps=1, callbacks=[RolloutRecorder(every_n_steps=1)])
    run.fit(module(model_dirs, teachers=models), data)
    (file,) = tmp_path.glob("**/rollouts.jsonl")
    assert '"teacher": "expert-0.75-other-0.25"' in file.read_text()
