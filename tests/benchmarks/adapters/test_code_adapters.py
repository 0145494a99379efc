import base64
import json
import logging
import pickle
import zlib
from pathlib import Path

import pytest
import yaml

from lit_uniopd.benchmarks import spec as spec_module
from lit_uniopd.benchmarks.adapters import AdapterContext
from lit_uniopd.benchmarks.adapters import evalplus as evalplus_module
from lit_uniopd.benchmarks.adapters.evalplus import evalplus
from lit_uniopd.benchmarks.adapters.livecodebench import livecodebench, private_tests
from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.benchmarks.spec import BenchmarkSpec, HubData, PromptFormat, Report, Scoring
from lit_uniopd.rewards import GRADERS
from lit_uniopd.rewards.tagged import load_tagged

PACKAGE = Path(spec_module.__file__).parent
LOOP = "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion({call}, exp, {atol})\n"


def fixture_rows(name):
    return [json.loads(line) for line in (PACKAGE / "fixtures" / f"{name}.jsonl").read_text().splitlines()]


def spec(name):
    values = yaml.safe_load((PACKAGE / "specs" / f"{name}.yaml").read_text())
    return BenchmarkSpec(
        **{key: values[key] for key in ("id", "protocol", "version", "title", "domain", "modality", "columns")},
        hub=HubData(**values["hub"]),
        scoring=Scoring(**values["scoring"]),
        report=Report(tuple(values["report"]["metrics"]), tuple(values["report"]["breakdown"])),
        prompt=PromptFormat(**values["prompt"]),
    )


@pytest.fixture
def context(tmp_path):
    return AdapterContext("fixture", True, tmp_path)


def mbpp_row(code="def f(x):\n    return 2 * x\n", test="", **more):
    row = {
        "task_id": 7,
        "code": code,
        "prompt": "Write f.",
        "source_file": "",
        "test_imports": [],
        "test_list": ["assert f(1) == 2"],
        "test": test,
    }
    return {**row, **more}


def lists(inputs, results, call="f(*inp)", atol="0", before=""):
    return f"{before}inputs = {inputs}\nresults = {results}\n" + LOOP.format(call=call, atol=atol)


def gold_of(example):
    return load_tagged(example.gold["tagged"])


def grade(example, program):
    return GRADERS[example.grader or "code_functional"](example.gold, f"```python\n{program}\n```", **example.options)


def reference(row):
    return row["prompt"] + row["canonical_solution"] if "canonical_solution" in row else row["code"]


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("humaneval_plus", {"its reference solution fails": 1}), ("mbpp_plus", {"a stub passes": 1})],
)
def test_evalplus_fixtures(name, left_out, context, caplog):
    rows = fixture_rows(name)
    adapted = evalplus(rows, spec(name), context)
    assert adapted.left_out == left_out
    assert [record.levelname for record in caplog.records if "not scored" in record.message] == ["WARNING"]
    assert len(adapted.examples) == 4
    for row, example in zip(rows, adapted.examples, strict=False):
        assert example.id.endswith(str(row["task_id"]))
        assert json.loads(json.dumps(example.gold)) == example.gold
        assert example.options == {"time_limit": 10.0}
        (message,) = example.messages
        assert message["role"] == "user"
        assert row["prompt"] in message["content"]
        assert message["content"].endswith("at the end.\nYou need to think first then write the Python code.")
        assert grade(example, reference(row)).correct is True
        for stub in ("return None", "return arguments[0]", "raise ValueError"):
            entry_point = gold_of(example)["entry_point"]
            assert grade(example, f"def {entry_point}(*arguments):\n    {stub}").correct is False


