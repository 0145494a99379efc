"""What docs/results.md says of each part of each method, with the test of each claim.

    python -m benchmarks.lab.claims

Claims stand in configs/lab/claims.yaml. An estimate comes from the primary questions where one of them asked for it and
all seeds have run; else from the kept summaries of the pilot's runs; else from the laboratory's table, whose runs were
not kept. P-values are adjusted by Holm over the tests of a method; those of the primary questions over the questions.
"""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t as student_t

from benchmarks.lab import questions
from benchmarks.lab.charts import DOCS, SEEDS, difference, read_table
from benchmarks.lab.grid import CONFIGS
from benchmarks.lab.paired_tests import holm, interval, p_of_difference
from benchmarks.lab.report import fill
from benchmarks.lab.summary_files import read
from lit_uniopd.diagnostics import advice
from lit_uniopd.utils.strict_yaml import read_yaml

PAGE = DOCS / "results.md"
ALPHA = 0.05
LOWER_IS_BETTER = ("chair_i",)
ENDPOINTS = {
    "accuracy": "accuracy of greedy answers",
    "chair_i": "hallucinated mentions, as a share",
    "recall": "objects named, as a share",
}
ASKED = {"uni_opd": ("questions", "narrow_questions"), "pairs": ("preference_questions",)}
"""Laboratory -> its families of primary questions."""
PLAIN = ("opd", "opd_long", "ln_dpo", "base")
"""What a part is added to; other bases are named beside the estimate."""
BEFORE = "base"
"""SENTINEL's captioner before training."""
HEADINGS = {
    "multi_teacher": "two-reliable-experts",
    "strong_to_weak": "one-strong-teacher-a-weak-student",
    "cross_modal": "a-text-teacher-and-a-chart-teacher-into-a-student-that-sees",
    "unreliable": "unreliable-teachers",
    "narrow": "teachers-that-never-saw-half-of-what-can-be-confused",
    "clean": "a-clean-judge",
    "noisy": "a-noisy-judge",
    "flipped": "a-clean-judge-and-a-quarter-of-the-pairs-flipped",
    "greedy": "greedy-captions",
    "temperature_1": "sampled-captions",
}
"""Table -> its heading in the laboratory's page."""
SHORT = {"chair_i": "hallucinated", "recall": "recall"}
HELPS, COSTS, UNSURE, NOTHING = "helps", "costs", "not sure", "no difference shown"
NOT_TESTED = "not tested"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two arms of a laboratory, paired by seed."""

    laboratory: str
    setting: str
    arm: str
    base: str
    endpoint: str = "accuracy"

    @property
    def place(self) -> str:
        """The setting as the grid has it: long runs are another world of the same."""
        return self.setting.removesuffix("_long")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a method: what its paper claims of it, and what was compared."""

    method: str
    part: str
    claimed: str
    takes: str
    watch: str
    tests: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean difference with the half width of its 95 % interval."""

    n: int
    mean: float
    half: float
    p: float
    """Two-sided; adjusted already if ``adjusted``."""
    source: str
    adjusted: bool = False
    equal_within: float | None = None
    """The claim is that there is no difference as large; ``p`` is of that."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A comparison with what came out of it."""

    part: Part
    comparison: Comparison
    estimate: Estimate | None
    """None: its runs were not kept and no table has its interval."""
    p: float = math.nan
    """Adjusted."""

    @property
    def answer(self) -> str:
        """What may be said of the arm in this world."""
        if (estimate := self.estimate) is None:
            return NOT_TESTED
        if estimate.equal_within is not None:
            return f"equal within {estimate.equal_within}" if self.p < ALPHA else "not shown to be equal"
        if abs(estimate.mean) <= estimate.half:
            return NOTHING
        better = (estimate.mean < 0) == (self.comparison.endpoint in LOWER_IS_BETTER)
        return (HELPS if better else COSTS) if self.p < ALPHA else UNSURE


