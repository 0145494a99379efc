import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lit_uniopd.rewards import GradeItem, GraderPool, math_equality, mathematics
from lit_uniopd.rewards.boxes import is_written_out

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


@pytest.mark.parametrize("extraction", ["protocol", "boxed", "robust"])
def test_official_numbers(math, extraction):
    cases = json.loads(GOLDEN.read_text())["math_gopd_last_boxed_math_verify"]
    assert len(cases) == 8
    scores = [math(case["label"], case["response"], extraction=extraction).score for case in cases]
    assert scores == [case["score"] for case in cases]


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

    monkeypatch.setattr(math_equality, "math_verify", lambda **_: (lambda text: [text], stale))
    with pytest.raises(RuntimeError, match=r"install antlr4-python3-runtime==4\.13\.2"):
        mathematics.check_math_verify()


@pytest.mark.parametrize("answer", [r"10\,000", r"10{,}000", "10,000", "10~000", r"10\!000", r"1\,0\,000"])
def test_thousands_may_be_set_apart(math, answer):
    grade = math("10000", rf"\boxed{{{answer}}}")
    assert grade.correct is (answer != r"1\,0\,000")


NEIGHBOURS = [
    # several boxes for several solutions
    ("3, 7", r"The solutions are \boxed{3} and \boxed{7}.", True),
    ("3, 7", r"$x=\boxed{7}$ or $x=\boxed{3}$", True),
    ("3, 7", r"\boxed{3}, \boxed{7}", True),
    ("1, 2, 3", r"\boxed{1}, \boxed{2}, and \boxed{3}", True),
    ("(2, 2), (6, 2)", r"$\boxed{(2, 2)} \quad \text{and} \quad \boxed{(6, 2)}$", True),
    ("(2, 2), (6, 2)", r"$\boxed{(2, 2)} \quad \text{and} \quad \boxed{(6, 3)}$", False),
    ("3, 7", r"\[ \boxed{3}\,,\; \mbox{or }\boxed{7} \]", True),
    ("7", r"\boxed{3}. So far for the draft; \quad \boxed{7}", True),
    (r"The roots are \boxed{1} and \boxed{-2}.", r"\boxed{-2, 1}", True),  # of a written-out gold solution too
    (r"The roots are \boxed{1} and \boxed{-2}.", r"\boxed{-2}", False),
    ("1/3", r"\boxed{\frac{1}{3} \textbf{ meters}}", True),
    ("125 miles", r"\boxed{125\textnormal{ miles}}", True),
    ("125 miles", r"\boxed{125\textit{ km}}", False),
    ("3, 7", r"\boxed{3} and \boxed{8}", False),
    ("3, 7", r"\boxed{7}", False),
    ("7", r"The solutions are \boxed{3} and \boxed{7}.", False),
    ("7", r"\boxed{3} or \boxed{7}", False),
    ("7", r"\boxed{7}, that is, $x = \boxed{7}$", True),
    ("7", r"A draft: \boxed{3}. Correction: \boxed{7}", True),
    ("3000204", r"\boxed{3}, \boxed{204}", False),
    # boxes without braces, in code, of models, empty
    ("7", r"\boxed7", True),
    ("7", r"$\boxed7$.", True),
    ("7", r"\boxed 7", True),
    ("1", r"\boxed 12", False),
    ("B", r"\boxed B", True),
    (r"\pi", r"\boxed\pi", True),
    ("7", "The answer is \\boxed{7}.\n```python\nprint('\\\\boxed{8}')\n```", True),
    ("8", "The answer is \\boxed{7}.\n```python\nprint('\\\\boxed{8}')\n```", False),
    ("7", "```latex\n\\boxed{8}\n```\nso \\boxed{7}", True),
    ("7", "<|begin_of_box|>7<|end_of_box|>", True),
    ("7", r"<thinking>\boxed{8}</thinking>\boxed{7}", True),
    ("7", r"\boxed{7} then \boxed{}", False),
    # scripts, dashes, full stops, emphasis
    ("42", r"\boxed{４２}", True),
    ("42", r"\boxed{٤٢}", True),
    ("42", r"\boxed{４３}", False),
    ("-5", r"\boxed{–5}", True),
    ("-5", r"\boxed{－５}", True),
    ("5", r"\boxed{–5}", False),
    ("42", r"\boxed{42。}", True),
    ("42", r"\boxed{42．}", True),
    ("42", r"\boxed{42,}", True),
    ("12", r"\boxed{**12**}", True),
    ("12", r"\boxed{\textbf{12}}", True),
    ("x^2", r"\boxed{x²}", True),
    ("x_2", r"\boxed{x²}", False),
    (r"\frac{1}{2}", r"\boxed{½}", True),
    (r"\sqrt{2}", r"\boxed{√2}", True),
    # repeating decimals
    (r"\frac{1}{3}", r"\boxed{0.\overline{3}}", True),
    (r"\frac{1}{3}", r"\boxed{0.(3)}", True),
    (r"\frac{1}{3}", r"\boxed{0.\dot{3}}", True),
    (r"\frac{1}{3}", r"\boxed{0.333\ldots}", True),
    (r"\frac{1}{7}", r"\boxed{0.\overline{142857}}", True),
    (r"0.\overline{3}", r"\boxed{\frac{1}{3}}", True),
    (r"\frac{1}{6}", r"\boxed{0.\overline{16}}", False),
    ("1", r"\boxed{0.\overline{9}}", True),
    # exact numbers
    (r"1-\frac{1}{2^{60}}", r"\boxed{1-\frac{1}{2^{61}}}", False),
    (r"1-\frac{1}{2^{60}}", r"\boxed{1-2^{-60}}", True),
    (r"\frac{20!}{40!}", r"\boxed{\frac{21!}{40!}}", False),
    (r"\frac{20!}{40!}", r"\boxed{20!/40!}", True),
    ("2^{100}", r"\boxed{2^{100}+1}", False),
    ("2^{100}", r"\boxed{4^{50}}", True),
    (r"\sqrt{2}+10^{-30}", r"\boxed{\sqrt{2}}", False),
    (r"\binom{60}{30}", r"\boxed{\binom{60}{29}}", False),
    ("x+10^{-20}", r"\boxed{x}", False),
    (r"10^{-8}", r"\boxed{0.00000002}", False),
    ("0", r"\boxed{0.0000001}", False),
    (r"e^{-50}", r"\boxed{e^{-51}}", False),
    (r"\{1, 10^{-20}\}", r"\boxed{\{1, 2 \cdot 10^{-20}\}}", False),
    # bases
    ("1011_2", r"\boxed{1011_3}", False),
    ("1011_2", r"\boxed{1011_{2}}", True),
    ("1011_2", r"\boxed{1011_{\text{two}}}", True),
    ("1011_2", r"\boxed{1011}", True),
    ("1011_2", r"\boxed{1101_2}", False),
    ("1011_2", r"\boxed{11_{10}}", True),
    ("2A_{16}", r"\boxed{2a_{16}}", True),
    # units and what only looks like them
    ("27", r"\boxed{27 dollars}", True),
    ("27", r"\boxed{\$27}", True),
    ("40", r"\boxed{40 km/h}", True),
    ("40", r"\boxed{40 \text{ km/h}}", True),
    ("40", r"\boxed{40\ \mathrm{km\,h^{-1}}}", True),
    ("25", r"\boxed{25 \text{ cm}^2}", True),
    ("25", r"\boxed{25\text{ square units}}", True),
    ("12", r"\boxed{12 apples}", True),
    (r"5\text{ cm}", r"\boxed{5 cm}", True),
    (r"5\text{ cm}", r"\boxed{5}", True),
    (r"5\text{ cm}", r"\boxed{5\text{ m}}", False),
    (r"5\text{ cm}", r"\boxed{5\text{ cm}^2}", False),
    ("5 meters", r"\boxed{5 \text{ m}}", True),
    ("3", r"\boxed{3t}", False),
    ("3t", r"\boxed{3}", False),
    ("2m", r"\boxed{2}", False),
    ("5", r"\boxed{5 m}", False),
    ("5", r"\boxed{5 m c}", False),
    ("5 m", r"\boxed{5}", False),
    ("5 m", r"\boxed{5\text{ meters}}", True),
    ("5", r"\boxed{5 \text{ m}}", True),
    ("x+2c", r"\boxed{x+2}", False),
    (r"\frac{1}{2}s", r"\boxed{\frac{1}{2}}", False),
    (r"3\sqrt{2}", r"\boxed{3\sqrt{2}\text{ cm}}", True),
    (r"4\pi", r"\boxed{4\pi \text{ cm}^2}", True),
    # inequations, intervals, the empty set
    (r"b \neq a", r"\boxed{a \ne b}", True),
    (r"b \neq a", r"\boxed{b \neq c}", False),
    (r"b \neq a", r"\boxed{b = a}", False),
    (r"x \neq 3", r"\boxed{x≠3}", True),
    (r"x \neq 3", r"\boxed{(-\infty,3)\cup(3,\infty)}", True),
    (r"x \neq 3", r"\boxed{\mathbb{R} \setminus \{3\}}", True),
    (r"x \neq 3", r"\boxed{x = 3}", False),
    (r"x \neq 3", r"\boxed{3}", False),
    (r"m \in [\sqrt{2}, +\infty)", r"\boxed{m \geq \sqrt{2}}", True),
    (r"m \geq \sqrt{2}", r"\boxed{m \in [\sqrt{2}, \infty)}", True),
    (r"[2, \infty)", r"\boxed{x \ge 2}", True),
    (r"[2, \infty)", r"\boxed{x > 2}", False),
    (r"(2, \infty)", r"\boxed{x < 2}", False),
    (r"(-1, 3]", r"\boxed{-1 < x \le 3}", True),
    (r"(-1, 3]", r"\boxed{-1 \le x < 3}", False),
    (r"\emptyset", r"\boxed{\varnothing}", True),
    (r"\emptyset", r"\boxed{∅}", True),
    (r"\emptyset", r"\boxed{\text{no solution}}", True),
    (r"\emptyset", r"\boxed{0}", False),
    ("(1,2)", r"\boxed{\{1,2\}}", False),
    (r"\{1,2\}", r"\boxed{(1,2)}", False),
    # clock times and ratios
    ("3:30", r"\boxed{3:30}", True),
    ("3:30", r"\boxed{03:30}", True),
    ("3:30", r"\boxed{3:03}", False),
    ("3:30", r"\boxed{3:30 \text{ p.m.}}", True),
    ("15:30", r"\boxed{3:30 PM}", True),
    (r"3:30\text{ p.m.}", r"\boxed{3:30 a.m.}", False),
    ("2:3", r"\boxed{4:6}", True),
    ("2:3", r"\boxed{3:2}", False),
    # words
    ("CAB", r"\boxed{ABC}", False),
    ("Monday", r"\boxed{\text{monday}}", True),
    ("triangle", r"\boxed{integral}", False),
    (r"\text{silent}", r"\boxed{\text{listen}}", False),
    ("even", r"\boxed{odd}", False),
    ("偶数", r"\boxed{奇数}", False),
    ("xy", r"\boxed{yx}", True),
    # numbers set apart
    ("1000", r"\boxed{1 000}", True),
    ("1000", r"\boxed{1\,000}", True),
    ("1000.99", r"\boxed{1000,99}", True),
    ("2.5", r"\boxed{2\frac{1}{2}}", True),
    ("2", r"\boxed{2\pi}", False),
]