def test_blank_lines_around_a_task_are_those_of_the_prompt_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("LIT_UNIOPD_CACHE", str(tmp_path))
    # EvalPlus strips a task and ends its line; two more line ends stand before G-OPD's instruction. LiveCodeBench's
    # question stays as it is, with two line ends behind it and two before the instruction.
    for name, template in (("humaneval_plus", "{question}\n\n\nWrite"), ("livecodebench", "{question}\n\n\n\nWrite")):
        assert find_spec(name).prompt.template.count(template) == 1
    assert find_spec("mbpp_plus").prompt == find_spec("humaneval_plus").prompt
    content = load_benchmark(find_spec("humaneval_plus"), "fixture").examples[0].messages[-1]["content"]
    assert isinstance(content, str)
    assert content.startswith("from typing")
    assert content.partition("\n\n\nWrite Python")[0].endswith('"""')


def test_both_shapes_of_tests(context):
    humaneval = evalplus(fixture_rows("humaneval_plus"), spec("humaneval_plus"), context).examples
    mbpp = evalplus(fixture_rows("mbpp_plus"), spec("mbpp_plus"), context).examples
    computed = gold_of(humaneval[2])
    assert computed["calls"] == [[3], [0], [12], [500]]
    assert computed["expected"] == ["-".join(map(str, range(n, -1, -1))) for n in (3, 0, 12, 500)]
    assert gold_of(humaneval[3])["expected"] == [("a", 3), None, None, ("z", 1), ("o", 2)]
    assert gold_of(mbpp[0])["calls"][0] == [[(1, 2), (3, 4)]]
    assert gold_of(mbpp[1])["oracle"] == "set_equal"
    assert gold_of(mbpp[2])["expected"] == [2, float("inf"), 0.25]
    assert gold_of(mbpp[2])["calls"][2] == [[float("-inf"), 0.5, 0.75]]
    assert gold_of(mbpp[3])["entry_point"] == "grid"
    assert gold_of(mbpp[3])["expected"][0] == [(0, 0), (0, 1)]
    assert 'assert pair_sums([(1, 2), (3, 4)]) == [3, 7]\n"""\n' in mbpp[0].messages[0]["content"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (mbpp_row(test=lists("[[1], [2]]", "[2, 4]")), None),
        (mbpp_row(test=lists("[[1], [2]]", "[2, 5]")), "its reference solution fails"),
        (mbpp_row(code="def f(x):\n    raise ValueError\n", test=lists("[[1]]", "[2]")), "its reference solution fails"),
        (mbpp_row(code="def f(x):\n    raise ValueError\n", test="inputs = [[1]]\nf(*inputs[0])\n"), "its reference solution fails"),
        (mbpp_row(code="import os\ndef f(x):\n    os._exit(0)\n", test=lists("[[1]]", "[2]")), "its reference solution fails"),
        (mbpp_row(code="def f(x):\n    return None\n", test=lists("[[1]]", "[None]")), "a stub passes"),
        (mbpp_row(code="def f(x):\n    return x\n", test=lists("[[1], ['a']]", "[1, 'a']")), "a stub passes"),
        (mbpp_row(test=lists("[]", "[]")), "its test has no inputs"),
        (mbpp_row(test=lists("[[1], [2]]", "[2]")), "it has not one result for each input"),
        (mbpp_row(test=lists("[1, 2]", "[2, 4]")), "its inputs are no lists of arguments"),
        (mbpp_row(test="assert f(1) == 2\n"), "its test has no list of inputs"),
        (mbpp_row(test="inputs = [[1\n"), "its test cannot be parsed"),
        (mbpp_row(test=lists("[[object()]]", "[2]")), "its lists are no plain data"),
        (mbpp_row(test=lists("[[1]]", "[2]", call="g(*inp)"), test_list=["assert g(1) == 2"]), "its tests call no function of its reference solution"),
        (mbpp_row(test=lists("[[1.0]]", "[2.001]", atol="0.01")), None),
        (mbpp_row(test=lists("[[1.0]]", "[2.001]")), "its reference solution fails"),
        (mbpp_row(test=lists("[[1j], [set()]]", "[2j, 3]"), code="def f(x):\n    return 3 if x == set() else 2 * x\n"), None),
        (mbpp_row(test=lists(f"[[{10**200}], [{'9' * 5000}]]", f"[{2 * 10**200}, 1{'9' * 4999}8]")), None),
    ],
)  # fmt: skip
def test_rows_are_checked(row, reason, context):
    adapted = evalplus([row], spec("mbpp_plus"), context)
    assert adapted.left_out == ({} if reason is None else {reason: 1})
    assert len(adapted.examples) == (reason is None)