def read_claims(path: Path = CONFIGS / "claims.yaml") -> tuple[dict[str, dict[str, str]], list[Part]]:
    """The worlds' names by laboratory and setting, and the parts."""
    fields = read_yaml(path)
    parts = [Part(**{**part, "tests": tuple(Comparison(**test) for test in part["tests"])}) for part in fields["parts"]]
    return fields["worlds"], parts


def outcomes(parts: Sequence[Part]) -> list[Outcome]:
    """Every comparison with its estimate and its adjusted p-value."""
    estimates = [(part, comparison, estimate(comparison)) for part in parts for comparison in part.tests]
    adjusted: dict[int, float] = {}
    for method in dict.fromkeys(part.method for part in parts):
        rows = [i for i, (part, _, e) in enumerate(estimates) if part.method == method and e and not e.adjusted]
        adjusted |= zip(rows, holm([estimates[i][2].p for i in rows]), strict=True)  # pyright: ignore[reportOptionalMemberAccess]
    return [
        Outcome(part, comparison, e, math.nan if e is None else adjusted.get(i, e.p))
        for i, (part, comparison, e) in enumerate(estimates)
    ]


def estimate(comparison: Comparison) -> Estimate | None:
    """From the best source that there is."""
    sources = (from_questions, from_summaries, from_table, from_spreads)
    return next((e for source in sources if (e := source(comparison)) is not None), None)


def from_questions(comparison: Comparison) -> Estimate | None:
    """From the primary question that asks for it, if all of its family have run."""
    for name in ASKED.get(comparison.laboratory, ()):
        family = questions.Family.read(name)
        if (answers := questions.answers(family)) is None:
            continue
        for question, (differences, p) in zip(family.questions, answers, strict=True):
            if (question.setting, question.arm, question.base) == (comparison.place, comparison.arm, comparison.base):
                bound = question.effect if question.equivalence else None
                source = f"`{name}.jsonl`, asked beforehand"
                return Estimate(len(differences), *interval(differences), p, source, adjusted=True, equal_within=bound)
    return None


def from_summaries(comparison: Comparison) -> Estimate | None:
    """From kept runs of the pilot, if every seed of both arms is there."""
    arm, base = values(comparison, comparison.arm), values(comparison, comparison.base)
    if len(arm) < 2 or set(arm) != set(base):
        return None
    differences = [arm[seed] - base[seed] for seed in sorted(arm)]
    kept = "[its runs](playground.md#measured)" if comparison.laboratory == "playground" else "its runs, kept"
    return Estimate(len(differences), *interval(differences), p_of_difference(differences), kept)


def values(comparison: Comparison, arm: str) -> dict[int, float]:
    """The endpoint of an arm by seed, as far as its runs were kept."""
    if comparison.laboratory == "playground":
        return quickstart_scores(arm)
    rows = [row for row in read(comparison.laboratory) if row["arm"] == arm]
    if comparison.laboratory != "sentences":
        key = "final" if comparison.laboratory == "uni_opd" else comparison.endpoint
        return {row["seed"]: row[key] for row in rows if row["setting"] == comparison.place}
    when = "after"
    if arm == BEFORE:  # what every run starts from, measured in those of C-DPO
        rows, when = [row for row in read(comparison.laboratory) if row["arm"] == "cdpo"], "before"
    return {row["seed"]: row[when][comparison.setting][comparison.endpoint] for row in rows}


def quickstart_scores(column: str) -> dict[int, float]:
    """A column of the quickstart's table of fresh seeds."""
    table = (DOCS / "playground.md").read_text().split("--seeds 11 12 13`:")[1].strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[:5]]
    return {int(row[0]): float(row[cells[0].index(column)]) for row in cells[2:]}


def from_table(comparison: Comparison) -> Estimate | None:
    """From the laboratory's table of five seeds: the p-value is that of its rounded mean and interval."""
    page, heading, cell = table_cell(comparison)
    if not cell:
        return None
    shown = difference(cell)
    mean = -shown.mean if comparison.laboratory == "sentences" else shown.mean  # its rows are base minus arm
    t = abs(mean) / shown.half * student_t.ppf(0.975, SEEDS - 1)
    return Estimate(SEEDS, mean, shown.half, float(2 * student_t.sf(t, SEEDS - 1)), f"[a table]({page}#{heading})")


