"""Settings of UniOPD that would train on something else: each is refused or warned of, and the defaults are not."""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import CHAT, Prompts, make_tokenizer, module, prompts, trainer

from callbacks import BenchmarkEvaluation, MarginCalibration
from datamodules import OnlineBalanceArgs
from lit_uniopd.errors import UserError
from lit_uniopd.functional.balance import balance_outcomes
from lit_uniopd.memory import Workload
from lit_uniopd.modules.opd import objections
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.modules.opd.objections import RolloutSettings, rollout_objections
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.teachers import HttpArgs, TeacherArgs

ROOT = Path(__file__).parents[3]
FEW: dict[str, Any] = {"n": 3, "max_new_tokens": 6}
KL = LossArgs(kind="reverse_kl")
GROUP, ALL = {"Shift": "group"}, {"Shift": "global"}


def said(**changes: Any) -> list[tuple[bool, str]]:
    """Whether each objection is a refusal, and its sentence."""
    settings: dict[str, Any] = {
        "sampling": SamplingArgs(n=16),
        "loss": LossArgs(),
        "advantage": AdvantageArgs(),
        "writer": "student",
        "updates": 1,
        "batch_size": 64,
        "ranks": 1,
        "scopes": {},
    }
    return [(o.refused, o.message) for o in rollout_objections(RolloutSettings(**{**settings, **changes}))]


def only(refused: bool, **changes: Any) -> str:
    """The one sentence that is said, which refuses the run or does not."""
    [(is_refused, message)] = said(**changes)
    assert is_refused == refused, message
    return message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scopes": GROUP, "balance": OnlineBalanceArgs()},
        {"sampling": SamplingArgs(n=1), "scopes": ALL},
        {"sampling": SamplingArgs(n=4), "balance": OnlineBalanceArgs(), "updates": 4, "batch_size": 32},
        {"balance": OnlineBalanceArgs(ratio=0.75)},
        {"balance": OnlineBalanceArgs(ratio=1.2)},
        {"loss": KL},
        {"loss": LossArgs(importance_cap=2.0)},
        {"advantage": AdvantageArgs(extrapolation=1.25)},
        {"advantage": AdvantageArgs(teacher="self")},
        {"sampling": SamplingArgs(n=16, temperature=0.7)},
        {"loss": KL, "sampling": SamplingArgs(n=1, temperature=0.0)},
        {"loss": LossArgs(kind="forward_kl"), "writer": "teacher", "sampling": SamplingArgs(n=1, temperature=0.0)},
        {"batch_size": None},
    ],
)
def test_usual_settings_are_not_objected_to(changes):
    assert said(**changes) == []


def settings_of(path: str) -> dict[str, Any]:
    """The `init_args` of model and data of a shipped config, and its callbacks."""
    config = yaml.safe_load((ROOT / "configs" / path).read_text())
    callbacks = config.get("trainer", {}).get("callbacks+", [])
    arguments = {part: (config.get(part) or {}).get("init_args", {}) for part in ("model", "data")}
    return {**arguments, "callbacks": [entry["class_path"] for entry in callbacks]}


@pytest.mark.parametrize("base", ["quickstart.yaml", "lab/base.yaml", "uni_opd/multi_teacher.yaml"])
@pytest.mark.parametrize("preset", sorted(path.name for path in (ROOT / "configs/uni_opd/presets").glob("*.yaml")))
def test_shipped_configs_are_not_objected_to(base, preset):
    run, added = settings_of(base), settings_of(f"uni_opd/presets/{preset}")
    model, data = {**run["model"], **added["model"]}, {**run["data"], **added["data"]}
    balance = data.get("online_balance")
    scopes = {"balance": "group"} if balance else {}
    calibrations = [name for name in added["callbacks"] if "MarginCalibration" in name]
    objections = said(
        sampling=SamplingArgs(**model["sampling"]),
        loss=LossArgs(**{**run["model"]["loss"], **model.get("loss", {})}),
        updates=model["updates_per_rollout"],
        batch_size=data.get("batch_size") or data["global_batch_size"],
        balance=None if balance is None else OnlineBalanceArgs(**balance),
        scopes=scopes | dict.fromkeys(calibrations, "group"),
        calibrations=calibrations,
    )
    assert objections == []


