"""The checks and the four published metrics are those of lm-eval, over made and fuzzed answers."""

import hashlib
import importlib
import importlib.util
import random
import sys
from functools import cache
from itertools import product
from statistics import mean
from types import ModuleType

import pytest

from lit_uniopd.benchmarks.adapters import ADAPTERS, AdapterContext
from lit_uniopd.benchmarks.metrics import build_metrics
from lit_uniopd.benchmarks.metrics.sum_metric import SumMetric
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.rewards import GRADERS
from lit_uniopd.rewards.ifeval import checks
from lit_uniopd.rewards.ifeval.checks import CHECKS, follows
from lit_uniopd.rewards.ifeval.division import punkt_parameters

AMOUNTS = range(1, 7)
RELATIONS = ("less than", "at least")
ARGUMENTS = {
    "keywords:existence": [{"keywords": words} for words in (["rain"], ["the", "cat"], ["colou?r"], ["ist", "der"], ["."], ["猫"])],
    "keywords:frequency": [
        {"keyword": keyword, "frequency": number, "relation": relation}
        for keyword, number, relation in product(("rain", " the ", "a.", "Ист|ist"), (1, 2, 4), RELATIONS)
    ],
    "keywords:forbidden_words": [{"forbidden_words": words} for words in (["rain"], ["art", "he"], ["U.S."], ["c[ao]t"], ["die", "猫"])],
    "keywords:letter_frequency": [
        {"letter": letter, "let_frequency": number, "let_relation": relation}
        for letter, number, relation in product("aQzi", (1, 3, 9), RELATIONS)
    ],
    "language:response_language": [{"language": code} for code in ("en", "de", "bg", "ru", "ja", "hi", "mr", "ur", "fr", "sw", "vi")],
    "length_constraints:number_sentences": [
        {"num_sentences": number, "relation": relation} for number, relation in (*product(AMOUNTS, ["at least"]), (3, "less than"))
    ],
    "length_constraints:number_paragraphs": [{"num_paragraphs": number} for number in AMOUNTS],
    "length_constraints:number_words": [
        {"num_words": number, "relation": relation} for number, relation in product((1, 2, 5, 10, 11, 12, 20, 40), RELATIONS)
    ],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": number, "nth_paragraph": nth, "first_word": word}
        for number in (1, 2, 3, 4) for nth in range(1, number + 1) for word in ("then", "The", "rain", "ΣΟΦΌΣ")
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": number} for number in AMOUNTS],
    "detectable_content:postscript": [{"postscript_marker": marker} for marker in ("P.S.", "P.P.S", "P.S", "Note:", " P.P.S.")],
    "detectable_format:number_bullet_lists": [{"num_bullets": number} for number in AMOUNTS],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": number} for number in AMOUNTS],
    "detectable_format:multiple_sections": [
        {"section_spliter": name, "num_sections": number} for name, number in product(("Section", " SECTION", "Day", "(Part)"), (1, 2, 3))
    ],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [{"prompt_to_repeat": text} for text in ("The rain", "Say hi. ", "Das ist")],
    "startend:end_checker": [{"end_phrase": phrase} for phrase in ("The end.", " rain", "!", "Any questions?")],
    "startend:quotation": [{}],
    "change_case:capital_word_frequency": [
        {"capital_frequency": number, "capital_relation": relation}
        for number, relation in (*product((1, 2, 3, 5, 8), ["at least"]), (2, "less than"))
    ],
    "change_case:english_capital": [{}],
    "change_case:english_lowercase": [{}],
    "punctuation:no_comma": [{}],
}  # fmt: skip
MADE = [
    "", "  ", "\n", "x", "7", "?", "yes", "NO", "ok", "Rain", "hello world", "jump high, run fast", "JUMP HIGH", "12345 !!!", "A1", "...",
    "Rain fell. The cat slept! Did it? No one knows.", "Mr. Smith of the U.S. saw Dr. No. He left at 5 p.m. on Jan. 5. It rained.",
    "One line\nanother line\na third line", "J. R. R. Tolkien wrote it, i.e. the book vs. the film etc. The end.", "He said \"Stop.\" Then he left.",
    "Wait... what? Yes... No!! Really?!", "See No. 5. See p. 7. Version 3.5 is out.She agreed.", "(It rained.) [The cat slept.] 'Why?' Because.",
    "Das ist nicht der Hund von nebenan, sondern die Katze.", "Le chat est dans la maison et il ne veut pas sortir.", "El gato está en la casa.",
    "Това е много хубава книга за деца и родители.", "Кошка сидит на окне, и мы это видели.", "Кіт сидить на вікні, і ми її бачили.",
    "猫坐在窗上。它很高兴。", "猫は窓に座っています。雨です。", "고양이가 창문에 앉아 있다.", "बिल्ली खिड़की पर है और यह नहीं जाती है।", "मांजर खिडकीत बसले आहे आणि ते आनंदी आहे.",
    "بلی کھڑکی پر بیٹھی ہے اور وہ خوش ہے۔", "القطة تجلس على النافذة وهي سعيدة.", "گربه کنار پنجره نشسته است.", "แมวนั่งอยู่ที่หน้าต่าง", "Paka ameketi dirishani na ana furaha sana.",
    "Con mèo đang ngồi bên cửa sổ và nó rất vui.", "பூனை ஜன்னலில் அமர்ந்திருக்கிறது.", "బిల్లి కిటికీలో కూర్చుంది.", "ബിഡാൽ ഹരി ഇല്ല.", "Kissa on ikkunalla.", "ΣΟΦΌΣ ΣΟΦΟΣ.",
    "THE RAIN FELL ON THE TOWN ALL DAY LONG.", "the rain fell on the town all day long, and the cat slept.", "DER HUND IST NICHT HIER.", "der hund ist nicht hier.",
    '"Quoted."', '"', '""', '"half', "“Curly.”", "'single'", '```json\n{"a": [1, 2]}\n```', "```Json\n[1]```", "```jSON\n[1]\n```", "```\n3\n```", '{"a": 1,}', "NaN",
    "``````", "```json```json\n1\n```", '{"a": 1} done', "<<Rain>>\nIt rains.", "<<>>", "<< >>", "<<<>>>", "<<a\nb>>", "<<>> <<x>>", ">>x<<", "<<x>",
    "Yes.******No.", "Yes.******Yes.", "******Yes.******No.******", "a******b******c", "a************b", "a*****b", "a*******b", "a\n******\n\nb",
    "a\n***\nb", "***\na\n***\nb\n***", "a\n***\n\n***\nb", "a***b***c", "a\n* * *\nb", "a\n****\nb", "a\n\n\n\nb", "The.\n\nThen, it rained.\n\nRain", "\n\nThen x",
    "'Then'\n\n\"Then\"", "'\"Then\n\n\"'Then", "ΣΟΦΌΣ, x", "a\n \nThen b", "Bye.\nP.S. Write!", "Bye.\nP. S. Write!", "p.s.x", "P.P.S", "P. P. S more", "P.P. S.\nNote: x",
    "[name] in [city]", "[a\nb] [c]", "[[x]] [y]", "[] ][ [", "[a](b) [c]", "* a\n* b\n- c", "*a\n**b**\n  - c\n\t* d", "*\n* a\n* b", "* a\n\n\n* b\n-\n--\n---", "text * a\n\n   *",
    "*a* and *b*", "**a** and **b** and * *", "***a***", "*a\nb* *c*", "**** ** *", "*x **y** z*", "Section 1 a Section 2 b", "SECTION 1\nSECTION2\nSection  3", "Day 1Day 2Day 3", "Part 1 Part 22",
    "Well. My answer is maybe.", "My answer is yes", "my answer is no.", "The rain. the rain, THE RAIN", "say HI. Hi! The end.", 'So it was. "The End."', "the end. \n", "Any questions?\"",
    "NASA AND THE U.S. WON'T. DON'T CANNOT IT'S GONNA", "A I HIGH-END X-RAY e-MAIL COVID-19 B2B", "“NATO” (EU) [UN] *UK* U.K.-BASED 'TIS 'TWAS", "O'NEILL'S D'YE LEMME MORE'N WANNA go", "ÉTÉ STRASSE ß ǅ Ⅷ Ⓐ",
    "NO.\nYES.\nNO", "IT'S A.M. OR P.M.? WE'LL SEE: A,B;C", "I'M 'X' ''Y'' `Z`", "naïve café İstanbul ıI", "a,b", "a，b", "https://example.com/a,b the@mail.org", "Sure!\n*the rain*\nBye",
]  # fmt: skip
PIECES = [
    "The rain fell", "the cat slept", "He left.", "Mr. Smith", "at 5 p.m.", "e.g.", "U.S.", "No. 5", "J. R.", "etc.", "...", "!", "?", ".", ". ", "?!", ",", ":", ";", "Then", "'Then", "\"", "'", "”", "“",
    "Das ist der Hund", "Это книга", "Това е книга", "猫です。", "猫坐在窗上。", "यह किताब है।", "NASA", "I", "DON'T", "CANNOT", "IT'S", "A.B.C.", "HIGH-END", "OK", "rain", "art", "cat", "colour", "quiz", "Q", "3.5", "1,000", "7",
    "*", "**", "***", "******", "* item", "- item", "*rain*", "**bold**", "<<Rain>>", "<<", ">>", "[name]", "[", "]", "[]", "P.S.", "P. S.", "P.P.S", "p. p. s", "Section 1", "Section 2", "SECTION 3", "Day 1", "Part 4",
    '{"a": 1}', "```json", "```", "My answer is yes.", "My answer is no.", "The end.", "Any questions?", "Say hi.", "Note: x", "ΣΟΦΌΣ",
]  # fmt: skip
SEPARATORS = [" ", " ", " ", "\n", "\n\n", "", "\n***\n", "\n\n\n", " \n", "\t", "\r\n", "\xa0", "******"]
FUZZED = 500


