"""The checks that load no weights: each green, and not green for the right reason."""

from dataclasses import replace
from typing import Any

import pytest
from doctor_data import ENDING, of
from tiny import CHARACTERS, CHAT, Prompts, make_tokenizer, prompts

from callbacks import MarginCalibration
from lit_uniopd.benchmarks.loading import GoldReport
from lit_uniopd.benchmarks.synthetic_images import draw
from lit_uniopd.doctor import Finding, exit_status, hardware
from lit_uniopd.doctor import data as doctor_of_data
from lit_uniopd.doctor.chat_templates import side_by_side
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sandbox import SandboxArgs, backends
from lit_uniopd.types import Prompt

SCENE = draw({"drawing": "scene", "objects": ["cat", "dog"]})


def changed(**changes: Any) -> Prompts:
    """Prompts of which the first differs."""
    first, *following = prompts(8)
    return Prompts([replace(first, **changes), *following])


def test_a_healthy_run_is_green(examined):
    findings = examined()
    names = [
        "versions",
        "device",
        "models",
        "data",
        "golds",
        "teachers",
        "ends",
        "sampling",
        "settings",
        "memory",
        "disk",
    ]
    names += [f"{check} {teacher}" for check in ("tokens", "template") for teacher in ("math", "code")]
    assert {f.name: f.status for f in findings} == dict.fromkeys(names, "green")
    assert exit_status(findings) == 0
    assert of(findings, "teachers")[0].message == "code: 4 prompts, math: 4 prompts."
    assert (
        of(findings, "golds")[0].message
        == "8 gold answers are accepted, and empty ones refused (exact; 8 of 8 rows tried)."
    )


def test_what_is_not_green_has_a_remedy():
    for status, remedy in (("green", "do it"), ("red", "")):
        with pytest.raises(ValueError, match="remedy"):
            Finding("name", status, "found", remedy)  # type: ignore[arg-type]


def test_gold_answers_that_their_grader_refuses(examined):
    finding = of(examined(data=changed(grader="choice", gold="none of them")), "golds math")[0]
    assert (finding.status, "'p0'" in finding.message) == ("red", True)
    assert finding.message.startswith("1 of 4 gold answers are refused")


def test_graders_that_accept_an_empty_answer(examined, monkeypatch):
    monkeypatch.setattr(doctor_of_data, "check_golds", lambda *_: GoldReport(4, rejected=(), fooled=("p0",)))
    finding = of(examined(), "golds code")[0]
    assert finding.status == "red"
    assert finding.message.startswith("An empty answer is accepted for 1 rows, 'p0'")


def test_a_grader_without_a_gold_answer(examined):
    finding = of(examined(data=changed(gold=None)), "golds")[0]
    assert (finding.status, "'p0'" in finding.message, "answer_column" in finding.remedy) == ("red", True, True)


def test_prompts_without_graders(examined):
    ungraded = Prompts([replace(prompt, grader=None) for prompt in prompts(8)])
    finding = of(examined(data=ungraded), "golds")[0]
    assert (finding.status, "--data.train.grader" in finding.remedy) == ("yellow", True)
    finding = of(examined(data=ungraded, callbacks=[MarginCalibration()]), "golds")[0]
    assert (finding.status, "MarginCalibration" in finding.message) == ("red", True)


LABELS = {"inputs": ["1 2"], "outputs": ["3"], "fn_name": "add"}