@pytest.mark.parametrize("option", [{"temperature": 0.0}, {"temperature": 0.01}, {"top_k": 1}, {"top_p": 0.01}])
def test_answers_that_are_all_the_same(option):
    name, value = next(iter(option.items()))
    sampling, flag = SamplingArgs(n=4, **option), f"--model.sampling.{name} {value:g}"
    message = only(True, sampling=sampling)
    assert message.startswith(f"{flag} always takes the most probable token")
    message = only(True, sampling=sampling, loss=KL, scopes=GROUP)
    assert f"With {flag} the 4 answers to a prompt are all the same" in message
    assert "Shift can do nothing" in message
    for changes in ({"scopes": ALL}, {}, {"writer": "teacher"}):
        message = only(False, sampling=sampling, loss=KL, **changes)
        assert message.startswith(f"With {flag} the 4 answers to a prompt are all the same; set")


def test_a_cut_distribution_is_another_matter():
    for sampling in (SamplingArgs(n=4, top_p=0.9), SamplingArgs(n=4, top_k=50)):
        assert "set top_p 1 and top_k 0 to be on-policy" in only(False, sampling=sampling)
        assert said(sampling=sampling, loss=KL) == []


def test_fewer_answers_than_are_compared():
    one = SamplingArgs(n=1)
    message = only(True, sampling=one, scopes=GROUP)
    assert "With one answer a prompt" in message
    message = only(True, sampling=one, scopes=ALL, batch_size=1)
    assert "Shift can do nothing" in message
    assert said(sampling=one, scopes=ALL, batch_size=1, ranks=2) == []
    message = only(True, sampling=SamplingArgs(n=2), batch_size=2, updates=5)
    assert "--model.updates_per_rollout 5 is more than the 4 answers" in message
    assert said(sampling=SamplingArgs(n=2), batch_size=2, updates=4) == []


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 1.0, 1.2, 2.0, 9.0, 0.0, float("inf")])
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_a_ratio_that_balancing_cannot_reach(ratio, count):
    """Against every outcome that a group can have."""
    group_B = torch.zeros(count, dtype=torch.long)
    removes = any(
        not balance_outcomes(torch.tensor([row >> i & 1 for i in range(count)]), group_B, ratio=ratio).all()
        for row in range(1, 2**count - 1)
    )
    messages = said(sampling=SamplingArgs(n=count), balance=OnlineBalanceArgs(ratio=ratio))
    assert [refused for refused, _ in messages] == [False] * (not removes)
    assert removes or f"leaves all of {count} answers in" in messages[0][1]


def test_options_that_change_nothing():
    message = only(True, loss=KL, calibrations=["MarginCalibration"])
    assert "which --model.loss.kind reverse_kl does not read" in message
    message = only(False, loss=LossArgs(keep_tokens=0.5), calibrations=["MarginCalibration"])
    assert "MarginCalibration makes margins of all tokens of an answer, and --model.loss.keep_tokens 0.5" in message
    message = only(False, loss=LossArgs(importance_cap=0.5))
    assert "so it scales the loss" in message
    message = only(False, advantage=AdvantageArgs(extrapolation=0.0))
    assert "does not aim at the teacher" in message
    message = only(False, advantage=AdvantageArgs(teacher="self", extrapolation=1.25))
    assert "changes nothing with teacher self" in message
    with pytest.raises(UserError, match="min_retain 1 leaves every answer"):
        MarginCalibration(variant="mask", min_retain=1.0)


@pytest.mark.parametrize(
    ("options", "callbacks", "message"),
    [
        ({"sampling": SamplingArgs(temperature=0.0, **FEW)}, [], "temperature 0 always takes"),
        (
            {"sampling": SamplingArgs(top_k=1, **FEW), "loss": KL},
            [MarginCalibration],
            "temperature 1, top_p 1 and top_k 0",
        ),
        ({"sampling": SamplingArgs(n=1, max_new_tokens=6)}, [MarginCalibration], "With one answer a prompt"),
        ({"loss": KL}, [MarginCalibration], "changes advantages"),
        ({"updates_per_rollout": 99}, [], "is more than the 12 answers"),
        ({"gradient_clip": 0.0}, [], "--model.gradient_clip 0 would cut every gradient to nothing; set it to null"),
    ],
)
def test_fit_refuses_before_a_model_is_loaded(model_dirs, tmp_path, options, callbacks, message):
    model = module(model_dirs, **options)
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, callbacks=[callback() for callback in callbacks]).fit(model, Prompts(prompts(8)))
    assert model.policy is None


