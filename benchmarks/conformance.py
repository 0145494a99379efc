"""Suites that others wrote for their own code, run against ours: docs/conformance.md.

    python -m benchmarks.conformance             # write the page's table anew
    python -m benchmarks.conformance --failures  # each case on which we differ, and why

Inputs and expected values stand in tests/conformance/, one file a suite: its origin in the first line, then a case a
line. A case asks a grader (`grader`, `options`, `gold`, `answer`) or a function (`function`, `arguments`). One on which
we differ says why (`differs`); tests/test_conformance.py fails where that is not so, or no longer.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_uniopd.functional import divergence, dpo_loss, hinge_loss, opd_loss, robust_dpo_loss, simpo_loss
from lit_uniopd.rewards import GradeItem, GraderPool
from lit_uniopd.rewards.boxes import boxed_answer
from lit_uniopd.utils.jsonl import numbered_lines

ROOT = Path(__file__).parents[1]
SUITES = ROOT / "tests" / "conformance"
PAGE = ROOT / "docs" / "conformance.md"
BEGIN, END = "<!-- suites: python -m benchmarks.conformance -->\n", "<!-- end of suites -->"
FUNCTIONS = {
    "boxed_answer": boxed_answer,
    "jsd": lambda **arguments: _jsd(**arguments),
    **{
        loss.__name__: lambda loss=loss, **arguments: loss(**arguments).per_pair
        for loss in (dpo_loss, hinge_loss, robust_dpo_loss, simpo_loss)
    },
    "opd_loss": lambda **arguments: opd_loss(**arguments).loss,
}


def _jsd(student_logits: torch.Tensor, teacher_logits: torch.Tensor, beta: float) -> torch.Tensor:
    """Of logits ``[N, V]``: the identity as hidden states makes them the output projection."""
    count = len(student_logits)
    hidden = torch.eye(count)[None]
    mask = torch.ones(1, count, dtype=torch.bool)
    return divergence(hidden, hidden, student_logits.T, teacher_logits.T, mask, kind="jsd", beta=beta)[0]


@dataclass(frozen=True, eq=False)
class Suite:
    """Tests of another project, as far as they ask for something that we do too."""

    repository: str
    commit: str
    files: tuple[str, ...]
    cases: tuple[Mapping[str, Any], ...]


def read_suites(directory: Path = SUITES) -> list[Suite]:
    """All suites, by the names of their files."""
    suites = []
    for path in sorted(directory.glob("*.jsonl")):
        origin, *cases = (json.loads(line) for _, line in numbered_lines(path))
        suites.append(Suite(origin["repository"], origin["commit"], tuple(origin["files"]), tuple(cases)))
    return suites


def passes(suite: Suite, pool: GraderPool) -> list[bool]:
    """Of each case, whether ours gives what is expected there."""
    graded = [case for case in suite.cases if "grader" in case]
    items = [GradeItem(c["grader"], c["gold"], c["answer"], {}, c.get("options", {})) for c in graded]
    verdicts = iter(pool.grade(items))
    return [next(verdicts).correct is case["expected"] if "grader" in case else _computes(case) for case in suite.cases]


def _computes(case: Mapping[str, Any]) -> bool:
    arguments = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in case["arguments"].items()}
    result = FUNCTIONS[case["function"]](**arguments)
    if not isinstance(result, torch.Tensor):
        return result == case["expected"]
    return torch.allclose(result, torch.tensor(case["expected"]), rtol=0, atol=case["tolerance"])


def table(results: Mapping[Suite, Sequence[bool]]) -> str:
    """A row for each suite, and a line for each reason of a difference.

    Args:
        results: of each suite, what `passes` says.
    """
    rows, reasons = [], []
    for suite, passed in results.items():
        files = ", ".join(suite.files)
        rows.append(f"| {suite.repository} | {suite.commit} | {files} | {len(passed)} | {sum(passed)} |")
        different = [case for case, right in zip(suite.cases, passed, strict=True) if not right]
        by_reason: dict[str, list[str]] = {}
        for case in different:
            by_reason.setdefault(case.get("differs", "not looked at"), []).append(f"`{case['id']}`")
        for reason, names in by_reason.items():
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            reasons.append(f"- {suite.repository}, {len(names)}: {reason} ({shown})")
    header = "| suite | commit | files | cases | as there |\n|---|---|---|---:|---:|"
    return "\n".join([header, *rows, "", *reasons, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failures", action="store_true", help="print the cases on which we differ; write nothing")
    arguments = parser.parse_args()
    suites = read_suites()
    with GraderPool(workers=1) as pool:
        if arguments.failures:
            for suite in suites:
                for case, right in zip(suite.cases, passes(suite, pool), strict=True):
                    if not right:
                        print(json.dumps({"suite": suite.repository, **case}, ensure_ascii=False))
            return
        result = table({suite: passes(suite, pool) for suite in suites})
    before, _, page = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = page.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{result}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
