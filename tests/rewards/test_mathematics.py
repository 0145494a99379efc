import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lit_uniopd.rewards import GradeItem, GraderPool, mathematics

GOLDEN = Path(__file__).parents[1] / "golden" / "uni_opd_graders.json"


@pytest.fixture(scope="module")
def math():
    with GraderPool(workers=1, time_limit=60) as pool:
        yield lambda gold, response, **options: pool.grade([GradeItem("math", gold, response, options=options)])[0]


RIGHT = [
    ("12", r"so \boxed{12}"),
    ("12", r"\boxed{ 12 }"),
    ("12", r"\boxed {12}"),  # TeX allows the blank
    ("12", r"\fbox{12}"),
    ("12", r"\[ \boxed{12} \]"),
    ("12", r"\boxed{12.}"),  # a sentence's full stop
    ("12", r"\boxed{12}. I put it into \boxed."),  # a mention is not a box
    ("4", r"\boxed{3}, no: \boxed{4}"),  # the last box
    ("5", r"\boxed{\boxed{5}}"),
    ("025", r"\boxed{25}"),  # AIME golds have leading zeros
    ("25", r"\boxed{025}"),
    ("25", r"\boxed{25.0}"),
    ("25", r"\boxed{+25}"),
    ("1000", r"\boxed{1,000}"),
    ("1{,}000", r"\boxed{1000}"),
    (r"\frac{1}{2}", r"\boxed{1/2}"),
    (r"\frac{1}{2}", r"\boxed{0.5}"),
    (r"\frac{1}{2}", r"\boxed{\dfrac{2}{4}}"),
    (r"-\frac{1}{2}", r"\boxed{\frac{-1}{2}}"),
    (r"2\frac{1}{2}", r"\boxed{\frac{5}{2}}"),
    (r"\frac{\sqrt{2}}{2}", r"\boxed{\frac{1}{\sqrt{2}}}"),
    (r"3\pi", r"\boxed{\pi \cdot 3}"),
    ("π", r"\boxed{\pi}"),  # unicode
    ("−5", r"\boxed{-5}"),  # the minus sign U+2212
    (r"x^2-1", r"\boxed{(x-1)(x+1)}"),
    (r"y=2x+1", r"\boxed{2x+1}"),
    ("7", r"\boxed{x=7}"),
    ("120", r"\boxed{5!}"),
    ("10", r"\boxed{\binom{5}{2}}"),
    (r"\ln 4", r"\boxed{2\ln 2}"),
    ("3+4i", r"\boxed{4i+3}"),
    (r"108^\circ", r"\boxed{108}"),
    ("5", r"\boxed{5\text{ cm}}"),
    ("5", r"\boxed{\$5}"),
    ("50", r"\boxed{50\%}"),  # a percentage is read both ways
    ("0.5", r"\boxed{50\%}"),
    (r"50\%", r"\boxed{\frac12}"),
    ("50%", r"\boxed{50}"),
    ("1/576", r"\boxed{0.001736}"),  # equal after rounding to 6 places
    (r"\{1,2\}", r"\boxed{\{2,1\}}"),
    ("3, 5", r"\boxed{5, 3}"),
    ("3, 5", r"\boxed{3 \text{ or } 5}"),  # the gold answer has both
    (r"\pm 2", r"\boxed{-2, 2}"),
    ("(1,2)", r"\boxed{(1, 2)}"),
    ("(1,2,3)", r"\boxed{\left(1,2,3\right)}"),
    ("[0,1)", r"\boxed{[0, 1)}"),
    (r"0 \le x < 1", r"\boxed{[0,1)}"),
    (r"(-\infty,1)\cup(3,\infty)", r"\boxed{(-\infty, 1) \cup (3, \infty)}"),
    (r"\emptyset", r"\boxed{\{\}}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}"),
    ("Yes", r"\boxed{\text{yes}}"),
    ("no solution", r"\boxed{\text{No solution}}"),
    ("B", r"\boxed{\text{(B)}}"),
    ("偶数", r"\boxed{偶数}"),  # what no grammar reads is compared as text
    ("101_2", r"\boxed{101_2}"),
    (r"\boxed{7}", r"\boxed{7}"),  # boxed gold
    (r"First \boxed{3}, finally $\boxed{7}$.", r"\boxed{7}"),  # a written-out gold solution
    (r"$\frac{1}{2}$", r"\boxed{$0.5$}"),
    ("5", r"<think>maybe \boxed{3}</think> \boxed{5}"),
    ("5", r"thoughts of a template-opened block \boxed{3} </think> \boxed{5}"),
    ("5", r"<think>a</think> \boxed{3} <think>b</think> \boxed{5}"),
    (12, r"\boxed{12}"),
    (0.5, r"\boxed{\frac12}"),
    (25.0, r"\boxed{25}"),
    (1e-3, r"\boxed{0.001}"),
    (Fraction(1, 3), r"\boxed{\frac13}"),
    (Decimal("2.50"), r"\boxed{5/2}"),
    (np.int64(7), r"\boxed{7}"),
    (np.float32(0.25), r"\boxed{1/4}"),
]