def fitted(model_dirs: dict[str, str], tmp_path: Any, caplog: Any, data: Prompts, **options: Any) -> str:
    """What a step with these settings says."""
    settings = options.pop("settings", {})
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, max_steps=1, limit_val_batches=1, num_sanity_val_steps=0, **settings).fit(
            module(model_dirs, **options), data
        )
    return str(caplog.text)


def test_a_usual_run_says_nothing(model_dirs, tmp_path, caplog):
    student = PolicyArgs(path=model_dirs["student"], chat_template_kwargs={"enable_thinking": False})
    assert fitted(model_dirs, tmp_path, caplog, Prompts(prompts(8)), student=student) == ""


def test_teachers_that_end_otherwise_or_have_no_prompt(model_dirs, tmp_path, caplog, new_model):
    other = new_model("other", tokenizer=make_tokenizer(CHAT.replace("<end>", "<eos>")), seed=3)
    data = Prompts([replace(prompt, domain="math") for prompt in prompts(8)])
    logged = fitted({**model_dirs, "math": other}, tmp_path, caplog, data)
    assert logged.count("The student ends its turns with <end> (3), teacher math with <eos> (2): it will find") == 1
    assert logged.count("No training prompt goes to code, which is loaded all the same; name it in") == 1
    assert "teacher code with" not in logged


def test_fit_says_each_thing_once(model_dirs, tmp_path, caplog):
    data = Prompts(prompts(8))
    data.val_prompts = [
        replace(p, messages=({"role": "system", "content": "be brief"}, *p.messages)) for p in prompts(2)
    ]
    said = fitted(
        model_dirs,
        tmp_path,
        caplog,
        data,
        sampling=SamplingArgs(top_p=0.9, **FEW),
        val_sampling=SamplingArgs(n=2, temperature=0.0, max_new_tokens=2),
        student=PolicyArgs(path=model_dirs["student"], chat_template_kwargs={"thinkin": True}),
        settings={"callbacks": [BenchmarkEvaluation(before=False, after=False)]},
    )
    for message in (
        "top_p and top_k cut the distribution",
        "Validation writes up to 2 tokens and training up to 6, so it cuts answers that training lets end",
        "Training prompts have no system prompt and held-out prompts the system prompt 'be brief'",
        "With --model.val_sampling.temperature 0 the 2 answers to a held-out prompt are all the same",
        "The chat template never reads thinkin, which is set; mend or remove it in --model.student.",
    ):
        assert said.count(message) == 1, message


def test_replies_that_this_machine_has_no_room_for(monkeypatch):
    load = Workload.of_rollouts(
        SamplingArgs(max_new_tokens=1000),
        answers=64,
        longest_prompt=24,
        micro_batch_tokens=100,
        here=True,
        cuda=False,
        top_k=20,
    )
    teachers = {
        "code": TeacherArgs(path="x"),
        "math": TeacherArgs(placement="http", http=HttpArgs(urls=["http://h"], requests=8)),
    }
    size = 20 * (8 * 1024 * 340 + 64 * 1000 * 8)
    monkeypatch.setattr(objections, "free_bytes", lambda device, processes: size // processes)
    assert not list(objections.heavy_replies(teachers, load, processes=1))
    (objection,) = objections.heavy_replies(teachers, load, processes=2)
    assert not objection.refused
    assert re.fullmatch(
        r"Replies of teacher math with 20 log-probs for each token may take 62\.\d+ MiB in each process, where this "
        r"machine has 31\.\d+ MiB for it; lower --model\.teachers\.math\.http\.requests, or --model\.loss\.top_k\.",
        objection.message,
    )