@pytest.mark.parametrize(("gold", "response", "right"), NEIGHBOURS)
def test_the_neighbours_of_what_once_was_misjudged(math, gold, response, right):
    assert math(gold, response).correct is right


@pytest.mark.parametrize(
    ("gold", "response", "protocol", "boxed", "robust"),
    [
        ("12", r"so \boxed{12}", True, True, True),
        ("12", "The final answer is 12.", False, False, True),
        ("12", "The final answer is $12$. I hope it is correct.", False, False, True),
        ("12", "#### 12", False, False, True),
        ("12", "**Answer:** 12", False, False, True),
        ("12", "答案是12。", False, False, True),
        (r"\frac{1}{2}", r"Answer: $\frac{1}{2}$", False, False, True),
        ("12", "12", False, False, True),
        ("12", "The answer is not 12.", False, False, False),
        ("12", "If the answer is 12, we are lost.", False, False, False),
        ("12", r"The answer is 12, no: \boxed{13}", False, False, False),
        ("12", "We see 12 apples.", False, False, False),
        ("3, 7", r"\boxed{3} and \boxed{7}", False, True, True),
        ("7", r"\boxed{3} and \boxed{7}", True, False, False),
        ("7", r"\boxed7", False, True, True),
        ("3", r"\boxed{3t}", True, False, False),
        ("42", r"\boxed{４２}", False, True, True),
    ],
)
def test_the_modes_of_extraction(math, gold, response, protocol, boxed, robust):
    grades = {mode: math(gold, response, extraction=mode).correct for mode in ("protocol", "boxed", "robust")}
    assert grades == {"protocol": protocol, "boxed": boxed, "robust": robust}