def fuzzed_answers():
    rng = random.Random(0)
    answers = []
    for _ in range(FUZZED):
        text = "".join(rng.choice(PIECES) + rng.choice(SEPARATORS) for _ in range(rng.randint(1, 14)))
        changes = (str.upper, str.lower, '"{}"'.format, "```json\n{}\n```".format, str.strip, str, str, str)
        answers.append(rng.choice(changes)(text))
    return answers


ANSWERS = MADE + fuzzed_answers()


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """lm-eval's own module; its package would import what its other tasks need, so only the folder is opened."""
    package = importlib.util.find_spec("lm_eval")
    if package is None or importlib.util.find_spec("immutabledict") is None:
        pytest.skip("lm-eval is not installed (pip install --no-deps lm-eval immutabledict)")
    langdetect = pytest.importorskip("langdetect")
    nltk_data = pytest.importorskip("nltk.data")
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in (("lm_eval", ""), ("lm_eval.tasks", "/tasks")):
            module = ModuleType(name)
            module.__path__ = [f"{root}{folder}" for root in package.submodule_search_locations or ()]
            patch.setitem(sys.modules, name, module)
        folder = tmp_path_factory.mktemp("nltk_data")
        write_punkt(folder / "tokenizers/punkt_tab/english")
        patch.setattr(nltk_data, "path", [*nltk_data.path, str(folder)])
        patch.setattr(langdetect.DetectorFactory, "seed", 0)
        patch.setattr(langdetect, "detect", cache(langdetect.detect))
        patch.setattr(checks, "language_of", cache(checks.language_of))
        yield importlib.import_module("lm_eval.tasks.ifeval.utils")
        for name in [name for name in sys.modules if name.startswith("lm_eval.")]:
            patch.delitem(sys.modules, name)