@pytest.mark.parametrize("grader", ["math", "code_functional"])
def test_golds_are_tried_as_fit_tries_them(examined, grader, monkeypatch):
    """The labels of the papers' own code: red where fit refuses them, yellow where it warns."""
    monkeypatch.setattr(backends, "_failures", {})
    monkeypatch.setattr(backends, "probe", lambda _: None)
    strange = Prompts([replace(prompt, grader=grader, gold=LABELS) for prompt in prompts(8)])
    for callbacks, status in (([MarginCalibration()], "red"), ([], "yellow")):
        findings = [
            f for name in ("golds", "golds math") for f in of(examined(data=strange, callbacks=callbacks), name)
        ]
        unusable = [f for f in findings if f"Grader {grader!r} cannot use the gold answers of 8 of 8" in f.message]
        refused = [f for f in findings if "refused by their own grader" in f.message]
        assert [f.status for f in unusable] == [status] or refused, findings
        if callbacks:
            assert "a mapping of inputs, outputs, fn_name" in unusable[0].message
            assert unusable[0].remedy.startswith("Name the grader that takes this form by --data.train.grader")


def test_golds_of_held_out_prompts_are_tried_too(examined, monkeypatch):
    monkeypatch.setattr(backends, "_failures", {})
    monkeypatch.setattr(backends, "probe", lambda _: None)
    data = Prompts(prompts(8))
    data.val_prompts = [replace(p, grader="code_functional", gold=LABELS) for p in prompts(2)]
    finding = of(examined(data=data), "golds")[0]
    assert (finding.status, "1 of 1 held-out prompts of code" in finding.message) == ("yellow", True)


def test_without_teachers_golds_and_sampling_still_matter(examined):
    options: Any = {"advantage": AdvantageArgs(teacher_weight=0.0, outcome_weight=1.0)}
    assert of(examined(**options), "golds")[0].status == "green"
    finding = of(examined(sampling=SamplingArgs(n=1, max_new_tokens=6), **options), "sampling")[0]
    assert (finding.status, "outcome_weight" in finding.message) == ("red", True)


def test_a_misspelt_teacher(examined):
    findings = examined(data=changed(teacher="mth"))
    assert exit_status(findings) == 1
    first = of(findings, "teachers")[0]
    assert first.message.startswith("1 prompts have no teacher. Prompt 'p0' has teacher 'mth'")
    assert first.remedy.startswith("Add a teacher of that name")
    assert of(findings, "teachers")[-1].message == "code: 4 prompts, math: 3 prompts."


def test_a_teacher_that_nobody_is_sent_to(examined):
    findings = examined(data=Prompts([replace(prompt, domain="math") for prompt in prompts(8)]))
    assert of(findings, "teachers")[0].status == "yellow"
    assert "--model.teachers.code" in of(findings, "teachers")[0].remedy
    assert exit_status(findings) == 0


def test_tokenizers(examined, new_model):
    other = new_model("other", tokenizer=make_tokenizer(ENDING, characters=CHARACTERS[::-1]))
    finding = of(examined({"math": other}), "tokens math")[0]
    assert (finding.status, "differ" in finding.message, finding.remedy) == (
        "red",
        True,
        "Choose models of one family, or let --model.teachers.math.cross_tokenizer align their texts.",
    )

    wider = new_model("wider", tokenizer=make_tokenizer(ENDING, extra=("é",)))
    finding = of(examined({"student": wider}), "tokens math")[0]
    assert (finding.status, "'é'" in finding.message) == ("yellow", True)

    padded = new_model("padded", tokenizer=make_tokenizer(ENDING), vocab_size=128)
    finding = of(examined({"math": padded}), "tokens math")[0]
    assert (finding.status, "128 rows, which is harmless" in finding.message) == ("green", True)

    speaks = make_tokenizer(ENDING)
    speaks.pad_token = "<end>"
    finding = of(examined({"math": new_model("pads", tokenizer=speaks)}), "tokens math")[0]
    assert (finding.status, "pad_token is <pad> here and <end> there" in finding.message) == ("green", True)

    short = new_model("short", tokenizer=make_tokenizer(ENDING), vocab_size=40)
    finding = of(examined({"student": short}), "tokens student")[0]
    assert (finding.status, "40 only" in finding.message) == ("red", True)


