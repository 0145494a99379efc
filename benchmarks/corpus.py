"""How the graders judge a corpus of answers that people have labelled: the table of docs/evaluation.md.

    python -m benchmarks.corpus              # the table
    python -m benchmarks.corpus --disagree   # also every answer that a grader judges otherwise than its label

The answers stand in tests/rewards/corpus/answers/, one YAML file a kind, written in the styles of many families of
models. A label says whether the answer means what the gold answer means; it was set before any grader saw the answer.
Wrong answers that a grader has to accept, and why, stand beside them in excused.yaml.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_uniopd.rewards import GradeItem, GraderPool
from lit_uniopd.utils.strict_yaml import read_yaml

CORPUS = Path(__file__).parents[1] / "tests" / "rewards" / "corpus"
EXTRACTION = ({"extraction": "protocol"}, {"extraction": "robust"})
MODES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "math": ({"extraction": "protocol"}, {"extraction": "boxed"}, {"extraction": "robust"}),
    "numeric": EXTRACTION,
    "choice": EXTRACTION,
    "yes_no": EXTRACTION,
    "exact": EXTRACTION,
    "anls": EXTRACTION,
    "vqa_soft": EXTRACTION,
    "chartqa_relaxed": ({},),
    "chartqa_normalised": ({},),
    "code_functional": ({},),
    "code_stdio": ({},),
}
"""The options under which each grader judges the corpus."""
TIME_LIMIT_S = 120.0
"""Ten times what an answer gets while training: a busy machine must not change the table."""
HEADER = ("grader", "mode", "right, graded right", "right, graded wrong", "wrong, graded wrong", "wrong, graded right")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to one question, and what a person says of it."""

    id: str
    """Question and answer: ``interval/swapped-ends``."""
    family: str
    graders: Mapping[str, Mapping[str, Any]]
    """The graders it concerns, with their options."""
    gold: Any
    text: str
    correct: bool


def read_corpus(directory: Path = CORPUS) -> list[Answer]:
    """All answers, in the order of the files."""
    return [
        Answer(
            f"{question['id']}/{answer['id']}",
            answer["family"],
            {
                name: {**options, **({"choices": question["choices"]} if name == "choice" else {})}
                for name, options in question["graders"].items()
            },
            question["gold"],
            answer["answer"],
            answer["correct"],
        )
        for path in sorted((directory / "answers").glob("*.yaml"))
        for question in read_yaml(path)
        for answer in question["answers"]
    ]


def mode_name(grader: str, options: Mapping[str, Any]) -> str:
    """How a row of the table is called: ``math protocol``, ``chartqa_relaxed``."""
    return f"{grader} {options['extraction']}" if "extraction" in options else grader


def judge(answers: Iterable[Answer], graders: Iterable[str] = MODES) -> dict[str, dict[str, bool | None]]:
    """Mode -> id of an answer -> whether the grader calls it right; None where it does not judge."""
    answers = list(answers)
    keys, items = [], []
    for grader, options in ((name, options) for name in graders for options in MODES[name]):
        for answer in answers:
            if grader in answer.graders:
                keys.append((mode_name(grader, options), answer.id))
                items.append(GradeItem(grader, answer.gold, answer.text, None, {**answer.graders[grader], **options}))
    with GraderPool(1, TIME_LIMIT_S) as pool:
        grades = pool.grade(items)
    verdicts: dict[str, dict[str, bool | None]] = {}
    for (mode, answer_id), grade in zip(keys, grades, strict=True):
        verdicts.setdefault(mode, {})[answer_id] = grade.correct
    return verdicts


def rows(answers: Iterable[Answer], verdicts: Mapping[str, Mapping[str, bool | None]]) -> Iterator[tuple[str, ...]]:
    """The rows of the table: each grader in each mode, with its confusion matrix.

    Raises:
        ValueError: if a grader left an answer unjudged.
    """
    labels = {answer.id: answer.correct for answer in answers}
    for mode, judged in verdicts.items():
        if None in judged.values():
            raise ValueError(f"{mode} did not judge {[name for name, correct in judged.items() if correct is None]}")
        counts = Counter((labels[name], correct) for name, correct in judged.items())
        grader, _, extraction = mode.partition(" ")
        cells = (
            counts[truth, correct] for truth, correct in [(True, True), (True, False), (False, False), (False, True)]
        )
        yield (f"`{grader}`", f"`{extraction}`" if extraction else "", *map(str, cells))


def table(body: Iterable[tuple[str, ...]]) -> str:
    """The rows in Markdown."""
    lines = [HEADER, ("---", "---", *["---:"] * (len(HEADER) - 2)), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--disagree", action="store_true", help="print every disagreement below the table")
    arguments = parser.parse_args()
    answers = read_corpus()
    verdicts = judge(answers)
    print(table(rows(answers, verdicts)), end="")
    if arguments.disagree:
        by_id = {answer.id: answer for answer in answers}
        for mode, judged in verdicts.items():
            for name, correct in judged.items():
                if correct is not by_id[name].correct:
                    print(f"{mode}: {name} is {'right' if by_id[name].correct else 'wrong'}")


if __name__ == "__main__":
    main()
