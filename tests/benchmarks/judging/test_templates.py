"""Wordings: what is filled in, and whose they are."""

import pytest

from lit_uniopd.benchmarks.judging import JUDGED_HERE
from lit_uniopd.benchmarks.judging.protocols import PROTOCOLS
from lit_uniopd.benchmarks.judging.templates import Template, own_template, read_template
from lit_uniopd.errors import UserError

PAIR = {"question", "answer_a", "answer_b"}
VALUES = {"question": "Why {answer_a}?", "answer_a": "one {question}", "answer_b": "two \\1"}


def test_the_list_of_commands_knows_every_protocol():
    assert set(JUDGED_HERE) == set(PROTOCOLS)


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_ours_has_every_field_and_a_name_of_its_own(kind):
    template = own_template(kind)
    assert template.fields == PROTOCOLS[kind]().needed
    assert template.name.startswith("uniopd_")
    assert template.version == "1"


def test_answers_with_braces_stay_as_they_are():
    template = Template("x", "1", (("user", "{question} / {answer_a} / {answer_b} / {{other}} {x}"),))
    (message,) = template.fill(VALUES)
    assert message["content"] == "Why {answer_a}? / one {question} / two \\1 / {{other}} {x}"


@pytest.mark.parametrize(
    "text",
    [
        "{question} {answer_a} {answer_b}",
        "{instruction} {output_1} {output_2}",
        "{QUESTION} {ANSWER_A} {ANSWER_B}",
        "{question_1} {answer_1} {answer_2}",
    ],
)
def test_the_names_of_the_official_wordings_are_understood(text, tmp_path):
    (tmp_path / "w.txt").write_text(text)
    template = read_template(str(tmp_path / "w.txt"), PAIR)
    assert template.fill(VALUES) == [{"role": "user", "content": "Why {answer_a}? one {question} two \\1"}]
    assert (template.name, template.version) == ("w", "file")


def test_turns_of_a_text_and_of_a_yaml_file(tmp_path):
    body = "{question} {answer_a} {answer_b}"
    (tmp_path / "chat.txt").write_text(
        f"<|im_start|>system\nBe fair.\n<|im_end|>\n<|im_start|>user\n{body}\n<|im_end|>"
    )
    (tmp_path / "ours.yaml").write_text(f"system: Be fair.\nuser: '{body}'\n")
    (tmp_path / "theirs.yaml").write_text(f"name: theirs\nsystem_prompt: Be fair.\nprompt_template: '{body}'\n")
    templates = [read_template(str(tmp_path / name), PAIR) for name in ("chat.txt", "ours.yaml", "theirs.yaml")]
    assert {template.turns for template in templates} == {(("system", "Be fair."), ("user", body))}
    assert [template.name for template in templates] == ["chat", "ours", "theirs"]
    assert len({template.sha256 for template in templates}) == 1
    (tmp_path / "ours.yaml").write_text(f"system: Be fair.\nuser: '{body}'\nletters: [m, M]\n")
    lettered = read_template(str(tmp_path / "ours.yaml"), PAIR)
    assert lettered.letters == ("m", "M")
    assert lettered.sha256 != templates[0].sha256


def test_a_file_of_an_installed_package_has_its_version(tmp_path, monkeypatch):
    package = tmp_path / "judge_words"
    (package / "texts").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "texts" / "pair.txt").write_text("{instruction} {output_1} {output_2}")
    (tmp_path / "judge_words-1.5.dist-info").mkdir()
    (tmp_path / "judge_words-1.5.dist-info" / "METADATA").write_text("Name: judge_words\nVersion: 1.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    template = read_template("judge_words:texts/pair.txt", PAIR)
    assert (template.name, template.version) == ("pair", "judge_words 1.5")


def test_the_official_file_of_alpaca_eval_fits():
    pytest.importorskip("alpaca_eval")
    source = "alpaca_eval:evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt"
    template = read_template(source, PAIR)
    assert template.version == "alpaca_eval 0.6.6"
    system, user = template.fill(VALUES)
    assert (system["role"], user["role"]) == ("system", "user")
    assert '"output": """two \\1"""' in user["content"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("w.txt", "{question} {answer_a}", r"has no place for the answer_b; write \{answer_b\} or \{output_2\}"),
        ("w.txt", "{question} {answer_a} {answer_b} {reference}", "asks for the reference, which .* is not shown"),
        ("w.yaml", "text: x", "must have the text of the user's turn under `user`"),
        ("w.yaml", "[a]", "must have the text of the user's turn"),
        ("w.yaml", "user: x\njudge_model: gpt", "has 'judge_model', which is no part of a wording"),
        ("w.yaml", "user: x\nletters: [A, A]", "`letters` must be two different texts"),
        (
            "w.yaml",
            "name: uniopd_five_steps\nuser: '{question} {answer_a} {answer_b}'",
            "has the name of our own wording, uniopd_five_steps",
        ),
        ("uniopd_preference.txt", "{question} {answer_a} {answer_b}", "has the name of our own wording"),
    ],
)
def test_a_wording_that_does_not_fit_is_refused(name, text, sentence, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_template(str(tmp_path / name), PAIR)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [("none.txt", "is no file"), ("nopackage:a.txt", "no package 'nopackage' here"), ("json:none.txt", "is no file")],
)
def test_what_is_not_there_is_named(source, sentence):
    with pytest.raises(UserError, match=sentence):
        read_template(source, PAIR)
