"""What can be found without weights: each check green, and not green for the right reason."""

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
    first, *rest = prompts(8)
    return Prompts([replace(first, **changes), *rest])


def test_a_healthy_run_is_green(examined):
    found = examined()
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
    names += [f"{what} {teacher}" for what in ("tokens", "template") for teacher in ("math", "code")]
    assert {f.name: f.status for f in found} == dict.fromkeys(names, "green")
    assert exit_status(found) == 0
    assert of(found, "teachers")[0].found == "code: 4 prompts, math: 4 prompts."
    assert (
        of(found, "golds")[0].found == "8 gold answers are accepted, and empty ones refused (exact; 8 of 8 rows tried)."
    )


def test_what_is_not_green_has_a_remedy():
    for status, remedy in (("green", "do it"), ("red", "")):
        with pytest.raises(ValueError, match="remedy"):
            Finding("name", status, "found", remedy)  # type: ignore[arg-type]


def test_gold_answers_that_their_grader_refuses(examined):
    found = of(examined(data=changed(grader="choice", gold="none of them")), "golds math")[0]
    assert (found.status, "'p0'" in found.found) == ("red", True)
    assert found.found.startswith("1 of 4 gold answers are refused")


def test_graders_that_accept_an_empty_answer(examined, monkeypatch):
    monkeypatch.setattr(doctor_of_data, "check_golds", lambda *_: GoldReport(4, rejected=(), fooled=("p0",)))
    found = of(examined(), "golds code")[0]
    assert found.status == "red"
    assert found.found.startswith("An empty answer is accepted for 1 rows, 'p0'")


def test_a_grader_without_a_gold_answer(examined):
    found = of(examined(data=changed(gold=None)), "golds")[0]
    assert (found.status, "'p0'" in found.found, "answer_column" in found.remedy) == ("red", True, True)


def test_prompts_without_graders(examined):
    ungraded = Prompts([replace(prompt, grader=None) for prompt in prompts(8)])
    found = of(examined(data=ungraded), "golds")[0]
    assert (found.status, "--data.train.grader" in found.remedy) == ("yellow", True)
    found = of(examined(data=ungraded, callbacks=[MarginCalibration()]), "golds")[0]
    assert (found.status, "MarginCalibration" in found.found) == ("red", True)


def test_without_teachers_golds_and_sampling_still_matter(examined):
    options: Any = {"advantage": AdvantageArgs(teacher_weight=0.0, outcome_weight=1.0)}
    assert of(examined(**options), "golds")[0].status == "green"
    found = of(examined(sampling=SamplingArgs(n=1, max_new_tokens=6), **options), "sampling")[0]
    assert (found.status, "outcome_weight" in found.found) == ("red", True)


def test_a_misspelt_teacher(examined):
    found = examined(data=changed(teacher="mth"))
    assert exit_status(found) == 1
    first = of(found, "teachers")[0]
    assert first.found.startswith("1 prompts have no teacher. Prompt 'p0' has teacher 'mth'")
    assert first.remedy.startswith("Add a teacher of that name")
    assert of(found, "teachers")[-1].found == "code: 4 prompts, math: 3 prompts."


def test_a_teacher_that_nobody_is_sent_to(examined):
    found = examined(data=Prompts([replace(prompt, domain="math") for prompt in prompts(8)]))
    assert of(found, "teachers")[0].status == "yellow"
    assert "--model.teachers.code" in of(found, "teachers")[0].remedy
    assert exit_status(found) == 0


