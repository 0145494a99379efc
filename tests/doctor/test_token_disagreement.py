"""What is found with weights: the student as its own teacher, and where it disagrees with the real ones."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from doctor_data import ENDING, of
from pairs_data import ROWS, data, omni
from tiny import Memory, Prompts, make_tokenizer, module, prompts, trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_uniopd.doctor import run_all_checks, self_distillation, token_disagreement
from lit_uniopd.doctor.dry_run import Case
from lit_uniopd.modules import Sentinel
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.policy import LoraArgs, PolicyArgs
from lit_uniopd.teachers import LocalTeacher, Scored

FAR = LossArgs(gap_threshold=1e9)


@pytest.mark.parametrize("kind", ["sampled", "reverse_kl", "topk"])
def test_the_student_has_nothing_to_learn_from_itself(examined, kind):
    findings = examined(quick=False, loss=LossArgs(kind=kind))
    assert of(findings, "self-test")[0].status == "green", of(findings, "self-test")
    assert of(findings, "drift")[0].status == "green"


def test_the_numbers_of_the_self_test_are_those_of_rounding(healthy, tmp_path):
    for args, limit in ((PolicyArgs(path=healthy["student"]), 1e-5), (None, 0.05)):
        student = args or PolicyArgs(path=healthy["student"], dtype="bfloat16")
        case = Case(module(healthy, student=student), Prompts(prompts(8)), trainer(tmp_path))
        result = self_distillation.measure(case)
        assert result.tokens > 8
        assert max(result.advantage, result.drift, result.gradient / 10, abs(result.loss)) < limit
        assert self_distillation.tolerance(case.policy, "32-true") == (1e-4 if args else 0.05)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_the_self_test_computes_as_the_run_would(examined, precision):
    findings = examined(quick=False, settings={"precision": precision})
    assert of(findings, "self-test")[0].status == "green", of(findings, "self-test")
    assert "e-0" in of(findings, "drift")[0].message
    assert of(findings, "drift")[0].status == "green"


def test_a_run_goes_on_as_if_nobody_had_looked(healthy, tmp_path):
    values = []
    for look in (False, True):
        run, source, memory = module(healthy), Prompts(prompts(8)), Memory()
        runner = trainer(tmp_path, logger=memory)
        if look:
            assert of(run_all_checks(run, source, runner), "self-test")[0].status == "green"
        runner.fit(run, source)
        values.append({name: value for name, value in memory.values.items() if not name.startswith("time/")})
    untimed = [{name: v for name, v in each.items() if "per_second" not in name} for each in values]
    assert untimed[0] == untimed[1]
    assert "train/loss" in untimed[1]


def test_a_teacher_path_that_perturbs_its_log_probs(examined, monkeypatch):
    score = LocalTeacher.score

    def off(self: Any, *args: Any, **options: Any) -> Any:
        for scored in score(self, *args, **options):
            assert scored.logps_BT is not None
            yield replace(scored, logps_BT=scored.logps_BT + 0.25)

    monkeypatch.setattr(LocalTeacher, "score", off)
    finding = of(examined(quick=False), "self-test")[0]
    assert finding.status == "red"
    assert "mean |advantage| 2.5e-01" in finding.message.lower()
    # A constant of 0.25 nats is a quarter of one nat's gradient.
    assert "|gradient| 2.5e-01 of one nat's" in finding.message


def test_log_probs_of_a_rollout_that_are_not_the_updates(examined, monkeypatch):
    write = self_distillation.write_answers

    def off(*args: Any, **options: Any) -> Any:
        rollouts = write(*args, **options)
        rollouts.student_logps_BT = rollouts.student_logps_BT - 0.25 * rollouts.mask_BT
        return rollouts

    monkeypatch.setattr(self_distillation, "write_answers", off)
    findings = examined(quick=False)
    assert of(findings, "drift")[0].status == "yellow"
    assert "differ by 2.5e-01 a token, 2.5e-01 at most" in of(findings, "drift")[0].message
    assert of(findings, "self-test")[0].status == "red"


def test_disagreement_with_real_teachers(examined, healthy, new_model):
    finding = of(examined(quick=False, loss=FAR), "disagreement math")[0]
    assert finding.status == "green"
    assert 1 <= len(finding.details.splitlines()) - 1 <= token_disagreement.WORST
    masked = of(examined(quick=False, loss=LossArgs(gap_threshold=0.01)), "disagreement math")[0]
    assert (masked.status, "which the loss masks" in masked.message) == ("yellow", True)
    same = of(examined({"math": healthy["student"]}, quick=False), "disagreement math")[0]
    assert (same.status, "nothing to learn" in same.message) == ("yellow", True)


def stepped(path: str, to: Path, rate: float) -> str:
    """The same model after one step of SGD on a text."""
    model: Any = AutoModelForCausalLM.from_pretrained(path)
    ids = torch.arange(5, 25)[None]
    model(ids, labels=ids).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= rate * parameter.grad
    model.save_pretrained(to)
    AutoTokenizer.from_pretrained(path).save_pretrained(to)
    return str(to)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_student_as_its_teacher_at_a_real_vocabulary(new_model, examined, tmp_path, dtype):
    """Rounding is 8e-6 nats and more there; a step of SGD is told apart from it."""
    wide = new_model("wide", tokenizer=make_tokenizer(ENDING), vocab_size=49_152)
    copy = shutil.copytree(wide, tmp_path / "copy")
    paths = {"math": str(copy), "code": stepped(wide, tmp_path / "stepped", 1e-3)}
    models = {name: PolicyArgs(path=path, dtype=dtype) for name, path in paths.items()}
    student = PolicyArgs(path=wide, dtype=dtype)
    findings = examined(quick=False, student=student, teachers=models, loss=FAR)
    same, other = of(findings, "disagreement math")[0], of(findings, "disagreement code")[0]
    assert (same.status, "has the student's weights" in same.message) == ("yellow", True), same
    assert (other.status, "nothing to learn" in other.message) == ("green", False), other


def test_a_teacher_of_other_type_or_on_a_server_is_told_by_its_log_probs(new_model, examined, monkeypatch):
    """Where weights cannot be compared, rounding of the coarser type decides."""
    monkeypatch.setattr(token_disagreement, "same_weights", lambda *_: False)
    wide = new_model("wide", tokenizer=make_tokenizer(ENDING), vocab_size=49_152)
    for types in (("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")):
        student, teacher = (PolicyArgs(path=wide, dtype=dtype) for dtype in types)  # type: ignore[arg-type]
        findings = examined(quick=False, student=student, teachers={"default": teacher}, loss=FAR)
        finding = of(findings, "disagreement default")[0]
        assert (finding.status, "that is rounding" in finding.message) == ("yellow", True), (types, finding)


def test_rounding_grows_with_type_vocabulary_and_log_probs():
    logps = torch.full((8,), -2.0)
    limit = token_disagreement.rounding(logps, 49_152, torch.float32)
    assert limit == pytest.approx(24 * 2**-23 * (math.log(49_152) + 2))
    assert 8e-6 < limit < 1e-4  # as measured with SmolLM2
    assert 2.4e-5 < token_disagreement.rounding(logps, 262_144, torch.float32) < 1e-4  # and with Gemma 3
    assert token_disagreement.rounding(5 * logps, 49_152, torch.float32) > limit
    assert 0.01 < token_disagreement.rounding(logps, 49_152, torch.bfloat16) < 0.1


def test_ends_that_the_gap_mask_spares_are_not_beyond_it(examined):
    shares = {}
    for ends in (False, True):
        loss = LossArgs(gap_threshold=0.5, gap_mask_ends=ends)
        message = of(examined(quick=False, loss=loss), "disagreement math")[0].message
        shares[ends] = float(message.rpartition("% at 0.5 nats")[0].rpartition(" ")[2])
    assert 0 < shares[False] < shares[True]


def test_a_teacher_that_cannot_score(examined, new_model, monkeypatch):
    def silent(self: Any, rollouts: Any, **_: Any) -> Any:
        yield Scored(list(range(len(rollouts))), None, "no answer (TimeoutError)")

    monkeypatch.setattr(LocalTeacher, "score", silent)
    finding = of(examined(quick=False), "disagreement math")[0]
    assert (finding.status, "no answer (TimeoutError): 4" in finding.message) == ("red", True)


@pytest.fixture
def pairs(tmp_path) -> Any:
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return data(tmp_path / "pairs.jsonl")


def test_before_training_the_policy_is_its_own_reference(healthy, pairs, tmp_path):
    policy = omni(healthy["student"], loss=PairLossArgs(kind="dpo", beta=0.1))
    findings = run_all_checks(policy, pairs, trainer(tmp_path))
    assert {f.status for f in findings} == {"green"}
    assert f"loss {math.log(2):.6f} (ln 2" in of(findings, "self-test")[0].message
    assert policy.policy is None  # as it was
    captions = Sentinel(PolicyArgs(path=healthy["student"]), seed=3)
    assert of(run_all_checks(captions, pairs, trainer(tmp_path)), "self-test")[0].status == "green"


def test_dropout_moves_no_log_probs_since_it_is_switched_off(healthy, pairs, tmp_path, new_model, examined):
    lora = omni(healthy["student"], loss=PairLossArgs(kind="dpo", beta=0.1), lora=LoraArgs(rank=4, alpha=8))
    assert of(run_all_checks(lora, pairs, trainer(tmp_path)), "self-test")[0].status == "green"

    forgets = Path(new_model("forgets", tokenizer=make_tokenizer(ENDING)))
    config = json.loads((forgets / "config.json").read_text())
    (forgets / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    policy = omni(str(forgets), loss=PairLossArgs(kind="dpo", beta=0.1))
    finding = of(run_all_checks(policy, pairs, trainer(tmp_path)), "self-test")[0]
    assert finding.status == "green"
    finding = of(examined({"student": str(forgets)}, quick=False), "drift")[0]
    assert finding.status == "green"


def test_preference_settings_are_the_modules_own(healthy, pairs, tmp_path):
    policy = omni(healthy["student"], loss=PairLossArgs(kind="dpo", beta=2.0))
    finding = of(run_all_checks(policy, pairs, trainer(tmp_path), quick=True), "settings")[0]
    assert (finding.status, "multiplies sums" in finding.message) == ("yellow", True)
    assert finding.remedy.startswith("Lower it")
