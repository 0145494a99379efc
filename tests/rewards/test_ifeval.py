"""Every instruction: a response that follows it and one that does not."""

import pytest

from lit_uniopd.rewards import GRADERS
from lit_uniopd.rewards.ifeval import loose_readings
from lit_uniopd.rewards.ifeval.arguments import read_instructions
from lit_uniopd.rewards.ifeval.checks import CHECKS, follows
from lit_uniopd.rewards.ifeval.division import sentences, tokens, words
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
    truncated = GRADERS["ifeval"](gold, "<think>x")
    assert (truncated.correct, truncated.extracted, truncated.reason) == (False, "00|00", "truncated")
    assert GRADERS["ifeval"]({}, "x").reason == "no_gold"
    unknown = {"instruction_id_list": ["new:thing"], "kwargs": [{}]}
    assert GRADERS["ifeval"](unknown, "x").reason == "error"


def test_the_answer_begins_behind_the_thinking_and_its_blank_lines():
    first_word = {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "rain"}
    gold = {"instruction_id_list": ["length_constraints:nth_paragraph_first_word"], "kwargs": [first_word]}
    assert GRADERS["ifeval"](gold, "<think>Hm.</think>\n\nRain falls.").correct
    assert not GRADERS["ifeval"](gold, "\n\nRain falls.").correct  # a blank paragraph has its place, as officially


def test_the_eight_loose_readings():
    assert loose_readings("a\n*b*\nc") == ["a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two? Three!", 3),
        ("Mr. Smith left. He ran.", 2),
        ("A line\nAnother line", 1),
        ("3.5 is a number.", 1),
        ("Das ist z.B. so. Ja.", 3),
        ("猫坐在窗上。它很高兴。", 1),
    ],
)
def test_sentences(text, count):
    assert len(sentences(text)) == count


def test_words():
    assert words("It's 3.5 e_mails, naïve!") == ["It", "s", "3", "5", "e_mails", "naïve"]
    assert words("बिल्ली खिड़की पर है") == ["बिल्ली", "खिड़की", "पर", "है"]  # NLTK before 3.10.3 ends words at vowel signs
    assert len(words("猫坐在窗上。")) == 1


def test_clitics_and_hyphens_in_capitals():
    capitals = [token for token in tokens("DON'T use HIGH-END GPUs. IT'S A U.S. CO.") if token.isupper()]
    assert capitals == ["DO", "N'T", "HIGH-END", "IT", "'S", "A", "U.S.", "CO"]


def test_text_without_a_language_is_in_every_one():
    assert follows("12345 !!!", "language:response_language", {"language": "bg"})
    assert follows("https://example.com", "change_case:english_lowercase", {})
    assert not follows("12345 !!!", "change_case:english_capital", {})  # it has no capitals either


@pytest.mark.parametrize(
    ("instruction", "arguments", "message"),
    [
        ("new:thing", {}, "there is no check for the instruction 'new:thing'"),
        ("keywords:existence", {}, "lacks its argument 'keywords'"),
        ("keywords:existence", {"keywords": None}, "lacks its argument 'keywords'"),
        ("punctuation:no_comma", {"relation": "at least"}, "takes no argument 'relation'"),
        ("keywords:existence", {"keywords": "moon"}, "must be a list of words"),
        ("keywords:existence", {"keywords": ["moon", "(sun"]}, "must be a regular expression"),
        ("keywords:forbidden_words", {"forbidden_words": [" "]}, "must be text, not blank"),
        ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 2, "let_relation": "at least"}, "one letter"),
        (
            "keywords:letter_frequency",
            {"letter": "a", "let_frequency": 2, "let_relation": "at most"},
            "one of less than, at least",
        ),
        ("length_constraints:number_words", {"num_words": 2.5, "relation": "at least"}, "whole number"),
        ("length_constraints:number_words", {"num_words": -2, "relation": "at least"}, "whole number"),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}, "whole number"),
        ("length_constraints:number_words", {"num_words": "20", "relation": "at least"}, "whole number"),
        ("length_constraints:number_words", {"num_words": float("inf"), "relation": "at least"}, "whole number"),
        ("language:response_language", {"language": "zh"}, "zh-cn"),
        ("language:response_language", {"language": "Bulgarian"}, "bg"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "x"},
            "asks for paragraph 3 of 2",
        ),
    ],
)
def test_instructions_that_cannot_be_read(instruction, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_instructions([instruction], [arguments])


def test_arguments_are_read_as_the_hub_has_them():
    hub = {"num_words": 20.0, "relation": "at least", "keywords": None, "num_bullets": None}
    assert read_instructions(["length_constraints:number_words", "punctuation:no_comma"], [hub, None]) == [
        ("length_constraints:number_words", {"num_words": 20, "relation": "at least"}),
        ("punctuation:no_comma", {}),
    ]
    with pytest.raises(ValueError, match="2 instructions and 1 sets of arguments"):
        read_instructions(["punctuation:no_comma", "startend:quotation"], [{}])
    letter = {"letter": "#", "let_frequency": 4, "let_relation": "at least"}  # officially a random letter is counted
    (instruction,) = read_instructions(["keywords:letter_frequency"], [letter])
    assert follows("# #rain ##", *instruction)
    assert not follows("### aaaa bbbb", *instruction)


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
        ("猫坐在窗上。", "zh-cn"),
        ("Това е много хубава книга за деца и родители.", "bg"),
        ("मांजर खिडकीत बसले आहे आणि ते आनंदी आहे.", "mr"),
        ("بلی کھڑکی پر بیٹھی ہے اور وہ خوش ہے۔", "ur"),
        ("jump high, run fast", "en"),
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
@pytest.mark.thinned(3)
def test_hostile_text_takes_linear_time(piece):
    names, arguments = zip(*[(name, arguments) for name, arguments, *_ in CASES], strict=True)
    gold = {"instruction_id_list": list(names), "kwargs": list(arguments)}
    assert GRADERS["ifeval"](gold, piece * (100_000 // len(piece))).correct is False
