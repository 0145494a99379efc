"""The primary questions of Uni-OPD's laboratory: asked before the runs, answered by them in docs/laboratory.md.

    python -m benchmarks.lab.questions --plan     # what is asked, and the seeds that it takes; nothing is written
    python -m benchmarks.lab.run --questions      # the runs that have no result yet
    python -m benchmarks.lab.questions            # keep their summaries beside this file, and fill in the tables

The table is made from the kept summaries alone, so that whoever has no runs can make it again; so are the claims of
docs/results.md (claims.py), which are filled in with it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.grid import CONFIGS, Cell, Grid
from benchmarks.lab.paired_tests import holm, interval, p_of_difference, p_of_equivalence, seeds_needed
from benchmarks.lab.report import PAGE, Results, fill, paired, summary_of
from benchmarks.lab.run import read_results
from benchmarks.lab.summary_files import keep, path_of
from lit_uniopd.utils.jsonl import read_lines
from lit_uniopd.utils.strict_yaml import read_yaml

SUMMARIES = path_of("questions")


@dataclass(frozen=True, slots=True)
class Question:
    """A paired comparison of two arms' final accuracy.

    Attributes:
        effect: the smallest difference of interest, or the bound of equivalence.
        pilot_sd: standard deviation of the differences of the pilot seeds.
        equivalence: whether the claim is that there is no difference.
    """

    question: str
    setting: str
    arm: str
    base: str
    effect: float
    pilot_sd: float
    equivalence: bool = False

    def p_value(self, differences: Sequence[float]) -> float:
        """Of the claim's test."""
        return p_of_equivalence(differences, self.effect) if self.equivalence else p_of_difference(differences)


@dataclass(frozen=True, slots=True)
class Family:
    """Questions that share an error of alpha."""

    seeds: list[int]
    alpha: float
    power: float
    questions: list[Question]

    @classmethod
    def read(cls, path: Path = CONFIGS / "questions.yaml") -> "Family":
        """Read a file of questions."""
        fields = read_yaml(path)
        return cls(**{**fields, "questions": [Question(**question) for question in fields["questions"]]})

    def needed(self, question: Question) -> int:
        """Seeds for the power at the strictest of Holm's levels."""
        level = self.alpha / len(self.questions)
        return seeds_needed(question.pilot_sd, question.effect, level, self.power, equivalence=question.equivalence)

    def cells(self) -> list[Cell]:
        """The runs of both arms of every question, those that others are matched to first."""
        grid = Grid.read()
        arms = {(q.setting, arm) for q in self.questions for arm in (q.arm, q.base)}
        wide = Grid(self.seeds, grid.arms, grid.settings)
        return [cell for setting in grid.settings for cell in wide.cells(setting) if (cell.setting, cell.arm) in arms]


def main() -> None:
    """Print the plan, or keep summaries and fill in the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true", help="print what is asked, and write nothing")
    options = parser.parse_args()
    family = Family.read()
    if options.plan:
        print(table(family, {}))
        return
    from benchmarks.lab import claims  # which reads the answers

    keep_summaries(family)
    PAGE.write_text(fill(PAGE.read_text(), "questions", table(family, read_summaries(family))))
    print(f"{PAGE} is up to date.")
    claims.write()


def keep_summaries(family: Family) -> None:
    """Add results of runs/lab to the kept ones."""
    results = read_results()
    keys = [cell.key for cell in family.cells()]
    keep("questions", [summary_of(results[key]) for key in keys if key in results])


def read_summaries(family: Family, path: Path = SUMMARIES) -> Results:
    """Kept results of the questions' runs as they are configured now."""
    keys = {cell.key for cell in family.cells()}
    results: Results = {}
    for row in read_lines(path) if path.exists() else ():
        if row["key"] in keys:
            results.setdefault((row["setting"], row["arm"]), {})[row["seed"]] = row
    return results


def table(family: Family, results: Results) -> str:
    """Markdown: each question with its plan, and its answer where all its seeds have run."""
    differences_by_question = differences_of(family, results)
    tested = answers(family, results)
    lines = [
        "| question | arm | minus | asked for | seeds needed | seeds | final accuracy (95 %) | p (Holm) | answer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for i, (question, differences) in enumerate(zip(family.questions, differences_by_question, strict=True)):
        claim = f"equal within {question.effect}" if question.equivalence else f"a difference of {question.effect}"
        cells = [question.question, f"`{question.setting}` `{question.arm}`", f"`{question.base}`", claim]
        cells += [str(family.needed(question)), f"{len(differences)} of {len(family.seeds)}"]
        if tested is None:
            cells += ["", "", "not run to the end"]
        else:
            (mean, half), p = interval(differences), tested[i][1]
            cells += [f"{mean:+.3f} ± {half:.3f}", p_text(p), answer(question, mean, p, family.alpha)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences_of(family: Family, results: Results) -> list[list[float]]:
    """Of each question, the differences of the seeds that have run."""
    differences: list[list[float]] = []
    for question in family.questions:
        arms = [(question.setting, arm) in results for arm in (question.arm, question.base)]
        differences.append(paired(results, question.setting, question.arm, question.base, "final") if all(arms) else [])
    return differences


def answers(family: Family, results: Results | None = None) -> list[tuple[list[float], float]] | None:
    """Of each question, its differences and its adjusted p-value; None until every seed of all has run."""
    differences = differences_of(family, read_summaries(family) if results is None else results)
    if any(len(values) < len(family.seeds) for values in differences):
        return None
    p_values = [question.p_value(values) for question, values in zip(family.questions, differences, strict=True)]
    return list(zip(differences, holm(p_values), strict=True))


def answer(question: Question, mean: float, p: float, alpha: float) -> str:
    """What may be said."""
    if question.equivalence:
        return "equal" if p < alpha else "not shown to be equal"
    if p >= alpha:
        return "no difference shown"
    return ("more" if mean > 0 else "less") + ("" if abs(mean) >= question.effect else ", and less than matters")


def p_text(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    main()