WRONG = [
    ("12", r"\boxed{13}"),
    ("3", r"\boxed{3}, no: \boxed{4}"),  # not the first box
    ("3204", r"\boxed{3} and \boxed{204}"),  # two boxes are not one number
    ("204205", r"\boxed{204} \boxed{205}"),
    ("204", r"\boxed{204 or 205}"),  # hedges
    ("205", r"\boxed{204 or 205}"),
    ("204", r"\boxed{203, 204, 205}"),
    ("205", r"\boxed{204 \lor 205}"),
    ("204", r"\boxed{204 \lor 205}"),
    ("205", r"\boxed{204 (or 205)}"),
    ("205", r"\boxed{204 \Rightarrow 205}"),
    ("205", r"\boxed{204 \\ 205}"),
    ("205", r"\boxed{204 \& 205}"),
    ("204", r"\boxed{x = 203 \text{ or } x = 204}"),
    ("204", r"\boxed{x \in \{203, 204\}}"),
    ("204", r"\boxed{\pm 204}"),
    ("204", r"\boxed{\ge 204}"),
    ("2x", r"\boxed{3x; 2x}"),
    ("B", r"\boxed{A, B}"),
    ("Yes", r"\boxed{\text{Yes or No}}"),
    ("Yes", r"\boxed{\text{No}}"),
    ("Monday", r"\boxed{Tuesday}"),
    ("(1,2)", r"\boxed{(2,1)}"),
    ("(1,2)", r"\boxed{[1,2]}"),
    (r"\{1,2\}", r"\boxed{\{1,2,3\}}"),
    (r"\frac{1}{3}", r"\boxed{0.333}"),  # too coarse
    ("10000000000000000000000", r"\boxed{10000000000000000000001}"),
    ("x^2-1", r"\boxed{x^2+1}"),
    ("50", r"\boxed{0.5}"),  # only a percent sign excuses the factor
]

NO_ANSWER = [
    ("12", "The answer is 12."),
    ("12", ""),
    ("12", r"\boxed{}"),
    ("12", r"\boxed{  }"),
    ("12", r"\boxed{12"),
    ("12", r"\boxed{12} then \boxed{13"),  # the earlier box may be a draft
    ("12", r"\boxed 12"),
    (r"\{1\}", r"\boxed{\{1\}"),  # an escaped brace closes nothing
    ("12", r"<think>\boxed{12}</think> done"),
    ("12", r"\boxed{12}</think>"),
]


@pytest.mark.parametrize(("gold", "response"), RIGHT)
def test_right(math, gold, response):
    grade = math(gold, response)
    assert (grade.correct, grade.score, grade.reason, grade.outcome) == (True, 1.0, "ok", 1)


@pytest.mark.parametrize(("gold", "response"), WRONG)
def test_wrong(math, gold, response):
    grade = math(gold, response)
    assert (grade.correct, grade.score, grade.reason, grade.outcome) == (False, 0.0, "wrong", 0)


@pytest.mark.parametrize(("gold", "response"), NO_ANSWER)
def test_no_answer(math, gold, response):
    grade = math(gold, response)
    assert (grade.correct, grade.extracted, grade.reason) == (False, None, "no_answer")


@pytest.mark.parametrize(
    "response", [r"<think>\boxed{12}", r"\boxed{12} <think>hm", r"<think>a</think><think>\boxed{12}"]
)
def test_unclosed_thinking_is_truncated(math, response):
    grade = math("12", response)
    assert (grade.correct, grade.extracted, grade.reason) == (False, None, "truncated")


@pytest.mark.parametrize("gold", [None, "", " \n", float("nan"), np.float32("nan"), Decimal("NaN")])
def test_no_gold(math, gold):
    grade = math(gold, r"\boxed{12}")
    assert (grade.correct, grade.reason, grade.outcome) == (None, "no_gold", -1)


def test_official_numbers(math):
    cases = json.loads(GOLDEN.read_text())["math_gopd_last_boxed_math_verify"]
    assert len(cases) == 8
    assert [math(case["label"], case["response"]).score for case in cases] == [case["score"] for case in cases]


def test_boxed_text_is_cut(math):
    assert math("7", r"\boxed{7" + " " * 400 + "+1}").extracted == "7" + " " * 299
    assert math("7", r"\boxed{7+1}", max_chars=1).correct is True
    assert math("8", r"\boxed{7+1}", max_chars=1).correct is False


def test_digits_set_the_tolerance(math):
    assert math("0.3333", r"\boxed{0.3331}", digits=3).correct is True
    assert math("0.3333", r"\boxed{0.3331}", digits=4).correct is False


def test_extracted_is_what_the_box_held(math):
    assert math("1", r"\boxed{\frac{1}{2}.}").extracted == r"\frac{1}{2}"


def test_the_canary_names_the_remedy(monkeypatch):
    def stale(gold, target, **_):
        return gold == target or "%" not in gold[0] + target[0]

    monkeypatch.setattr(mathematics, "_math_verify", lambda: (lambda text: [text], stale))
    with pytest.raises(RuntimeError, match=r"install antlr4-python3-runtime==4\.13\.2"):
        mathematics.check_math_verify()


@pytest.mark.parametrize("answer", [r"10\,000", r"10{,}000", "10,000", "10~000", r"10\!000", r"1\,0\,000"])
def test_thousands_may_be_set_apart(math, answer):
    grade = math("10000", rf"\boxed{{{answer}}}")
    assert grade.correct is (answer != r"1\,0\,000")
