"""Every instruction: a response that follows it and one that does not."""

import pytest

from lit_uniopd.rewards import GRADERS
from lit_uniopd.rewards.ifeval import loose_readings
from lit_uniopd.rewards.ifeval.checks import CHECKS, follows, sentences
from lit_uniopd.rewards.ifeval.language import language_of

CASES = [
    ("keywords:existence", {"keywords": ["moon", "sun"]}, "The Moon and the sun.", "The moon."),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "at least"}, "Cat, cat!", "A cat."),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "less than"}, "A cat.", "Cat, cat!"),
    ("keywords:forbidden_words", {"forbidden_words": ["art"]}, "A party.", "This is Art."),
    ("keywords:letter_frequency", {"letter": "z", "let_frequency": 2, "let_relation": "at least"}, "Zigzag", "zoo"),
    ("language:response_language", {"language": "de"}, "Das ist nicht der Hund von nebenan.", "This is not the dog."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two!", "Only one."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "these are three"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        'First.\n\n"Then, it rained.',
        "First.\n\nAfter that.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] in [city]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP. S. Write!", "Bye. PS"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S more", "Bye.\nP.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "* a\n* b\n- c", "* a\n**b**\n- c"),
    ("detectable_format:constrained_response", {}, "Well. My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and * *"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1 a Section 2 b",
        "Section 1",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<Rain>>\nIt rains.", "<<>>\nIt rains."),
    ("combination:two_responses", {}, "Yes.******No.", "Yes.******Yes."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi!"),
    ("startend:end_checker", {"end_phrase": "The end."}, 'So it was. "the end."', "The end. Bye"),
    ("startend:quotation", {}, '"quoted"', '"half'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "NOW or NEVER",
        "Now OR never",
    ),
    ("change_case:english_capital", {}, "THIS IS THE END OF IT.", "This IS THE END OF IT."),
    ("change_case:english_lowercase", {}, "this is the end of it.", "This is the end of it."),
    ("punctuation:no_comma", {}, "red and blue", "red, blue"),
]


def test_every_instruction_is_tested():
    assert {name for name, *_ in CASES} == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.parametrize(("instruction", "arguments", "good", "bad"), CASES)
def test_instructions(instruction, arguments, good, bad):
    assert follows(good, instruction, arguments)
    assert not follows(bad, instruction, arguments)
    assert not follows("  ", instruction, arguments)


def test_a_grade_has_strict_and_loose_flags():
    gold = {
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{"num_words": None}, {}],
    }
    grade = GRADERS["ifeval"](gold, 'Sure, here you go:\n"rain"')
    assert (grade.correct, grade.score, grade.extracted) == (False, 0.0, "00|11")
    assert GRADERS["ifeval"](gold, '"rain"').correct
    assert GRADERS["ifeval"](gold, "").extracted == "00|00"
    assert GRADERS["ifeval"](gold, "<think>x").reason == "truncated"
    assert GRADERS["ifeval"]({}, "x").reason == "no_gold"
    unknown = {"instruction_id_list": ["new:thing"], "kwargs": [{}]}
    assert GRADERS["ifeval"](unknown, "x").reason == "error"


def test_the_eight_loose_readings():
    assert loose_readings("a\n*b*\nc") == ["a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]


@pytest.mark.parametrize(
    ("text", "count"),
    [("One. Two? Three!", 3), ("Mr. Smith left. He ran.", 2), ("A line\nAnother line", 2), ("3.5 is a number.", 1)],
)
def test_sentences(text, count):
    assert len(sentences(text)) == count


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The cat is on the mat and it is not happy with that.", "en"),
        ("El gato está en la casa y no quiere salir por la puerta.", "es"),
        ("O gato não está em casa e a porta é para o cão, mas ele não quer.", "pt"),
        ("Le chat est dans la maison et il ne veut pas sortir.", "fr"),
        ("Il gatto è nella casa e non vuole uscire, ma la porta è aperta per lui.", "it"),
        ("Кошка сидит на окне, и мы это видели.", "ru"),
        ("Кіт сидить на вікні, і ми її бачили.", "uk"),
        ("猫は窓に座っています。", "ja"),
        ("猫坐在窗上。", "zh"),
        ("고양이가 창문에 앉아 있다.", "ko"),
        ("बिल्ली खिड़की पर है और यह नहीं जाती है।", "hi"),
        ("القطة تجلس على النافذة وهي سعيدة.", "ar"),
        ("گربه کنار پنجره نشسته است و چیزی نمی‌گوید.", "fa"),
        ("பூனை ஜன்னலில் அமர்ந்திருக்கிறது.", "ta"),
        ("แมวนั่งอยู่ที่หน้าต่าง", "th"),
        ("Kissa on ikkunalla ja se ei ole iloinen, mutta se on siinä.", "fi"),
        ("12345 !!!", None),
    ],
)
def test_languages(text, language):
    assert language_of(text) == language


@pytest.mark.parametrize("piece", ["[", "*", "<<", "\n", " ", "p. ", "```", "a.", "Section ", "{"])
def test_hostile_text_takes_linear_time(piece):
    names, arguments = zip(*[(name, arguments) for name, arguments, *_ in CASES], strict=True)
    gold = {"instruction_id_list": list(names), "kwargs": list(arguments)}
    assert GRADERS["ifeval"](gold, piece * (100_000 // len(piece))).correct is False
