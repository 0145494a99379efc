"""Primary questions of a laboratory: asked before the runs, answered by them in its page.

    python -m benchmarks.lab.questions --plan                        # what is asked, and the seeds that it takes
    python -m benchmarks.lab.run --questions                         # Uni-OPD's runs that have no result yet
    python -m benchmarks.lab.run --questions self_teacher_questions  # the self-teacher's (narrow_questions: others)
    python -m benchmarks.lab.pairs --questions                       # Omni-DPO's
    python -m benchmarks.lab.questions                               # keep summaries of all, and fill in the tables

The tables are made from the kept summaries alone, so that whoever has no runs can make them again; so are the claims of
docs/results.md (claims.py), which are filled in with them.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.lab.grid import CONFIGS, FAMILIES, Grid
from benchmarks.lab.pair_grid import SEEDS, PairGrid
from benchmarks.lab.paired_tests import holm, interval, p_of_difference, p_of_equivalence, seeds_needed
from benchmarks.lab.report import LAST, Results, fill, paired, summary_of
from benchmarks.lab.run import ROOT, read_results
from benchmarks.lab.summary_files import keep, read
from lit_uniopd.utils.strict_yaml import read_yaml

COLUMNS = LAST | {"math": "math", "code": "code", "pairs": "held-out pairs ranked rightly"}
"""What else tables show of a run, as far as it was measured."""


@dataclass(frozen=True, slots=True)
class Question:
    """A paired comparison of two arms' accuracy.

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
    """Questions that share an error of alpha.

    Attributes:
        name: of its file, summaries and tables.
        page: that has the tables.
        grid: has the runs; its seeds were the pilot.
    """

    name: str
    page: Path
    grid: Grid | PairGrid
    seeds: list[int]
    alpha: float
    power: float
    questions: list[Question]

    @classmethod
    def read(cls, name: str = "questions") -> "Family":
        """Read a file of questions."""
        fields = read_yaml(CONFIGS / f"{name}.yaml")
        page = Path(fields.pop("page"))
        grid = Grid.read(CONFIGS / fields.pop("grid")) if "grid" in fields else PairGrid(SEEDS, fields.pop("rate"))
        questions = [Question(**question) for question in fields.pop("questions")]
        return cls(name, page, grid, **fields, questions=questions)

    @property
    def endpoint(self) -> str:
        """Of a run's result: what is compared."""
        return "accuracy" if isinstance(self.grid, PairGrid) else "final"

    def needed(self, question: Question) -> int:
        """Seeds for the power at the strictest of Holm's levels."""
        level = self.alpha / len(self.questions)
        return seeds_needed(question.pilot_sd, question.effect, level, self.power, equivalence=question.equivalence)

    def cells(self, *, pilot: bool = False) -> list[Any]:
        """The runs of both arms of every question, those that others are matched to first; or those of the pilot."""
        arms = {(q.setting, arm) for q in self.questions for arm in (q.arm, q.base)}
        grid = self.grid if pilot else replace(self.grid, seeds=self.seeds)
        return [run for setting in grid.settings for run in grid.cells(setting) if (run.setting, run.arm) in arms]

    def results(self) -> list[dict[str, Any]]:
        """What is kept of the runs that are done, the pilot's too."""
        keys = {run.key for run in (*self.cells(), *self.cells(pilot=True))}
        if isinstance(self.grid, PairGrid):
            return [result for key, result in read_results(ROOT / "pairs").items() if key in keys]
        return [summary_of(result) for key, result in read_results().items() if key in keys]


def main() -> None:
    """Print the plan, or keep summaries and fill in the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true", help="print what is asked, and write nothing")
    options = parser.parse_args()
    families = [Family.read(name) for name in FAMILIES]
    if options.plan:
        print("\n\n".join(table(family, {}) for family in families))
        return
    from benchmarks.lab import claims  # which reads the answers

    for family in families:
        keep(family.name, family.results())
        page = fill(family.page.read_text(), family.name, tables(family, read_summaries(family)))
        if f"<!-- {family.name} pilot -->" in page:
            page = fill(page, f"{family.name} pilot", arms_table(family, read_summaries(family, pilot=True)))
        family.page.write_text(page)
        print(f"{family.page} is up to date.")
    claims.write()


def read_summaries(family: Family, *, pilot: bool = False) -> Results:
    """Kept results of the questions' runs, or of the pilot's, as they are configured now."""
    keys = {run.key for run in family.cells(pilot=pilot)}
    results: Results = {}
    for row in read(family.name):
        if row["key"] in keys:
            results.setdefault((row["setting"], row["arm"]), {})[row["seed"]] = row
    return results


def tables(family: Family, results: Results) -> str:
    """Markdown: the questions, and what each arm came to."""
    return "\n\n".join(filter(None, (table(family, results), arms_table(family, results))))


def arms_table(family: Family, results: Results) -> str:
    """Markdown: means over the seeds that have run, with standard deviations of the accuracy; nothing without any."""
    if not results:
        return ""
    measured = {tag for runs in results.values() for run in runs.values() for tag in run}
    columns = {tag: name for tag, name in COLUMNS.items() if tag in measured}
    lines = [
        f"| setting | arm | seeds | final accuracy | {' | '.join(columns.values())} |",
        "|---" * (4 + len(columns)) + "|",
    ]
    for (setting, arm), runs in results.items():
        accuracies = [run[family.endpoint] for run in runs.values()]
        spread = f" (sd {statistics.stdev(accuracies):.3f})" if len(accuracies) > 1 else ""
        cells = [setting, f"`{arm}`", str(len(runs)), f"{statistics.fmean(accuracies):.3f}{spread}"]
        for tag in columns:
            values = [run[tag] for run in runs.values() if tag in run]
            cells.append(f"{statistics.fmean(values):.3g}" if values else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
        differences.append(
            paired(results, question.setting, question.arm, question.base, family.endpoint) if all(arms) else []
        )
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