def test_a_template_whose_end_of_turn_the_models_files_do_not_name(examined, new_model):
    runs_on = new_model("runs_on", tokenizer=make_tokenizer(CHAT))
    findings = examined({"student": runs_on})
    assert of(findings, "ends")[0].status == "yellow"
    message = of(findings, "ends")[0].message
    assert "<end> (3), where answers end here; the model's files say tokenizer <eos> (2)" in message
    assert of(findings, "ends")[0].remedy.startswith("Add 3 to eos_token_id")
    # The healthy teachers end theirs with <eos>.
    assert of(findings, "ends math")[0].status == "yellow"


def test_templates_and_their_switches(examined, new_model):
    system = new_model("system", tokenizer=make_tokenizer("be brief\n" + ENDING))
    finding = of(examined({"math": system}), "template math")[0]
    assert finding.status == "yellow"
    assert "that is allowed" in finding.remedy.lower()
    assert finding.details.splitlines()[0].split() == ["student", "teacher", "math"]
    assert any(line.strip().startswith("> be brief") for line in finding.details.splitlines())
    assert max(map(len, finding.details.splitlines())) <= 100

    thinks = new_model("thinks", tokenizer=make_tokenizer(ENDING + "{% if enable_thinking %}<pad>{% endif %}"))
    finding = of(examined(student=PolicyArgs(path=thinks)), "template student")[0]
    assert (finding.status, "chat_template_kwargs.enable_thinking" in finding.remedy) == ("yellow", True)
    set_ = PolicyArgs(path=thinks, chat_template_kwargs={"enable_thinking": False})
    assert [f.status for f in of(examined(student=set_), "template student")] == ["green"]
    misspelt = PolicyArgs(path=thinks, chat_template_kwargs={"enable_thinking": False, "thinkin": True})
    assert "never reads thinkin," in of(examined(student=misspelt), "template student")[0].message


def test_two_texts_side_by_side():
    rows = side_by_side("one\ntwo\nfour", "one\nTWO\nthree\nfour", ("left", "right")).splitlines()
    assert [row.split() for row in rows[1:]] == [["one", "one"], ["two", "|", "TWO"], [">", "three"], ["four", "four"]]
    assert len(side_by_side("x\n" * 500, "y", ("a", "b")).splitlines()) == 31


@pytest.mark.parametrize(
    ("options", "name", "status", "words"),
    [
        ({"sampling": SamplingArgs(n=2, max_new_tokens=6, top_p=0.9)}, "sampling", "yellow", "top_p"),
        ({"sampling": SamplingArgs(n=2, max_new_tokens=6, temperature=0.0)}, "sampling", "red", "temperature 0"),
        ({"sampling": SamplingArgs(n=2, max_new_tokens=400)}, "sampling", "yellow", "256 positions"),
        ({"updates_per_rollout": 20}, "sampling", "red", "the 12 answers of a rollout"),
        (
            {"sampling": SamplingArgs(n=1, max_new_tokens=6), "callbacks": [MarginCalibration()]},
            "sampling",
            "red",
            "MarginCalibration",
        ),
        (
            {"sampling": SamplingArgs(n=1, max_new_tokens=6), "advantage": AdvantageArgs(outcome_weight=1.0)},
            "sampling",
            "red",
            "outcome_weight",
        ),
    ],
)
def test_sampling_against_the_loss(examined, options, name, status, words):
    finding = of(examined(**options), name)[0]
    assert (finding.status, words in finding.message) == (status, True), finding


def test_one_answer_is_enough_for_a_global_margin(examined):
    sampling = SamplingArgs(n=1, max_new_tokens=6)
    findings = of(examined(sampling=sampling, callbacks=[MarginCalibration(scope="global")]), "sampling")
    assert [f.status for f in findings] == ["green"]