def from_spreads(comparison: Comparison) -> Estimate | None:
    """Before and after SENTINEL, whose table has both means and spreads and no difference: Welch's test, not paired."""
    c = comparison
    if (c.laboratory, c.base, c.endpoint) != ("sentences", BEFORE, "chair_i"):
        return None
    table = read_table((DOCS / "sentinel_laboratory.md").read_text(), c.setting)
    cells = [re.findall(r"\d+\.\d+", table[arm]["hallucinated mentions"]) for arm in (c.arm, c.base)]
    (arm, arm_sd), (base, base_sd) = ([float(number) / 100 for number in cell] for cell in cells)
    variances = [sd**2 / SEEDS for sd in (arm_sd, base_sd)]
    error = math.sqrt(sum(variances))
    freedom = sum(variances) ** 2 / sum(variance**2 / (SEEDS - 1) for variance in variances)
    half, p = student_t.ppf(0.975, freedom) * error, 2 * student_t.sf(abs(arm - base) / error, freedom)
    source = f"[a table](sentinel_laboratory.md#{HEADINGS[c.setting]}), unpaired"
    return Estimate(SEEDS, arm - base, float(half), float(p), source)


def table_cell(comparison: Comparison) -> tuple[str, str, str]:
    """Page, heading and text of the cell that holds the difference; an empty text if none does."""
    c = comparison
    if c.laboratory == "uni_opd" and c.base not in ("opd", "opd_long"):
        page = (DOCS / "laboratory.md").read_text()
        row = re.search(rf"^\| {c.place} \| `{c.arm}` \| `{c.base}` \| (.*) \|$", page, re.MULTILINE)
        return "laboratory.md", "what-we-found", row[1] if row else ""
    if c.laboratory == "uni_opd":
        return "laboratory.md", HEADINGS[c.place], _cell("laboratory.md", c.place, c.arm, "minus plain")
    if c.laboratory == "pairs" and c.arm == "omni_dpo":
        cell = _cell("preference_laboratory.md", c.setting, c.base, "omni_dpo` minus it")
        return "preference_laboratory.md", HEADINGS[c.setting], cell
    if c.laboratory == "sentences" and (c.arm, c.endpoint) == ("cdpo", "chair_i"):
        cell = _cell("sentinel_laboratory.md", c.setting, c.base, "minus `cdpo`")
        return "sentinel_laboratory.md", HEADINGS[c.setting], cell
    return "", "", ""


def _cell(page: str, table: str, row: str, column: str) -> str:
    return read_table((DOCS / page).read_text(), table).get(row, {}).get(f"{column} (95 %)", "")


# --- the page ---


def tables(worlds: dict[str, dict[str, str]], tested: Sequence[Outcome]) -> dict[str, str]:
    """Name of a place in the page -> Markdown: what to decide, what a run is told, and the tests."""
    return {"decisions": decisions(worlds, tested), "advice": thresholds(), "tests": tests(worlds, tested)}


def decisions(worlds: dict[str, dict[str, str]], tested: Sequence[Outcome]) -> str:
    """A row a part: where it helps and costs follows from its tests, and from nothing else."""
    lines = [
        "| part | claimed by the paper | here | what it takes | curve to watch |",
        "|---|---|---|---|---|",
    ]
    for part in dict.fromkeys(test.part for test in tested):
        of_part = [test for test in tested if test.part == part]
        cells = [f"**{part.method}**: {part.part}", part.claimed, _here(worlds, of_part), part.takes, part.watch]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _here(worlds: dict[str, dict[str, str]], tested: Sequence[Outcome]) -> str:
    """Answers in the order of their weight, each with its worlds; those that show nothing without numbers."""
    said = []
    for answer in dict.fromkeys([HELPS, COSTS, UNSURE, *(test.answer for test in tested)]):
        where = [f"{world_of(worlds, test.comparison)}{_amount(test)}" for test in tested if test.answer == answer]
        if where:
            said.append(f"**{answer}**: " + "; ".join(where))
    return "<br>".join(said)


