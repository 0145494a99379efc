"""The doctor's screen: a line for each finding, remedies beneath, details at the end."""

import sys

from rich.console import Console, Group
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lit_uniopd.doctor.findings import Finding

WIDTH = 100


def show(findings: list[Finding], console: Console | None = None) -> None:
    """Print the findings, at most 100 columns wide.

    Args:
        findings: of `run_all_checks`.
        console: where to; None: standard output.
    """
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(screen(findings), width=min(WIDTH, console.width))


def screen(findings: list[Finding]) -> Group:
    """What `show` prints. Texts of models and data are shown as they are, not as markup."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, max_width=20)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.message)
        if finding.remedy:
            text.append(f"\n-> {finding.remedy}", style="bold")
        table.add_row(Text(finding.status, style=f"bold {finding.status}"), Text(finding.name), text)
    blocks: list[Text | Table | Rule] = [table]
    for finding in findings:
        if finding.details:
            blocks += [Rule(Text(finding.name), align="left", style="dim"), Text(finding.details, overflow="fold")]
    counts = [f"{sum(f.status == status for f in findings)} {status}" for status in ("green", "yellow", "red")]
    return Group(*blocks, Rule(style="dim"), Text(", ".join(counts)))