def write_punkt(folder):
    """The English tables in the form of NLTK's own download, for machines without it."""
    folder.mkdir(parents=True)
    parameters = punkt_parameters()
    tables = {
        "abbrev_types.txt": parameters.abbrev_types,
        "sent_starters.txt": parameters.sent_starters,
        "collocations.tab": ("\t".join(pair) for pair in parameters.collocations),
        "ortho_context.tab": (f"{word}\t{flags}" for word, flags in parameters.ortho_context.items()),
    }
    for name, lines in tables.items():
        (folder / name).write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "count", "digest"),
    [
        ("abbrev_types.txt", 156, "c7baa3c333ea86629a32400663db8cfcc5c6d61a37107ddeac60111b550806cd"),
        ("sent_starters.txt", 39, "9288e8cdec3ce0026b82851a145d0b5c3cfbbe64e1ea6dfa0c41d55f2e53c858"),
        ("collocations.tab", 37, "ba850bde20b6d640723a51f3e747f0f4f19c98938f1d67d2692a5595c2cc48e3"),
        ("ortho_context.tab", 20366, "b907db07477c8d682c83331ad38b56178e77120c4ff55bb799bf43044e75d305"),
    ],
)
def test_the_tables_of_sentences_are_those_that_nltk_downloads(tmp_path, name, count, digest):
    write_punkt(tmp_path / "english")
    lines = (tmp_path / "english" / name).read_bytes()
    assert lines.count(b"\n") == count
    assert hashlib.sha256(lines).hexdigest() == digest  # of the sorted lines of NLTK's punkt_tab