def test_an_answer_tag_is_read_where_it_is_asked_for(math):
    assert math("12", "<answer>**12**</answer>", tags=True).correct
    assert math("12", "<answer>The answer is 12.</answer>", tags=True).correct
    assert math("12", r"<answer>so \boxed{12}</answer>", tags=True).correct
    assert math("12", "<answer>12</answer>").reason == "no_answer"
    assert math("12", "x", extraction="lenient").reason == "error"


def test_options_are_compared_as_mathematics(math):
    choices = {"A": "2", "B": "-2", "C": "1", "D": r"$\frac{1}{2}$"}
    assert math("B", r"\boxed{−2}", choices=choices).correct
    assert math("B", r"\boxed{2}", choices=choices).correct is False
    assert math("D", r"\boxed{0.5}", choices=choices).correct


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [
        ("3:30", r"\boxed{0.1}", False),  # a time is no quotient
        ("3:30", r"\boxed{\frac{1}{10}}", False),
        ("12:00:00", r"\boxed{1}", False),
        ("3:30", r"\boxed{03:30}", True),
        ("3:4", r"\boxed{\frac{3}{4}}", True),  # a ratio is
        (r"\frac{1}{2}", r"\boxed{0,5}", True),
        (r"\frac{5}{4}", r"\boxed{1,25}", True),
        ("5", r"\boxed{5,0}", False),  # may be a list
        (r"\frac{1}{2}", r"\boxed{0, 5}", False),
        ("4", r"[THINK]\boxed{4}[/THINK] \boxed{5}", False),
        ("4", r"<|channel|>analysis<|message|>\boxed{5}<|end|><|channel|>final<|message|>\boxed{4}", True),
    ],
)
def test_times_decimal_commas_and_reasoning(math, gold, response, right):
    assert math(gold, response).correct is right