def test_tokenizers(examined, new_model):
    other = new_model("other", tokenizer=make_tokenizer(ENDING, characters=CHARACTERS[::-1]))
    found = of(examined({"math": other}), "tokens math")[0]
    assert (found.status, "differ" in found.found, found.remedy) == ("red", True, "Choose models of one family.")

    wider = new_model("wider", tokenizer=make_tokenizer(ENDING, extra=("é",)))
    found = of(examined({"student": wider}), "tokens math")[0]
    assert (found.status, "'é'" in found.found) == ("yellow", True)

    padded = new_model("padded", tokenizer=make_tokenizer(ENDING), vocab_size=128)
    found = of(examined({"math": padded}), "tokens math")[0]
    assert (found.status, "128 rows, which is harmless" in found.found) == ("green", True)

    speaks = make_tokenizer(ENDING)
    speaks.pad_token = "<end>"
    found = of(examined({"math": new_model("pads", tokenizer=speaks)}), "tokens math")[0]
    assert (found.status, "pad_token is <pad> here and <end> there" in found.found) == ("green", True)

    short = new_model("short", tokenizer=make_tokenizer(ENDING), vocab_size=40)
    found = of(examined({"student": short}), "tokens student")[0]
    assert (found.status, "40 only" in found.found) == ("red", True)


def test_a_template_whose_end_of_turn_the_models_files_do_not_name(examined, new_model):
    runs_on = new_model("runs_on", tokenizer=make_tokenizer(CHAT))
    found = examined({"student": runs_on})
    assert of(found, "ends")[0].status == "yellow"
    assert "<end> (3), where answers end here; the model's files say tokenizer <eos> (2)" in of(found, "ends")[0].found
    assert of(found, "ends")[0].remedy.startswith("Add 3 to eos_token_id")
    # The healthy teachers end theirs with <eos>.
    assert of(found, "ends math")[0].status == "yellow"


def test_templates_and_their_switches(examined, new_model):
    system = new_model("system", tokenizer=make_tokenizer("be brief\n" + ENDING))
    found = of(examined({"math": system}), "template math")[0]
    assert found.status == "yellow"
    assert "that is allowed" in found.remedy.lower()
    assert found.details.splitlines()[0].split() == ["student", "teacher", "math"]
    assert any(line.strip().startswith("> be brief") for line in found.details.splitlines())
    assert max(map(len, found.details.splitlines())) <= 100

    thinks = new_model("thinks", tokenizer=make_tokenizer(ENDING + "{% if enable_thinking %}<pad>{% endif %}"))
    found = of(examined(student=PolicyArgs(path=thinks)), "template student")[0]
    assert (found.status, "chat_template_kwargs.enable_thinking" in found.remedy) == ("yellow", True)
    set_ = PolicyArgs(path=thinks, chat_template_kwargs={"enable_thinking": False})
    assert [f.status for f in of(examined(student=set_), "template student")] == ["green"]
    misspelt = PolicyArgs(path=thinks, chat_template_kwargs={"enable_thinking": False, "thinkin": True})
    assert "never reads thinkin," in of(examined(student=misspelt), "template student")[0].found


def test_two_texts_side_by_side():
    rows = side_by_side("one\ntwo\nfour", "one\nTWO\nthree\nfour", ("left", "right")).splitlines()
    assert [row.split() for row in rows[1:]] == [["one", "one"], ["two", "|", "TWO"], [">", "three"], ["four", "four"]]
    assert len(side_by_side("x\n" * 500, "y", ("a", "b")).splitlines()) == 31


