"""`uniopd judge`: from a run and a judge to scores, once and again."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from judged_runs import (
    alpaca_file,
    by_capitals,
    by_label,
    by_letter,
    by_mark,
    by_rubric,
    judge_server,
    longer,
    write_run,
)

from lit_uniopd.benchmarks.exports import export
from lit_uniopd.benchmarks.judging.answers import Answer, judged_rows, read_baseline
from lit_uniopd.benchmarks.judging.args import JudgeArgs
from lit_uniopd.benchmarks.judging.build import Judging
from lit_uniopd.benchmarks.judging.cli import main as judge
from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.benchmarks.report.summary import run_records
from lit_uniopd.benchmarks.spec import Example
from lit_uniopd.errors import UserError

OURS = ["Red, and a little brown.", "In water.", "", "x" * 40]
THEIRS = ["Red.", "In hot water, ten minutes.", "Something.", "y" * 40]


def result_of(run: Path, key: str, number: int = -1) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())["benchmarks"][key]["judged"][number]


def verdicts_of(run: Path, key: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "verdicts" / f"{key}.jsonl").read_text().splitlines()]


@pytest.fixture
def alpaca(tmp_path) -> tuple[Path, Path]:
    return write_run(tmp_path / "run", {"alpaca_eval2": OURS}), alpaca_file(tmp_path / "base.json", THEIRS)


# --- AlpacaEval 2 ----------------------------------------------------------------------------------------------------


def test_weighted_win_rates_in_both_orders(alpaca, capsys):
    run, baseline = alpaca
    with judge_server(by_letter) as server:
        arguments = [str(run), "--judge", "big", "--url", server.url, "--baseline", str(baseline)]
        assert judge([*arguments, "--dry_run"]) == 0
        assert not server.requests
        assert not (run / "verdicts").exists()
        output = capsys.readouterr().out
        assert "alpaca_eval2@export: 8 verdicts to ask for, 0 kept from before · about " in output
        assert "(an estimate: four characters a token), at most 8 out" in output
        assert judge(arguments) == 0
        assert len(server.requests) == 8
    output = capsys.readouterr().out
    assert "Questions and answers are sent to 127.0.0.1." in output
    assert "against base · wording uniopd_preference, version 1 · judge big" in output
    result = result_of(run, "alpaca_eval2@export")
    # The judge has no favourite place: both orders say the same.
    preferences = np.array([longer(ours, theirs) for ours, theirs in zip(OURS, THEIRS, strict=True)])
    assert result["scores"]["win_rate"] == pytest.approx(preferences.mean())
    assert result["scores"]["discrete_win_rate"] == (1 + 0 + 0 + 0.5) / 4
    assert "lc_win_rate" not in result["scores"]  # four rows are too few to fit
    assert result["baseline"] == "base"
    assert result["served_models"] == ["judge-2026-01-01"]
    assert result["judge"] == {
        "name": "big",
        "kind": "server",
        "max_tokens": 1,
        "options": {},
        "verdict": "logprobs",
    }
    assert result["template"]["name"] == "uniopd_preference"
    assert (result["verdicts"], result["unreadable"], result["judged_answers"]) == (8, 0, 4)
    assert "127.0.0.1" not in (run / "summary.json").read_text() + str(verdicts_of(run, "alpaca_eval2@export"))


def test_a_judge_that_favours_a_place_says_so_twice(alpaca):
    """By hand: always 0.9 for the answer shown first gives each side 0.9 and 0.1."""
    run, baseline = alpaca

    def first(body: dict[str, Any]) -> dict[str, Any]:
        tops = [{"token": "A", "logprob": math.log(0.9)}, {"token": "B", "logprob": math.log(0.1)}]
        return {"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": tops}]}}

    with judge_server(first) as server:
        arguments = [str(run), "--judge", "big", "--url", server.url, "--baseline", str(baseline)]
        judge(arguments)
        assert result_of(run, "alpaca_eval2@export")["scores"]["win_rate"] == pytest.approx(0.5)
        judge([*arguments, "--orders", "one"])
        assert len(server.requests) == 8  # the drawn orders are among those that were asked
    result = result_of(run, "alpaca_eval2@export")
    drawn = {v["order"] for v in verdicts_of(run, "alpaca_eval2@export")}
    assert drawn == {"model_first", "baseline_first"}
    assert result["orders"] == "one"
    assert result["verdicts"] == 4
    assert round(result["scores"]["win_rate"] * 40) in {4, 12, 20, 28, 36}  # each row is 0.1 or 0.9
    assert len(json.loads((run / "summary.json").read_text())["benchmarks"]["alpaca_eval2@export"]["judged"]) == 2


def test_a_model_here_judges_by_letters_that_a_users_wording_names(alpaca, tmp_path, capsys):
    run, baseline = alpaca
    (tmp_path / "mine.yaml").write_text("user: '{instruction}|{output_1}|{output_2}|'\nletters: [m, M]\n")
    arguments = [str(run), "--judge", "playground:tiny_text", "--baseline", str(baseline)]
    assert judge([*arguments, "--template", str(tmp_path / "mine.yaml")]) == 0
    assert "wording mine, version file · judge playground:tiny_text" in capsys.readouterr().out
    result = result_of(run, "alpaca_eval2@export")
    assert result["template"]["name"] == "mine"
    assert result["judge"]["kind"] == "local"
    assert 0 < result["scores"]["win_rate"] < 1
    with pytest.raises(UserError, match="--engine is for replies, and log-probs need none"):
        judge([*arguments, "--engine", "loop"])
    with pytest.raises(UserError, match=r"No answer to alpaca_eval2@export could be judged \(8 of 8 replies cannot"):
        judge([*arguments, "--verdict", "text", "--engine", "loop"])  # it writes noise


def test_another_run_can_be_the_baseline(alpaca, tmp_path):
    run, _ = alpaca
    other = write_run(tmp_path / "other", {"alpaca_eval2": THEIRS}, model="theirs")
    with judge_server(by_letter) as server:
        judge([str(run), "--judge", "big", "--url", server.url, "--baseline", str(other), "--verdict", "text"])
    result = result_of(run, "alpaca_eval2@export")
    # As written: A where they are equally long, which is either model's answer once.
    assert (result["baseline"], result["scores"]["win_rate"]) == ("theirs", (1 + 0 + 0 + 0.5) / 4)


def test_instructions_that_the_length_control_does_not_know_are_told_before_anything_is_asked(alpaca, tmp_path):
    run, baseline = alpaca
    columns = "index,preference,std_delta_len,instruction_difficulty\n"
    (tmp_path / "gamed.csv").write_text(columns + "".join(f"{i},0.5,0.1,1.0\n" for i in range(3)))
    with judge_server(by_letter) as server:
        arguments = [str(run), "--judge", "big", "--url", server.url, "--baseline", str(baseline)]
        with pytest.raises(UserError, match="--length_control knows no instruction 3 "):
            judge([*arguments, "--length_control", str(tmp_path / "gamed.csv")])
        assert not server.requests


# --- Arena-Hard ------------------------------------------------------------------------------------------------------


@pytest.fixture
def arena(tmp_path) -> tuple[Path, Path]:
    run = write_run(tmp_path / "run", {"arena_hard": OURS, "mm_vet": ["168.00", "it is 2020", "", "square"]})
    entries = [
        {"question_id": f"fixture{i}", "model_id": "gpt", "choices": [{"turns": [{"content": text}]}]}
        for i, text in enumerate(THEIRS)
    ]
    path = tmp_path / "gpt.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return run, path


def test_five_steps_and_what_cannot_be_read(arena, caplog):
    run, baseline = arena
    with judge_server(by_label) as server:
        arguments = [str(run), "--judge", "big", "--url", server.url, "--baseline", str(baseline)]
        judge([*arguments, "--benchmark", "arena_hard"])
        system = server.requests[0]["messages"][0]
        assert system["role"] == "system"
        assert server.requests[0]["max_tokens"] == 4096
    result = result_of(run, "arena_hard@export")
    # Row 0: 20 signs longer, a win in both orders. Row 1: shorter by 17, a loss. Row 2: shown first, the empty answer
    # makes the judge forget its label, so that neither order counts. Row 3: a tie.
    assert result["scores"] == {"win_rate": pytest.approx((1 + 1 + 0 + 0 + 0.5 + 0.5) / 6)}
    assert (result["judged_answers"], result["unreadable"], result["verdicts"]) == (3, 1, 8)
    assert "1 of 8 verdicts cannot be read" in caplog.text
    assert "1 of 4 answers are left out of the scores" in caplog.text
    labels = {(v["sample_id"], v["order"]): v["label"] for v in verdicts_of(run, "arena_hard@export")}
    assert labels["fixture0", "model_first"] == "A>B"
    assert labels["fixture0", "baseline_first"] == "B>A"
    assert labels["fixture2", "model_first"] == ""


# --- MM-Vet ----------------------------------------------------------------------------------------------------------


def test_mm_vet_is_averaged_by_capability(arena, capsys):
    run, _ = arena
    with judge_server(by_mark) as server:
        judge([str(run), "--judge", "big", "--url", server.url, "--benchmark", "mm_vet"])
        assert len(server.requests) == 4
        assert server.requests[0]["max_tokens"] == 16
    result = result_of(run, "mm_vet@export")
    assert result["scores"] == {"correctness": pytest.approx((1.0 + 0.5 + 0.0) / 3)}  # 2.0 is no mark
    assert result["unreadable"] == 1
    assert result["orders"] is None
    assert "rec" in result["breakdown"]
    assert "correctness" in capsys.readouterr().out


# --- SedarEval -------------------------------------------------------------------------------------------------------


def test_points_by_rubric_in_our_wording_and_by_the_prompts_that_rows_bring(tmp_path):
    """By hand, of answers of so many signs: the rows' prompts ask for each turn of the conversation by itself."""
    answers = [
        "one",
        "ab",
        "abcde",
        "x",
        "abcd",
        "a" * 9,
        "A1: ab\nA2: c\n",
        "",
    ]  # knowledge, reading, reasoning, maths, code, writing, dialogue, agent
    run = write_run(tmp_path / "run", {"sedareval": answers})
    key = "sedareval@rubric"
    (tmp_path / "rows.txt").write_text("{own_prompt}")
    with judge_server(by_rubric) as server:
        arguments = [str(run), "--judge", "big", "--url", server.url]
        judge(arguments)
        assert len(server.requests) == 7  # the empty answer is not asked about
        ours = result_of(run, key)
        judge([*arguments, "--template", str(tmp_path / "rows.txt")])
        questions = [body["messages"][-1]["content"] for body in server.requests[7:]]
    assert len(questions) == 8  # two about the conversation
    # Reasoning 5 and code 4, with no mathematics that can be read, are one part of five; the empty answer is none.
    parts = [3 / 5, 2 / 5, (5 / 5 + 4 / 5) / 2, 5 / 5]
    assert ours["scores"]["overall"] == pytest.approx(
        np.mean([*parts, 5 / 5])
    )  # the transcript has more than five signs
    assert ours["scores"]["question_mean"] == pytest.approx((3 + 2 + 5 + 4 + 5 + 5) / 30)
    assert (ours["unreadable"], ours["details"]) == (1, {"empty_answers": 1, "below_zero": 0})
    assert ours["breakdown"]["代码"] == pytest.approx(0.8)
    theirs = result_of(run, key)
    assert theirs["template"]["name"] == "rows"
    assert theirs["scores"]["overall"] == pytest.approx(np.mean([*parts, (2 + 1) / 5]))
    assert any(text.startswith("第一轮\uff1a\n请记住数字七。\nab\n第二轮的答案\uff1a\nc\n") for text in questions)
    assert "[字数\uff1a9]\naaaaaaaaa\n" in next(text for text in questions if "秋天" in text)
    assert not any("{response}" in text for text in questions)
    benchmark = load_benchmark(find_spec("sedareval"), "fixture")
    lines = export(run_records(run), benchmark, tmp_path, "ours").read_text().splitlines()
    first = json.loads(lines[0])  # as src/main.py of the authors reads it
    assert (first["id"], first["answer"], first["meta"]["id_ex"]) == ("f0", "one", 1)
    assert first["query"] == benchmark.examples[0].messages[-1]["content"]
    talk = json.loads(lines[6])
    assert (talk["query"], talk["answer"]) == ("Q1\uff1a请记住数字七。\nQ2\uff1a刚才的数字是几？", "A1: ab\nA2: c\n")


