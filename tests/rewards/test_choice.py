"""Choice letters: what models write, and what they mean by it."""

import random
from collections import Counter

import pytest

from lit_uniopd.rewards import GRADERS
from lit_uniopd.rewards.choice import grade_choice

OPTIONS = {"A": "42 km", "B": "17 km", "C": "a red car", "D": "none of the above"}
READ = [
    ("B", "B"),
    ("B.", "B"),
    ("(B)", "B"),
    ("**B**", "B"),
    ("b", "B"),
    ("(b)", "B"),
    ("[B]", "B"),
    ("B)", "B"),
    ("\\boxed{B}", "B"),
    ("\\boxed{\\text{(B)}}", "B"),
    ("\\boxed{b}", "B"),
    ("\\boxed{\\textbf{B}}", "B"),
    ("<answer>C</answer>", "C"),
    ("<answer>A</answer> wait <answer>D</answer>", "D"),
    ("The answer is B.", "B"),
    ("The correct answer is (C).", "C"),
    ("Answer: D", "D"),
    ("answer: b", "B"),
    ("Answer: **(B)** 17 km", "B"),
    ("I think the answer is A because it is far.", "A"),
    ("Because the car is fast, A careful look shows nothing.", None),
    ("A careful look at the picture shows that I like it.", None),
    ("A car is shown. So D.", "D"),
    ("Therefore (B).", "B"),
    ("I would go with option C", "C"),
    ("Let me think. The answer is A. No wait, the answer is B.", "B"),
    ("The answer is not B.", None),
    ("The answer is not B but C.", "C"),
    ("A or B", None),
    ("The answer is A or B.", None),
    ("The answer is either A or B", None),
    ("17 km", "B"),
    ("It is 17 km.", "B"),
    ("a red car", "C"),
    ("42 km or 17 km", None),
    ("B. 17 km", "B"),
    ("B: 17 km", "B"),
    ("B\nBecause it is near.", "B"),
    ("(C) because", "C"),
    ("A. 42 km\nB. 17 km\nC. a red car\nD. none\nSo the answer is C.", "C"),
    ("A. 42 km\nB. 17 km\nC. a red car\nD. none of the above\n", None),
    ("答案是B", "B"),
    ("答案：Ｂ", "B"),
    ("故选C。", "C"),
    ("（Ｂ）", "B"),
    ('{"answer": "C"}', "C"),
    ('```json\n{"reason": "x", "answer": "D"}\n```', "D"),
    ("E", None),
    ("The answer is E.", None),
    ("", None),
    ("I", None),
    ("I don't know", None),
    ("<think>The answer is A</think>B", "B"),
    ("<think>The answer is A", None),
    ("The correct option is C: a red car", "C"),
    ("Option B is correct.", "B"),
    ("I choose D", "D"),
    ("We select (A).", "A"),
    ("\\[\\boxed{C}\\]", "C"),
    ("The final answer is $\\boxed{D}$.", "D"),
    ("The answer is:\n\nB", "B"),
    ("The answer is:\n\n**B. 17 km**", "B"),
    ("The answer is a red car.", "C"),
    ("Answer: A, C", "AC"),
    ("A, C", "AC"),
    ("AC", "AC"),
    ("A and C", "AC"),
    ("The answers are A and C.", "AC"),
    ("Looking at A, it is wrong. B is too. Final answer: D", "D"),
    ("Hence, the correct choice is option (D).", "D"),
    ("The best answer is B) 17 km", "B"),
    ("**Answer:** B", "B"),
    ("**Answer: B**", "B"),
    ("### Answer\nB", "B"),
    ("Answer\nB", "B"),
    ("Final Answer: \\(\\boxed{B}\\)", "B"),
    ("The answer is clearly B.", "B"),
    ("My answer is C, not B.", "C"),
    ("D is the answer.", "D"),
    ("so, B is right", "B"),
    ("The answer is 'B'", "B"),
    ("I pick a red car", "C"),
    ("c.", "C"),
    ("The answer is A.\n\nHowever, the answer could be B? No. The answer is A.", "A"),
    ("Thus, the answer should be B", "B"),
    ("It must be B.", "B"),
    ("The answer is A dog", None),
    ("A) 42 km", "A"),
    ("Both A and B are wrong, so C.", "C"),
    ("the correct answer is option\n\nC", "C"),
    ("The answer isn't A. The answer is C.", "C"),
    ("Answer is B (17 km)", "B"),
    ("I don't think the answer is B. The answer is D", "D"),
    ("I don't think the answer is B.", None),
    ("**Final Answer**: D", "D"),
    ("### D", "D"),
    ("- D", "D"),
    ("D is the answer.", "D"),
    ("After considering A, B, and C, I choose D", "D"),
    ("The answer is neither A nor B, it is C.", "C"),
    ("The answer is D.\n\nExplanation: A is wrong, B is wrong.", "D"),
]