def test_every_instruction_is_compared():
    assert set(ARGUMENTS) == set(CHECKS)


@pytest.mark.parametrize("instruction", ARGUMENTS)
@pytest.mark.thinned(3)
def test_the_verdicts_are_the_same(official, instruction):
    verdicts = {True: 0, False: 0}
    differing = []
    for arguments in ARGUMENTS[instruction]:
        checker = official.instructions_registry.INSTRUCTION_DICT[instruction](instruction)
        checker.build_description(**arguments)
        for answer in ANSWERS:
            theirs = bool(answer.strip() and checker.check_following(answer))
            verdicts[theirs] += 1
            if follows(answer, instruction, arguments) is not theirs:
                differing.append((arguments, answer, theirs))
    assert not differing, f"{len(differing)} of {sum(verdicts.values())}: {differing[:3]}"
    assert min(verdicts.values()) >= 5, verdicts  # else agreement says little


def published_rows():
    """Rows as the hub has them: each instruction names every argument, null where it has none."""
    rng = random.Random(1)
    blank = dict.fromkeys(name for sets in ARGUMENTS.values() for arguments in sets for name in arguments)
    for key in range(300):
        names = rng.sample(sorted(ARGUMENTS), rng.randint(1, 3))
        kwargs = [{**blank, **rng.choice(ARGUMENTS[name])} for name in names]
        yield {"key": key, "prompt": f"Prompt {key}", "instruction_id_list": names, "kwargs": kwargs}


def test_the_published_metrics_are_the_same(official, tmp_path):
    rows = list(published_rows())
    answers = random.Random(2).choices(ANSWERS, k=len(rows))
    theirs = [official.process_results(row, [answer]) for row, answer in zip(rows, answers, strict=True)]
    expected = {
        "prompt_strict": mean(result["prompt_level_strict_acc"] for result in theirs),
        "prompt_loose": mean(result["prompt_level_loose_acc"] for result in theirs),
        "instruction_strict": official.agg_inst_level_acc([result["inst_level_strict_acc"] for result in theirs]),
        "instruction_loose": official.agg_inst_level_acc([result["inst_level_loose_acc"] for result in theirs]),
    }
    examples = ADAPTERS["ifeval"](rows, find_spec("ifeval"), AdapterContext("paper", False, tmp_path)).examples
    metric = SumMetric(build_metrics([{"name": "ifeval"}], 1))
    for example, answer, result in zip(examples, answers, theirs, strict=True):
        grade = GRADERS["ifeval"](example.gold, answer)
        flags = (result["inst_level_strict_acc"], result["inst_level_loose_acc"])
        assert grade.extracted == "|".join("".join(str(int(flag)) for flag in mode) for mode in flags), (
            example,
            answer,
        )
        assert grade.correct is result["prompt_level_strict_acc"]
        metric.update([record(example, grade)])
    results = metric.compute()
    assert results == {name: pytest.approx(value) for name, value in expected.items()}
    assert len({round(value, 3) for value in results.values()}) == 4
    assert all(0.05 < value < 0.95 for value in results.values()), results


def record(example, grade):
    fields = dict.fromkeys(
        ("benchmark", "protocol", "profile", "fingerprint", "prompt_hash", "generation_hash", "weights", "model"), "x"
    )
    verdict = {"extracted": grade.extracted, "correct": grade.correct, "score": grade.score, "reason": grade.reason}
    return Record(**fields, version=1, sample_id=example.id, group_id=example.id, sample_idx=0, step=0, **verdict)