@pytest.mark.parametrize(
    ("options", "name", "status", "said"),
    [
        ({"sampling": SamplingArgs(n=2, max_new_tokens=6, top_p=0.9)}, "settings", "yellow", "top_p"),
        ({"sampling": SamplingArgs(n=2, max_new_tokens=6, temperature=0.0)}, "sampling", "red", "temperature 0"),
        ({"sampling": SamplingArgs(n=2, max_new_tokens=400)}, "sampling", "yellow", "256 positions"),
        ({"updates_per_rollout": 20}, "sampling", "red", "a rollout's 12 answers"),
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
def test_sampling_against_the_loss(examined, options, name, status, said):
    found = of(examined(**options), name)[0]
    assert (found.status, said in found.found) == (status, True), found


def test_one_answer_is_enough_for_a_global_margin(examined):
    sampling = SamplingArgs(n=1, max_new_tokens=6)
    found = of(examined(sampling=sampling, callbacks=[MarginCalibration(scope="global")]), "sampling")
    assert [f.status for f in found] == ["green"]


def test_pictures(examined, tmp_path, healthy):
    parts = [{"type": "image"}, {"type": "text", "text": "what?"}]
    seen = Prompt(
        id="p0",
        messages=({"role": "user", "content": parts},),
        images=(SCENE,),
        gold="a",
        grader="exact",
        domain="math",
    )
    blind = examined(data=Prompts([seen]))
    assert of(blind, "pictures student")[0].status == "red"
    assert "cannot read pictures" in of(blind, "pictures student")[0].found

    paths = {name: str(tmp_path / name) for name in healthy}
    for path in paths.values():
        write_tiny_vision(path, 0)  # type: ignore[arg-type]
    data = Prompts([seen])
    found = of(examined(paths, data), "pictures student")[0]
    least, _, most = (float(x) for x in found.found.partition(" tokens")[0].split(" / "))
    assert found.status == "green"
    assert least == most > 1
    data.max_prompt_tokens = int(most)  # type: ignore[attr-defined]
    assert of(examined(paths, data), "pictures student")[0].status == "yellow"


def test_memory_and_disk_that_do_not_suffice(examined, monkeypatch):
    monkeypatch.setattr(hardware, "free_bytes", lambda *_: 20_000)
    found = of(examined(), "memory")[0]
    assert (found.status, "cannot fit" in found.found) == ("red", True)
    monkeypatch.setattr(hardware, "free_bytes", lambda *_: 400_000)
    assert of(examined(), "memory")[0].status == "yellow"
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda _: full)
    found = of(examined(settings={"enable_checkpointing": True}), "disk")[0]
    assert (found.status, "1000" in found.found or "KiB" in found.found) == ("red", True)


def test_the_sandbox_and_its_canary(examined, monkeypatch):
    data = changed(grader="code_stdio", gold={"inputs": ["1"], "outputs": ["1"]})
    monkeypatch.setattr(backends, "_failures", {})
    monkeypatch.setattr(backends, "probe", lambda _: "a program can read files")
    found = of(examined(data=data), "sandbox")[0]
    assert (found.status, "a program can read files" in found.found) == ("red", True)
    assert found.remedy.startswith("Install bubblewrap")
    monkeypatch.setattr(backends, "_failures", {})
    monkeypatch.setattr(backends, "probe", lambda _: None)
    assert of(examined(data=data), "sandbox")[0].status == "green"
    open_door = SandboxArgs(backend="plain", allow_unsafe=True)
    assert of(examined(data=data, sandbox=open_door), "sandbox")[0].status == "yellow"


def test_device_and_attention(examined, healthy):
    student = PolicyArgs(path=healthy["student"], attn_implementation="flash_attention_2")
    found = of(examined(student=student), "device")[0]
    assert (found.status, found.remedy) == ("red", "Set --model.student.attn_implementation sdpa.")
    assert of(examined(settings={"precision": "bf16-true"}), "device")[0].status == "yellow"


def test_releases_that_were_tampered_with(examined, monkeypatch):
    monkeypatch.setattr(hardware, "versions", lambda: {"python": "3", "lightning": "2.6.3", "peft": "not installed"})
    bad, listed = of(examined(), "versions")
    assert (bad.status, bad.found.startswith("lightning 2.6.3")) == ("red", True)
    assert "not installed: peft" in listed.found


def test_a_check_that_fails_itself_does_not_end_the_visit(examined, monkeypatch):
    def broken(_: Any) -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(hardware, "model_size", broken)
    found = examined()
    assert of(found, "disk")[0].status == "red"
    assert "RuntimeError: no such thing" in of(found, "disk")[0].found
    assert of(found, "settings")[0].status == "green"


def test_a_model_that_is_not_there(examined):
    found = examined({"math": "./nowhere"})
    assert exit_status(found) == 1
    told = [f for f in found if "nowhere" in f.found]
    assert all("--model.teachers.math.path" in f.found and "no such directory" in f.found for f in told)
    assert [f.remedy for f in told] == ["Mend the path, or give a hub id."]