def test_a_run_without_a_word_is_not_judged(tmp_path, capsys):
    run = write_run(tmp_path / "run", {"sedareval": [" "] * 8})
    with judge_server(by_rubric) as server:
        with pytest.raises(
            UserError, match=r"^All 8 answers to sedareval@rubric are empty, so there is nothing to judge;"
        ):
            judge([str(run), "--judge", "big", "--url", server.url])
        assert not server.requests


def test_rows_of_sedareval_that_cannot_be_scored_are_counted(tmp_path):
    rows = [
        {"id": "a", "query": "?", "meta": {"category": ["数学"], "reference": "1", "score_standard": "1+5分"}},
        {"id": "b", "query": "?", "meta": {"category": ["数学"], "reference": float("nan"), "score_standard": ""}},
        {"id": "c", "query": "?", "meta": {"category": ["数学"], "score_standard": "1", "is_complete": -1}},
        {"id": "d", "query": "Q1: a\nQ2: b", "meta": {"category": ["对话"], "score_standard": "1"}},
        {"id": "e", "query": "?", "meta": {"category": ["问答"]}, "auto_prompt": [{"prompt": "{response}"}]},
        {"id": "f", "query": "?", "meta": {"category": ["问答"]}, "auto_prompt": [{"prompt": "{response}"}] * 2},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(f"inherit: sedareval\nprotocol: mine\nhub: {{id: {tmp_path}/rows.jsonl}}\n")
    benchmark = load_benchmark(find_spec(str(tmp_path / "mine.yaml")), "paper")
    assert [example.id for example in benchmark.examples] == ["a", "d", "e", "f"]
    assert benchmark.examples[1].turns == (" a", " b")
    assert benchmark.left_out == {"no rubric": 1, "marked as incomplete by the authors": 1}
    with pytest.raises(
        UserError, match=r"asks for the rubric of each question, and 2 of 4 rows have none; give a text"
    ):
        Judging(JudgeArgs("x"), benchmark)


# --- Object HalBench -------------------------------------------------------------------------------------------------


def test_objects_that_the_judge_finds_are_looked_up_in_the_annotation(tmp_path):
    """The first picture has a cat, a dog and a car; the rule that reads all nouns would find the others' too."""
    key = "object_halbench@rule_based"
    rows = load_benchmark(find_spec(key), "fixture").examples
    right = "There are " + ", ".join(name.upper() for name in rows[1].gold["objects"])
    captions = ["A CAT and a DOG by a BUS, like a horse.", right, "nothing to be named here", "A PIZZA."]
    captions += ["one bird somewhere in it"] * (len(rows) - 4)
    run = write_run(tmp_path / "run", {key: captions})
    with judge_server(by_capitals) as server:
        judge([str(run), "--judge", "big", "--url", server.url])
        assert len(server.requests) == len(rows)
    result = result_of(run, key)
    truth = [len(set(row.gold["objects"])) for row in rows]
    # Captions 1 and 2 name objects, 3 of them in the first, the bus wrongly; the last is too short to describe anything.
    named = 3 + truth[1]
    assert result["scores"] == pytest.approx(
        {
            "chair_s_refined": 1 / 2,
            "chair_i": 1 / named,
            "chair_s": 1 / len(rows),
            "recall": (2 + truth[1]) / sum(truth),
        }
    )
    assert result["template"]["name"] == "uniopd_named_objects"


def test_parts_of_a_right_answer_stand_apart():
    """As MM-Vet's evaluator writes them, whose examples have blanks there."""
    benchmark = load_benchmark(find_spec("mm_vet"), "fixture")
    examples = [replace(benchmark.examples[0], gold="a cat<AND>a dog<OR>wolf"), *benchmark.examples[1:]]
    records: list[Any] = [SimpleNamespace(sample_id=example.id, sample_idx=0, response="a cat") for example in examples]
    rows = judged_rows(replace(benchmark, examples=examples), records, None)
    assert rows[0].other == "a cat <AND> a dog <OR> wolf"
    assert rows[1].other == benchmark.examples[1].gold


def test_rows_without_annotation_are_refused(tmp_path):
    run = write_run(tmp_path / "run", {"object_halbench": ["A dog."] * 4})
    with pytest.raises(UserError, match=r"4 of 4 pictures have no list of their objects.* object_halbench@rule_based"):
        judge([str(run), "--judge", "big", "--url", "http://127.0.0.1:9/v1"])


# --- interrupted, wrong, refused -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_judging_goes_on_and_asks_nothing_twice(alpaca):
    run, baseline = alpaca
    arguments = ["judge", str(run), "--judge", "big", "--baseline", str(baseline), "--rows", "1"]
    slow = threading.Event()

    def until_told(body: dict[str, Any]) -> dict[str, Any]:
        if len(server.requests) > 3:
            slow.wait(60)
        return by_letter(body)

    with judge_server(until_told) as server:
        command = [sys.executable, "-m", "lit_uniopd", *arguments, "--url", server.url]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while len(server.requests) < 4:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        slow.set()
        kept = verdicts_of(run, "alpaca_eval2@export")
        assert len(kept) == 3
        asked = [body["messages"] for body in server.requests[:3]]
        file = run / "verdicts" / "alpaca_eval2@export.jsonl"
        file.write_text(file.read_text() + '{"benchmark": "alpaca_eval2@exp')  # as a kill may leave it
        server.requests.clear()
        judge([*arguments[1:], "--url", server.url])
        assert len(server.requests) == 5
        assert not [body for body in server.requests if body["messages"] in asked]
    preferences = [longer(ours, theirs) for ours, theirs in zip(OURS, THEIRS, strict=True)]
    assert result_of(run, "alpaca_eval2@export")["scores"]["win_rate"] == pytest.approx(np.mean(preferences))


def test_refused_questions_are_counted_and_asked_again(alpaca, caplog):
    run, baseline = alpaca
    with judge_server(by_letter) as server:
        server.status = lambda body: 413 if "x" * 40 in body["messages"][-1]["content"] else 200
        arguments = [str(run), "--judge", "big", "--url", server.url, "--baseline", str(baseline)]
        judge(arguments)
        result = result_of(run, "alpaca_eval2@export")
        assert (result["refused"], result["verdicts"], result["judged_answers"]) == (2, 6, 3)
        assert "refused 2 question(s): it answers 413" in caplog.text
        server.status = lambda body: 200
        server.requests.clear()
        judge(arguments)
        assert len(server.requests) == 2
    assert result_of(run, "alpaca_eval2@export")["judged_answers"] == 4


def test_a_changed_answer_is_judged_anew(alpaca, tmp_path):
    run, baseline = alpaca
    with judge_server(by_letter) as server:
        arguments = [str(run), "--judge", "big", "--url", server.url, "--baseline"]
        judge([*arguments, str(baseline)])
        server.requests.clear()
        judge([*arguments, str(alpaca_file(tmp_path / "new.json", [*THEIRS[:3], "new"]))])
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "--judge", "x"], "nowhere is no directory; give that of a run"),
        (["RUN"], "--judge"),
        (["RUN", "--judge", "x"], "judges one benchmark at a time, and .* has arena_hard@export, mm_vet@export"),
        (["RUN", "--judge", "x", "--benchmark", "math500"], "math500@unidpo was not answered in .*; name one of"),
        (["RUN", "--judge", "x", "--benchmark", "arena_hard"], "compares answers with those of a baseline"),
        (["RUN", "--judge", "x", "--benchmark", "mm_vet", "--baseline", "B"], "with the right ones; leave out"),
        (["RUN", "--judge", "x", "--benchmark", "arena_hard", "--baseline", "none"], "--baseline none does not exist"),
        (["RUN", "--judge", "x", "--benchmark", "arena_hard", "--baseline", "EMPTY"], "has no answer to 4 of 4 ques"),
        (["RUN", "--judge", "x", "--benchmark", "arena_hard", "--baseline", "RUN2"], "has not answered the rows"),
        (["RUN", "--judge", "x", "--benchmark", "mm_vet", "--verdict", "text"], "--verdict is no option of mm_vet"),
        (["RUN", "--judge", "x", "--benchmark", "mm_vet", "--style_control"], "--style_control is no option of mm_vet"),
        (["RUN", "--judge", "x", "--benchmark", "arena_hard", "--orders", "one"], "--orders is no option of arena"),
        (["RUN", "--judge", "x", "--benchmark", "mm_vet", "--max_tokens", "0"], "--max_tokens must be at least 1"),
        (["RUN", "--judge", "x", "--benchmark", "mm_vet", "--options", "a"], "--options a must be names and values"),
        (["RUN", "--judge", "x", "--benchmark", "mm_vet", "--url", "host"], "--url host must begin with http"),
        (["RUN", "--judge", "x", "--benchmark", "mm_vet", "--url", "http://h", "--engine", "loop"], "--engine is of a"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes(arguments: list[str], sentence, arena, tmp_path):
    run, baseline = arena
    (tmp_path / "empty.jsonl").write_text('{"question_id": "z", "answer": "x"}\n')
    other = write_run(tmp_path / "other", {"alpaca_eval2": OURS})
    names = {"RUN": str(run), "B": str(baseline), "EMPTY": str(tmp_path / "empty.jsonl"), "RUN2": str(other)}
    with pytest.raises(UserError, match=sentence):
        judge([names.get(argument, argument) for argument in arguments])


def test_files_of_answers_that_cannot_be_read(arena, tmp_path):
    run, _ = arena
    for text, sentence in {
        '{"question_id": "fixture0", "text": "x"}\n': r"entry 1 has no answer \(`output`, `choices` or `messages`; it has",
        '{"question_id": "fixture0", "choices": []}\n': "entry 1 has no answer",
        "[1]\n": "must hold a list of entries",
    }.items():
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(UserError, match=sentence):
            judge([str(run), "--judge", "x", "--benchmark", "arena_hard", "--baseline", str(tmp_path / "bad.jsonl")])


def test_both_forms_of_arena_hards_answers(arena, tmp_path):
    """The second version's files have messages, with the answer beside what the model has thought."""
    run, first = arena
    questions = [row.messages[-1]["content"] for row in load_benchmark(find_spec("arena_hard"), "fixture").examples]
    entries = [
        {
            "uid": f"fixture{i}",
            "model": "gpt",
            "messages": [{"role": "user", "content": question}, {"content": {"answer": t}}],
        }
        for i, (t, question) in enumerate(zip(THEIRS, questions, strict=True))
    ]
    (tmp_path / "v2.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with judge_server(by_label) as server:
        arguments = [str(run), "--judge", "big", "--url", server.url, "--benchmark", "arena_hard", "--baseline"]
        judge([*arguments, str(first)])
        judge([*arguments, str(tmp_path / "v2.jsonl")])
        assert len(server.requests) == 8  # the same questions


NUMBERED = ["Capital of France?", "2 + 2?", "Colour?", "Colour?"]


def numbered(tmp_path: Path, entries: list[dict[str, Any]]) -> list[str]:
    """What the baseline says to each row of `NUMBERED`, which are named 0 to 3."""
    examples = [Example(str(i), ({"role": "user", "content": text},), None) for i, text in enumerate(NUMBERED)]
    benchmark: Any = SimpleNamespace(key="b@p", examples=examples)
    (tmp_path / "numbered.json").write_text(json.dumps(entries))
    baseline = read_baseline(tmp_path / "numbered.json", benchmark)
    return [row.other for row in judged_rows(benchmark, [Answer(str(i), 0, "") for i in range(4)], baseline)]


@pytest.mark.parametrize(
    "entry",
    [
        lambda i, text, answer: {"id": i + 1, "instruction": text, "output": answer},
        lambda i, text, answer: {"question_id": str(3 - i), "question": f" {text}\n", "output": answer},
        lambda i, text, answer: {
            "uid": (i + 2) % 4,
            "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}],
        },
    ],
)
def test_an_answer_belongs_to_the_question_that_it_says_not_to_the_row_that_its_id_happens_to_name(entry, tmp_path):
    answers = ["Paris", "4", "blue", "blue"]
    assert (
        numbered(tmp_path, [entry(i, *both) for i, both in enumerate(zip(NUMBERED, answers, strict=True))]) == answers
    )


def test_ids_tell_answers_apart_whose_questions_are_the_same_or_not_said(tmp_path):
    answers = ["Paris", "4", "blue", "red"]
    both = list(enumerate(zip(NUMBERED, answers, strict=True)))[::-1]
    assert numbered(tmp_path, [{"id": i, "prompt": text, "output": answer} for i, (text, answer) in both]) == answers
    assert numbered(tmp_path, [{"id": i, "output": answer} for i, (_, answer) in both]) == answers
    with pytest.raises(UserError, match=r"no answer to 1 of 4 questions of b@p \(the first is row 1\)"):
        numbered(tmp_path, [{"id": i, "prompt": text.replace("2 +", "3 +"), "output": a} for i, (text, a) in both])


def test_a_run_that_has_not_ended_is_told(arena):
    run, _ = arena
    (run / "summary.json").unlink()
    with judge_server(by_mark) as server, pytest.raises(UserError, match="the run has not ended"):
        judge([str(run), "--judge", "big", "--url", server.url, "--benchmark", "mm_vet"])
    assert not server.requests
