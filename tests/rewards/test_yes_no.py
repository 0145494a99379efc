"""Yes, no, and neither."""

import pytest

from lit_uniopd.rewards import GRADERS


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("Yes, there is no doubt.", "yes"),
        ("No, there isn't. Yes, I am sure.", "no"),
        ("There is not a dog in the image.", "no"),
        ("I don't see one", "no"),
        ("<answer>No</answer>", "no"),
        ("yes <answer>no</answer>", "no"),
        (r"So \boxed{Yes}", "yes"),
        ("True", "yes"),
        ("<think>no</think>Yes", "yes"),
        ("yes or no", None),
        ("Yes/No", None),
        ("maybe", None),
        ("yesterday nobody noticed", None),
        ("", None),
    ],
)
def test_what_is_meant(response, expected):
    for gold in ("yes", "no"):
        grade = GRADERS["yes_no"](gold, response)
        assert grade.extracted == expected
        assert grade.correct is (expected == gold)


@pytest.mark.parametrize("gold", ["Yes", "yes.", True, 1, "1", "TRUE"])
def test_forms_of_a_gold_yes(gold):
    assert GRADERS["yes_no"](gold, "yes").correct
    assert GRADERS["yes_no"](gold, "no").correct is False


def test_other_golds():
    assert GRADERS["yes_no"]("perhaps", "yes").reason == "error"
    assert GRADERS["yes_no"](None, "yes").reason == "no_gold"


NEIGHBOURS = [
    # conclusions and declared answers
    ("Let me check whether there is no dog... There is a dog. So the answer is yes.", "yes"),
    ("There are no cats, but the answer is yes.", "yes"),
    ("There are no cats. Therefore, no.", "no"),
    ("No dog is visible at first. Answer: Yes", "yes"),
    ("The answer is no, there is only a cat.", "no"),
    ("The answer is **No**.", "no"),
    ("The correct answer is: yes", "yes"),
    ("The answer is not yes.", "no"),
    ("I would not say the answer is yes. The answer is no.", "no"),
    ("If the answer is yes, there must be a dog. There is none, so no.", "no"),
    ("Final answer: True", "yes"),
    ('{"reason": "no dog", "answer": "yes"}', "yes"),
    ("So, yes.", "yes"),
    ("Yes. The answer is yes, no doubt.", "yes"),
    ("<|begin_of_box|>No<|end_of_box|>", "no"),
    ("<thinking>no?</thinking>Yes", "yes"),
    ("**Yes**, it is.", "yes"),
    # negations without the words
    ("I cannot see any dog", "no"),
    ("I can't see any dog.", "no"),
    ("There isn’t a dog.", "no"),
    ("None of the animals is a dog.", "no"),
    ("The image is without any dog.", "no"),
    ("Neither of them is a dog", "no"),
    ("There is nothing on the table.", "no"),
    ("I am unable to see a dog.", "no"),
    ("The dog is absent.", "no"),
    # negations that negate nothing, and not knowing
    ("There is a dog, no doubt.", None),
    ("I cannot deny that there is a dog.", None),
    ("I am not sure.", None),
    ("I don't know", None),
    ("It cannot be determined from the picture.", None),
    ("There is a dog.", None),
    # hedges
    ("Yes and no.", None),
    ("The answer is yes or no.", None),
    ("<answer>Yes or no</answer>", None),
    # other languages
    ("Nein, da ist kein Hund.", "no"),
    ("Sí, hay un perro.", "yes"),
    ("Non.", "no"),
    ("Oui", "yes"),
    ("La respuesta es sí.", "yes"),
    ("Es ist kein Hund zu sehen.", "no"),
    ("是的", "yes"),
    ("没有", "no"),
    ("答案：否", "no"),
    ("いいえ", "no"),
    ("네", "yes"),
    ("Да.", "yes"),
]


@pytest.mark.parametrize(("response", "expected"), NEIGHBOURS)
def test_conclusions_and_negations(response, expected):
    assert GRADERS["yes_no"]("yes", response).extracted == expected


@pytest.mark.parametrize(
    ("response", "protocol", "robust"),
    [
        ("Yes", "yes", "yes"),
        ("No, it is not", "no", "no"),
        ("There is not a dog", "no", "no"),
        ("There is a dog", "yes", None),
        ("I cannot see any dog", "yes", "no"),
        ("maybe", "yes", None),
        ("There is a dog. No doubt.", "yes", None),
        ("There are no cats, but the answer is yes.", "no", "yes"),
    ],
)
def test_the_protocol_is_the_rule_of_pope(response, protocol, robust):
    assert GRADERS["yes_no"]("yes", response, extraction="protocol").extracted == protocol
    assert GRADERS["yes_no"]("yes", response, extraction="robust").extracted == robust


def test_exact_reads_one_word():
    assert GRADERS["yes_no"]("yes", "Yes", exact=True).correct
    assert GRADERS["yes_no"]("yes", "Yes.", exact=True).reason == "no_answer"


@pytest.mark.parametrize("piece", ["no ", "the answer is ", "yes or ", "so ", "if ", "not ", "\\boxed{", "是"])
def test_hostile_text_takes_linear_time(piece):
    assert GRADERS["yes_no"]("yes", piece * (100_000 // len(piece))).correct is not None


@pytest.mark.parametrize(
    ("response", "decision"),
    [
        ("No problem! Yes, there is one.", "yes"),
        ("No worries: no.", "no"),
        ("No other colour fits: it is red.", None),
        ("The image shows a cat. Yes, a cat is there, but no dog.", None),
        ("A cat is there. Yes, it is.", "yes"),
        ("I can't say that it isn't red; yes.", "yes"),
        ("The picture does not show enough to say yes.", None),
        ("There is not enough to tell.", None),
        ("Yes would be wrong here: no.", None),
        ("'No' is wrong.", None),
        ("Yes is right.", "yes"),
        ("<|channel|>analysis<|message|>No?<|end|><|start|>assistant<|channel|>final<|message|>Yes.", "yes"),
    ],
)
def test_courtesies_and_words_that_are_only_spoken_about(response, decision):
    assert GRADERS["yes_no"]("yes", response).extracted == decision
