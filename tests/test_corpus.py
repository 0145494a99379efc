"""The graders judge labelled answers as docs/evaluation.md says, and accept no wrong one without a reason."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from benchmarks.corpus import CORPUS, HEADER, MODES, judge, mode_name, read_corpus, rows, table

ANSWERS = read_corpus()
EXCUSED = {
    mode: [name for excuse in excuses for name in excuse["answers"]]
    for mode, excuses in yaml.safe_load((CORPUS / "excused.yaml").read_text(encoding="utf-8")).items()
}
PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
BEGIN, END = "<!-- corpus: python -m benchmarks.corpus -->\n", "<!-- end of corpus -->"


def documented():
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


@pytest.mark.parametrize("grader", MODES)
@pytest.mark.thinned(3)
def test_verdicts_are_those_of_the_page_and_every_false_positive_has_a_reason(grader):
    verdicts = judge(ANSWERS, [grader])
    labels = {answer.id: answer.correct for answer in ANSWERS}
    for mode, judged in verdicts.items():
        accepted = [name for name, correct in judged.items() if correct and not labels[name]]
        assert sorted(accepted) == sorted(EXCUSED.get(mode, []))
    printed = table(rows(ANSWERS, verdicts)).splitlines()[2:]
    assert printed == [line for line in documented().splitlines() if line.startswith(f"| `{grader}` |")]


def test_the_page_has_the_header_and_a_row_for_each_mode():
    lines = documented().splitlines()
    assert "\n".join(lines[:2]) == table([]).strip()
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [" ".join(row[:2]).strip() for row in cells] == [
        mode_name(grader, options) for grader, modes in MODES.items() for options in modes
    ]
    assert all(len(row) == len(HEADER) for row in cells)


def test_the_corpus_is_large_balanced_and_of_many_families():
    assert len({answer.id for answer in ANSWERS}) == len(ANSWERS) >= 300
    assert 0.4 <= sum(answer.correct for answer in ANSWERS) / len(ANSWERS) <= 0.6
    families = Counter(answer.family for answer in ANSWERS)
    assert sum(count >= 10 for count in families.values()) >= 10
    kinds = Counter(grader for answer in ANSWERS for grader in answer.graders)
    assert all(kinds[name] >= 40 for name in ("math", "numeric", "choice", "yes_no"))
    assert kinds["code_functional"] + kinds["code_stdio"] >= 40
    assert kinds["anls"] + kinds["exact"] + kinds["vqa_soft"] >= 40


def test_excuses_are_of_wrong_answers_that_exist():
    labels = {answer.id: answer.correct for answer in ANSWERS}
    assert not [name for names in EXCUSED.values() for name in names if labels[name]]