def _amount(test: Outcome) -> str:
    """What is compared and by how much, as far as it does not go without saying."""
    words = [] if test.comparison.endpoint == "accuracy" else [SHORT[test.comparison.endpoint]]
    if test.estimate is not None and test.answer != NOTHING:
        words.append(f"{test.estimate.mean:+.3f} ± {test.estimate.half:.3f}")
    if test.comparison.base not in PLAIN:
        words.append(f"over `{test.comparison.base}`")
    return f" ({' '.join(words)})" if words else ""


def world_of(worlds: dict[str, dict[str, str]], comparison: Comparison) -> str:
    return worlds[comparison.laboratory][comparison.setting]


def thresholds() -> str:
    """What runs are told, and from which numbers on."""
    short, (narrow, long) = advice.INVERSIONS_WITHOUT_LONG_TRAINING, advice.INVERSIONS_WITH_GAIN
    lines = ["| number of the run | it is told of | where that was seen |", "|---|---|---|"]
    rows = [
        (
            "misordered pairs: mean of `order/inversions_before`",
            f"up to {advice.INVERSIONS_WITHOUT_GAIN:.0%}: calibration changes (almost) nothing",
            "four worlds of Uni-OPD, 40 rollouts, plain distillation: 5 to 12 %",
        ),
        (
            "the same, calibration off",
            f"above {advice.INVERSIONS_WITHOUT_GAIN:.0%}: calibration would act",
            f"teachers that get worse: {short:.0%} in 40 rollouts (no gain), {long:.0%} in 120 (gain with delta 2); "
            f"teachers that never saw half: {narrow:.0%} in 40 (gain with delta 2)",
        ),
        (
            "answers that online balancing leaves out: mean of `rollout/removed`",
            f"from {advice.REMOVED_AT_A_LOSS:.0%} on: accuracy came out lower there",
            "two reliable experts: about a quarter",
        ),
        (
            "groups with right and wrong answers: mean of `order/mixed`",
            f"below {advice.MIXED_ENOUGH:.0%}: most prompts are out of reach",
            "no measurement: balancing and calibration act on no others",
        ),
        (
            "effective share of the quality weights",
            f"from {advice.QUALITY_ALIKE:.0%} on: the weight made no difference as large as .025",
            "Omni-DPO's three judges: 97 %",
        ),
        (
            "sentence pairs of a bootstrapping",
            f"below {advice.PAIRS_ENOUGH}: how many pictures would make as many",
            "SENTINEL: 250 pairs removed 72 % of the hallucinated mentions, 1000 94 %, 2700 98 %",
        ),
    ]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def tests(worlds: dict[str, dict[str, str]], tested: Sequence[Outcome]) -> str:
    """A row a test."""
    lines = [
        "| part | world | endpoint | arm | minus | n | estimate (95 %) | p (Holm) | answer | from |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for test in tested:
        c, e = test.comparison, test.estimate
        cells = [f"{test.part.method}: {test.part.part}", world_of(worlds, c), ENDPOINTS[c.endpoint]]
        cells += [f"`{c.arm}`", f"`{c.base}`"]
        if e is None:
            cells += ["", "", "", test.answer, "no kept runs"]
        else:
            cells += [str(e.n), f"{e.mean:+.3f} ± {e.half:.3f}", questions.p_text(test.p), test.answer, e.source]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write() -> None:
    """Fill in the page."""
    worlds, parts = read_claims()
    page = PAGE.read_text()
    for name, text in tables(worlds, outcomes(parts)).items():
        page = fill(page, name, text)
    PAGE.write_text(page)
    print(f"{PAGE.relative_to(DOCS.parent)} is up to date.")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # so that --help writes nothing
    write()