def test_pictures(examined, tmp_path, healthy):
    content = [{"type": "image"}, {"type": "text", "text": "what?"}]
    with_image = Prompt(
        id="p0",
        messages=({"role": "user", "content": content},),
        images=(SCENE,),
        gold="a",
        grader="exact",
        domain="math",
    )
    blind = examined(data=Prompts([with_image]))
    assert of(blind, "pictures student")[0].status == "red"
    assert "cannot read pictures" in of(blind, "pictures student")[0].message

    paths = {name: str(tmp_path / name) for name in healthy}
    for path in paths.values():
        write_tiny_vision(path, 0)  # type: ignore[arg-type]
    data = Prompts([with_image])
    finding = of(examined(paths, data), "pictures student")[0]
    least, _, most = (float(x) for x in finding.message.partition(" tokens")[0].split(" / "))
    assert finding.status == "green"
    assert least == most > 1
    data.max_prompt_tokens = int(most)  # type: ignore[attr-defined]
    assert of(examined(paths, data), "pictures student")[0].status == "yellow"


def test_memory_and_disk_that_do_not_suffice(examined, monkeypatch):
    monkeypatch.setattr(hardware, "free_bytes", lambda *_: 20_000)
    finding = of(examined(), "memory")[0]
    assert (finding.status, "cannot fit" in finding.message) == ("red", True)
    monkeypatch.setattr(hardware, "free_bytes", lambda *_: 400_000)
    assert of(examined(), "memory")[0].status == "yellow"
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda _: full)
    finding = of(examined(settings={"enable_checkpointing": True}), "disk")[0]
    assert (finding.status, "1000" in finding.message or "KiB" in finding.message) == ("red", True)


def test_the_sandbox_and_its_canary(examined, monkeypatch):
    data = changed(grader="code_stdio", gold={"inputs": ["1"], "outputs": ["1"]})
    monkeypatch.setattr(backends, "_failures", {})
    monkeypatch.setattr(backends, "probe", lambda _: "a program can read files")
    finding = of(examined(data=data), "sandbox")[0]
    assert (finding.status, "a program can read files" in finding.message) == ("red", True)
    assert finding.remedy.startswith("Install bubblewrap")
    monkeypatch.setattr(backends, "_failures", {})
    monkeypatch.setattr(backends, "probe", lambda _: None)
    assert of(examined(data=data), "sandbox")[0].status == "green"
    open_door = SandboxArgs(backend="plain", allow_unsafe=True)
    assert of(examined(data=data, sandbox=open_door), "sandbox")[0].status == "yellow"


def test_device_and_attention(examined, healthy):
    student = PolicyArgs(path=healthy["student"], attn_implementation="flash_attention_2")
    finding = of(examined(student=student), "device")[0]
    assert (finding.status, finding.remedy) == ("red", "Set --model.student.attn_implementation sdpa.")
    assert of(examined(settings={"precision": "bf16-true"}), "device")[0].status == "yellow"


def test_releases_that_were_tampered_with(examined, monkeypatch):
    monkeypatch.setattr(hardware, "versions", lambda: {"python": "3", "lightning": "2.6.3", "peft": "not installed"})
    bad, listed = of(examined(), "versions")
    assert (bad.status, bad.message.startswith("lightning 2.6.3")) == ("red", True)
    assert "not installed: peft" in listed.message


def test_a_check_that_fails_itself_does_not_end_the_visit(examined, monkeypatch):
    def broken(_: Any) -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(hardware, "model_size", broken)
    findings = examined()
    assert of(findings, "disk")[0].status == "red"
    assert "RuntimeError: no such thing" in of(findings, "disk")[0].message
    assert of(findings, "settings")[0].status == "green"


def test_a_model_that_is_not_there(examined):
    findings = examined({"math": "./nowhere"})
    assert exit_status(findings) == 1
    missing = [f for f in findings if "nowhere" in f.message]
    assert all("--model.teachers.math.path" in f.message and "no such directory" in f.message for f in missing)
    assert [f.remedy for f in missing] == ["Mend the path, or give a hub id."]