@pytest.mark.parametrize(("response", "letters"), READ)
def test_the_letter_that_is_meant(response, letters):
    grade = GRADERS["choice"]("B", response, choices=OPTIONS)
    assert grade.extracted == letters
    assert grade.correct is (letters == "B")
    if letters is None:
        assert grade.reason in ("no_answer", "truncated")


@pytest.mark.parametrize("gold", ["B", "b", "(B)", "B.", " B ", "17 km", ["B"]])
def test_the_forms_of_one_gold_letter(gold):
    assert grade_choice(gold, "B", choices=OPTIONS).correct
    assert grade_choice(gold, "C", choices=OPTIONS).correct is False


@pytest.mark.parametrize("gold", ["A, C", "AC", "C,A", ["A", "C"], "A and C", "(A), (C)"])
@pytest.mark.parametrize(
    ("response", "right"),
    [("A, C", True), ("AC", True), ("C and A", True), (r"\boxed{A, C}", True), ("A", False), ("A, B, C", False)],
)
def test_sets_of_letters(gold, response, right):
    assert grade_choice(gold, response, choices=OPTIONS).correct is right


def test_letters_beyond_the_options_are_no_answers():
    assert grade_choice("A", "The answer is C", choices=["x", "y"]).extracted is None
    assert grade_choice("A", "The answer is C").extracted == "C"


@pytest.mark.parametrize("gold", [None, "", float("nan")])
def test_without_gold_there_is_no_verdict(gold):
    assert GRADERS["choice"](gold, "A").reason == "no_gold"


def test_a_gold_that_is_no_option_is_an_error_not_a_verdict():
    assert GRADERS["choice"]("Z", "A", choices=OPTIONS).reason == "error"