def test_a_broken_assertion_helper_is_not_used(context):
    before = "def assertion(out, exp, atol):\n    exact_match = exp == (out is not None)\n\n"
    code = "import re\n\ndef check_str(text):\n    return re.match('[aeiou]', text)\n"
    row = mbpp_row(
        code,
        lists("[['ab'], ['ba']]", "[True, False]", call="check_str(*inp)", before=before),
        test_list=["assert check_str('ab')"],
    )
    (example,) = evalplus([row], spec("mbpp_plus"), context).examples
    assert grade(example, code).correct is True
    assert grade(example, "def check_str(text):\n    return text[0] in 'aeiou'").correct is True
    assert grade(example, "def check_str(text):\n    return True").correct is False


def test_the_tested_function_is_told_from_its_helpers(context):
    code = "def half(x):\n    return x // 2\n\ndef f(x):\n    return half(x) + 1\n"
    test = "def ref_func(x):\n    return half(x) + 1\n\ninputs = [[4], [5]]\nfor inp in inputs:\n    assertion({}(*inp), ref_func(*inp), 0)\n"
    for name in ("f", "candidate"):
        (example,) = evalplus(
            [mbpp_row(code, test.format(name), test_list=["assert f(4) == 3"])], spec("mbpp_plus"), context
        ).examples
        assert gold_of(example)["entry_point"] == "f"


def test_find_zero_is_judged_by_the_polynomial(context):
    row = {
        "task_id": "HumanEval/32",
        "prompt": "import math\n\n\ndef find_zero(xs: list):\n",
        "canonical_solution": "    return -xs[0] / xs[1] + 1e-7\n",
        "entry_point": "find_zero",
        "test": "def check(candidate):\n    inputs = [[[-1, 2]], [[3, 1]]]\n    results = [0.75, 9.0]\n"
        "    for i, inp in enumerate(inputs):\n        assert _poly(*candidate(*inp), inp) <= 0.0001\n",
    }
    (example,) = evalplus([row], spec("humaneval_plus"), context).examples
    assert gold_of(example)["atol"] == 0.0001
    assert grade(example, "def find_zero(xs):\n    return -xs[0] / xs[1]").correct is True
    assert grade(example, "def find_zero(xs):\n    return 0.75").correct is False


def test_results_that_are_too_long_are_not_asked_for(context, monkeypatch, caplog):
    monkeypatch.setattr(evalplus_module, "LONGEST_RESULT", 100)
    row = mbpp_row(
        "def f(n):\n    return 'a' * n\n",
        "inputs = [[3], [1000], [5]]\nfor inp in inputs:\n    assertion(f(*inp), ref_func(*inp), 0)\n",
    )
    with caplog.at_level(logging.INFO):
        (example,) = evalplus([row], spec("mbpp_plus"), context).examples
    assert gold_of(example)["calls"] == [[3], [5]]
    assert "1 call(s) of 1 row(s) are not made" in caplog.text


def test_checked_rows_are_cached_by_content(context, monkeypatch):
    rows = fixture_rows("mbpp_plus")[:2]
    first = evalplus(rows, spec("mbpp_plus"), context)

    def refuse(*_):
        raise AssertionError("the row was checked again")

    monkeypatch.setattr(evalplus_module, "_check", refuse)
    assert evalplus(rows, spec("mbpp_plus"), context) == first
    with pytest.raises(AssertionError, match="checked again"):
        evalplus([{**rows[0], "prompt": "Other words."}], spec("mbpp_plus"), context)
    monkeypatch.undo()
    for path in context.cache_dir.rglob("*.json"):
        path.write_text("torn")
    assert evalplus(rows, spec("mbpp_plus"), context) == first