def test_a_process_that_is_warm_has_read_every_form():
    """Each form must be one that is compared, not one that fails before it warms anything."""
    mathematics.warm_up()


GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nSo 48+24 = <<48+24=72>>72 clips altogether.\n#### "


@pytest.mark.parametrize("extraction", ["protocol", "boxed", "robust", "qwen_math"])
def test_a_gold_solution_of_gsm8k_is_its_number_behind_the_marks(math, extraction):
    for gold, answer, right in (
        (GSM8K + "72", "72", True),
        (GSM8K + "72", "24", False),
        (GSM8K + "1,072", "1072", True),
        (GSM8K + "-3 ", "-3", True),
        ("#### 5", "5", True),
        (GSM8K + r"\boxed{7}", "7", True),
    ):
        response = rf"So it is \boxed{{{answer}}}."
        assert math(gold, response, extraction=extraction).correct is right, (gold, answer)


@pytest.mark.parametrize(
    ("gold", "written_out"),
    [
        (GSM8K + "72", False),
        (GSM8K + "72\nso", True),
        ("First we add.\nThen we have 5.", True),
        ("word " * 80, True),
        (r"We have\n \boxed{5}", False),
        ("\\begin{pmatrix} 1 \\\\\n 2 \\end{pmatrix}", False),
        ("x = 5\n", False),
        (r"\frac{1}{2}", False),
    ],
)
def test_a_solution_that_does_not_say_where_its_answer_is_is_told_from_an_answer(gold, written_out):
    assert is_written_out(gold) is written_out