@pytest.mark.parametrize(
    "piece",
    ["A ", "answer is ", "(", "so ", "{", "the answer is not ", "A, ", r"\boxed{", '"answer": "', "A or ", "选"],
)
def test_hostile_text_takes_linear_time(piece):
    response = piece * (100_000 // len(piece))
    assert GRADERS["choice"]("B", response, choices=OPTIONS).correct is False


def test_the_sign_of_a_number_is_part_of_an_option():
    assert GRADERS["choice"]("B", r"\boxed{-4}", choices=["4", "-4"]).extracted == "B"
    assert GRADERS["choice"]("B", "The answer is 4.", choices=["4", "-4"]).extracted == "A"


NEIGHBOURS = [
    # the answer, then a new line
    ("Answer: A\nBecause it is far.", "A"),
    ("Answer: B\nBecause it is far.", "B"),
    ("ANSWER: I\nthink so", None),
    ("The answer is A\n\nExplanation: see above", "A"),
    ("#### C", "C"),
    ("Answer -> D", "D"),
    # plain statements
    ("It is B.", "B"),
    ("It's (C).", "C"),
    ("That is D", "D"),
    ("It is a dog.", None),
    ("I think B.", "B"),
    ("Probably A.", "A"),
    ("Choice: B", "B"),
    ("Conclusion: **A**", "A"),
    ("Selected option: D", "D"),
    ("My choice is C.", "C"),
    ("B because it is near", "B"),
    ("A because it is near", "A"),
    # a declared answer and later mentions
    ("The answer is B. Option A is wrong because it is far.", "B"),
    ("The answer is D. If we had chosen A, we would be late.", "D"),
    ("The answer is C. We choose A as the origin.", "C"),
    ("We choose point A on line BC. The answer is D.", "D"),
    ("The answer is D: statement A is true and statement B is true.", "D"),
    ("B is the correct answer. A is correct only if x > 0.", "B"),
    ("The answer is B, A is wrong.", "B"),
    ("The answer is C, while D contradicts the text.", "C"),
    ("The answer is B; point A lies on the circle.", "B"),
    ("Final answer: B. (Compare the triangle ABC.)", "B"),
    # hypotheses and other people's answers
    ("If the answer were A, x would be 3. So the answer is B.", "B"),
    ("If the answer is A, x is 3.", None),
    ("Suppose the answer is C. Then x = 3, a contradiction.", None),
    ("The answer would be A if x were 3.", None),
    ("A student said the answer is A.", None),
    ("One might think the answer is A. The answer is D.", "D"),
    ("The answer is D. One might think the answer is A.", "D"),
    ("If x = 2, the answer is B.", "B"),
    # rejected options and negations
    ("I choose A rather than B", "A"),
    ("I choose B rather than A", "B"),
    ("I pick C over D", "C"),
    ("I pick A over D", "A"),
    ("I would select B instead of A.", "B"),
    ("Hence, option B continues the pattern, unlike option A.", "B"),
    ("Hence, option A continues the pattern, unlike option B.", "A"),
    ("Option A is wrong. Option B is wrong.", None),
    ("Option A is wrong. Option B fits.", "B"),
    ("Option A shows a cat. Option B shows a dog.", None),
    ("The answer cannot be A.", None),
    ("The answer is not A, it is D.", "D"),
    ("B is not correct.", None),
    ("A is correct. Wait, no, D is correct.", "D"),
    ("A is correct and B is correct", None),
    # Chinese and Japanese
    ("不选A，选B", "B"),
    ("选B，不选A", "B"),
    ("答案不是A，而是C", "C"),
    ("答案：D", "D"),
    ("正确答案是A。", "A"),
    ("选项B正确", "B"),
    ("A不正确", None),
    ("排除A，故选C", "C"),
    ("应该选D而不是A", "D"),
    ("【答案】B", "B"),
    ("如果选A，则矛盾。所以选B。", "B"),
    ("正解：C", "C"),
    ("答えはAです", "A"),
    ("정답: B", "B"),
    # other European languages
    ("Antwort: C", "C"),
    ("Die richtige Antwort ist B.", "B"),
    ("Die Antwort ist nicht A, sondern B.", "B"),
    ("Ich wähle D", "D"),
    ("Respuesta: B", "B"),
    ("La respuesta correcta es la B.", "B"),
    ("La respuesta es A porque es lejos.", "A"),
    ("La respuesta no es A, sino C.", "C"),
    ("Réponse : D", "D"),
    ("La bonne réponse est B.", "B"),
    ("A resposta é C.", "C"),
    ("Risposta: A", "A"),
    ("Jawaban: B", "B"),
    ("Ответ: D", "D"),
    ("Đáp án là C", "C"),
    # JSON and boxes of models
    ('{"solution": "A is far", "short answer": "D"}', "D"),
    ('{"choice": "C"}', "C"),
    ("{'final_answer': 'A'}", "A"),
    ('{"answer": ["A", "C"]}', "AC"),
    ('{"answer": "17 km"}', "B"),
    ("<|begin_of_box|>B<|end_of_box|>", "B"),
    ("<CONCLUSION> C </CONCLUSION>", "C"),
    ("[[D]]", "D"),
    (r"\boxed{\text{Option B}}", "B"),
    (r"\boxed{\text{(C) a red car}}", "C"),
    (r"\boxed{\mathbf{D}}", "D"),
    ("<answer>Option A</answer>", "A"),
    ("<answer>The answer is B</answer>", "B"),
    ("<thinking>The answer is A?</thinking> B", "B"),
    ("<reflection>No: C.</reflection>The answer is D.", "D"),
    ("<thinking>The answer is A", None),
    # hedges
    ("The answer is 42 km or 17 km", None),
    ("<answer>A or B</answer>", None),
    (r"\boxed{A/B}", None),
    ("B or C, I am not sure", None),
]


@pytest.mark.parametrize(("response", "letters"), NEIGHBOURS)
def test_the_neighbours_of_what_once_was_misread(response, letters):
    assert GRADERS["choice"]("B", response, choices=OPTIONS).extracted == letters


FORMULAS = {"A": r"$\frac{1}{3}$", "B": r"$\frac{1}{2}$", "C": "1", "D": "2"}
SIGNS = {"A": "x + y", "B": "x - y", "C": "x * y", "D": "x / y"}
ROOTS = {"A": r"\(\sqrt{2}\)", "B": r"\(2\sqrt{2}\)", "C": r"\(-\sqrt{2}\)", "D": r"$2^{3}$"}
UNITS = {"A": "5 cm", "B": "5 m", "C": "−5 m", "D": "50%"}


@pytest.mark.parametrize(
    ("options", "response", "letter"),
    [
        (FORMULAS, r"\boxed{1/2}", "B"),
        (FORMULAS, r"\boxed{0.5}", "B"),
        (FORMULAS, "½", "B"),
        (FORMULAS, r"\boxed{\dfrac{1}{3}}", "A"),
        (FORMULAS, r"\boxed{2}", "D"),
        (FORMULAS, "The answer is 1/2.", "B"),
        (FORMULAS, r"The answer is $\frac{1}{3}$, since it fits.", "A"),
        (FORMULAS, "The answer is 1/2 or 1/3", None),
        (FORMULAS, "The answer is 2 because it fits.", "D"),
        (FORMULAS, r"\boxed{\frac{2}{1}}", "D"),
        (FORMULAS, r"\boxed{1/4}", None),
        (SIGNS, "x + y", "A"),
        (SIGNS, r"\boxed{x-y}", "B"),
        (SIGNS, r"\boxed{x \cdot y}", "C"),
        (SIGNS, "x × y", "C"),
        (SIGNS, r"\boxed{\frac{x}{y}}", "D"),
        (SIGNS, "The answer is x − y.", "B"),
        (SIGNS, r"\boxed{x + z}", None),
        (ROOTS, r"\boxed{\sqrt2}", "A"),
        (ROOTS, "√2", "A"),
        (ROOTS, "−√2", "C"),
        (ROOTS, r"\boxed{8}", "D"),
        (ROOTS, "2³", "D"),
        (UNITS, "5 cm", "A"),
        (UNITS, "5 m", "B"),
        (UNITS, r"\boxed{-5\text{ m}}", "C"),
        (UNITS, "-5", "C"),
        (UNITS, "5", None),
        (UNITS, "The result is 3 + 2 = 5 m", "B"),
        (UNITS, "5 km", None),
    ],
)
def test_options_are_compared_as_mathematics_where_they_are(options, response, letter):
    assert grade_choice("A", response, choices=options).extracted == letter


def test_an_option_that_names_a_letter_is_not_that_letter():
    points = {"A": "Point B", "B": "Point C", "C": "Point A"}
    assert grade_choice("C", "The answer is point A.", choices=points).extracted == "C"
    assert grade_choice("C", "The answer is A.", choices=points).extracted == "A"


PHRASINGS = [
    "{0}", "({0})", "{0}.", "**{0}**", "{0}) {text}", r"\boxed{{{0}}}", r"\boxed{{\text{{{0}}}}}", "<answer>{0}</answer>",
    "Answer: {0}", "Answer: {0}\nBecause it fits.", "The answer is {0}.", "The answer is {0} because it fits.",
    "The answer is {0}, not {1}.", "The correct option is {0}: {text}", "I choose {0} rather than {1}.", "I pick {0} over {1}",
    "It is {0}.", "It must be {0}.", "So {0}.", "Therefore, ({0}).", "{0} is the answer.", "Option {0} is correct.",
    "{0} is correct, {1} is not.", "{0}\nThe others do not fit.", "{0}, since {1} is far.", "Hence option {0}, unlike option {1}.",
    "The answer is not {1} but {0}.", "Not {1}. The answer is {0}", "If the answer were {1}, no. The answer is {0}.",
    "不选{1}，选{0}", "答案是{0}", "故选{0}。", "Respuesta: {0}", "La respuesta es {0} porque sí.", "Die Antwort ist {0}, weil es passt.",
    '{{"answer": "{0}"}}', "Both {1} and {2} are wrong, so {0}.", "The answer is {0}. {1} is too far.", "The answer is {0}, {1} is too far.",
    "The answer is {text}.", "{text}", "I'd say {0} here.", "Final Answer: {0}\nI hope it is correct.", "{0} fits; the answer is {0} again.",
]  # fmt: skip


def test_no_letter_is_favoured():
    """A corpus of phrasings, all letters, options shuffled: the accuracy of each letter, and who is chosen wrongly."""
    rng = random.Random(0)
    right: Counter[str] = Counter()
    for phrasing in PHRASINGS:
        for letter in "ABCDEFGHI":
            texts = ["42 km", "17 km", "a red car", "none of these", "a pear", "9 km", "a plum", "11 km", "a fig"]
            rng.shuffle(texts)
            choices = dict(zip("ABCDEFGHI", texts, strict=True))
            others = rng.sample([other for other in choices if other != letter], 2)
            response = phrasing.format(letter, *others, text=choices[letter])
            grade = grade_choice(letter, response, choices=choices)
            assert grade.correct, (letter, response, grade)
            right[letter] += 1
    assert set(right.values()) == {len(PHRASINGS)}


@pytest.mark.parametrize(
    ("response", "letters"),
    [
        ("B", "B"),
        ("(B) 17 km", "B"),
        ("17 km", "B"),
        (r"so \boxed{B}", "B"),
        ("x <answer>B</answer>", "B"),
        ("Option B", "B"),
        ("So the answer must be B.", None),
        ("B, because", None),
        ("I think B", None),
        ("A or B", None),
    ],
)
def test_the_protocol_reads_no_prose(response, letters):
    assert grade_choice("B", response, choices=OPTIONS, extraction="protocol").extracted == letters


ORDER = {"A": "It rises", "B": "It falls", "C": "It stays", "D": "It rises and falls"}


@pytest.mark.parametrize(
    ("response", "chosen"),
    [
        # a letter that is set apart contradicts an option's text
        ("It stays for a while, so that we have **B**", None),
        ("It stays: (A)", None),
        ("It stays, **certainly**.", "C"),
        # the answer of another case
        ("For gases the answer would be A; here it is C.", None),
        ("The answer would be A.", "A"),
        ("I think the answer would be A, and it is A.", "A"),
        # a verdict on a statement, and what follows from it
        ("A is true for most of them, but not here, so D.", "D"),
        ("C is correct.", "C"),
        ("C is correct, so C.", "C"),
        # options that are gone through
        ("Let's look at each option:\nA) It rises: this would mean", None),
        ("Let's take every option in turn:\nB) It falls", None),
        ("I chose this option: A", "A"),
        ("My choice: A", "A"),
    ],
)
def test_what_is_only_spoken_about_is_not_chosen(response, chosen):
    assert grade_choice("A", response, choices=ORDER).extracted == chosen