def test_slow_references_raise_the_limit(context, monkeypatch):
    monkeypatch.setattr(evalplus_module, "REFERENCE_FACTOR", 1e6)
    (example,) = evalplus([mbpp_row(test=lists("[[1], [2]]", "[2, 4]"))], spec("mbpp_plus"), context).examples
    assert example.options["time_limit"] > 10.0
    assert "reference_seconds" not in gold_of(example)


SOLUTIONS = [
    "input()\nprint(sum(map(int, input().split())))",
    "for _ in range(int(input())):\n    print(int(input()) / 2)",
    "class Solution:\n    def longestPlateau(self, nums: List[int]) -> int:\n        return max((len(list(g)) for _, g in groupby(nums)), default=0)",
    "class Solution:\n    def windowEnds(self, s, k):\n        return tuple(s[i] + s[i + k - 1] for i in range(len(s) - k + 1))",
]


def test_livecodebench_fixtures(context):
    rows = fixture_rows("livecodebench")
    adapted = livecodebench(rows, spec("livecodebench"), context)
    assert adapted.left_out == {}
    assert [example.grader for example in adapted.examples] == ["code_stdio"] * 2 + ["code_functional"] * 2
    assert [len(e.gold.get("tests") or e.gold["calls"]) for e in adapted.examples] == [3, 3, 4, 3]
    assert adapted.examples[3].gold["calls"][1] == ["abc", 4]
    assert adapted.examples[2].breakdown == {"difficulty": "easy", "platform": "leetcode"}
    for row, example, solution in zip(rows, adapted.examples, SOLUTIONS, strict=True):
        content = example.messages[0]["content"]
        assert f"\n\nQuestion:\n{row['question_content']}\n\n" in content
        assert "class Solution" not in content
        assert content.startswith("You will be given a question (problem specification)")
        assert json.loads(json.dumps(example.gold)) == example.gold
        assert grade(example, solution).correct is True
        assert grade(example, "print(1)").correct is False


def test_a_method_may_have_the_name_of_an_import(context):
    row = {**fixture_rows("livecodebench")[2], "metadata": '{"func_name": "search"}', "private_test_cases": "[]"}
    (example,) = livecodebench([row], spec("livecodebench"), context).examples
    assert grade(example, "class Solution:\n    def search(self, nums):\n        return 2").correct is True


class Evil:
    def __reduce__(self):
        return (print, ("owned",))


def packed(data):
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    "text",
    [packed(pickle.dumps(Evil())), packed(b"no pickle"), packed(pickle.dumps({"a": 1})), "no base64!", base64.b64encode(b"no zlib").decode(),
     packed(pickle.dumps("no JSON")), packed(pickle.dumps(json.dumps([]))[:-3]), ""],
)  # fmt: skip
def test_hostile_or_broken_private_tests_are_left_out(text, context, capsys):
    row = {**fixture_rows("livecodebench")[0], "private_test_cases": text}
    adapted = livecodebench([row], spec("livecodebench"), context)
    assert adapted.left_out == {"its tests cannot be decoded": 1}
    assert capsys.readouterr().out == ""


def test_private_tests_come_back(monkeypatch):
    tests = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]
    assert private_tests(packed(pickle.dumps(json.dumps(tests)))) == tests
    assert private_tests(json.dumps(tests)) == tests
    monkeypatch.setattr("lit_uniopd.benchmarks.adapters.livecodebench.MAX_TESTS_BYTES", 10)
    with pytest.raises(ValueError, match="too long"):
        private_tests(packed(pickle.dumps(json.dumps(tests))))


def test_rows_without_tests_are_left_out(context):
    row = {**fixture_rows("livecodebench")[0], "public_test_cases": "[]", "private_test_cases": "[]"}
    adapted = livecodebench([row], spec("livecodebench"), context)
    assert (adapted.examples, adapted.left_out) == ([], {"it has no tests": 1})
