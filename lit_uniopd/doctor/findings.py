"""What a check has found, and what to do about it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from lit_uniopd.utils.objections import Objection

Status = Literal["green", "yellow", "red"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's screen."""

    name: str
    """What was looked at."""
    status: Status
    """green: as it should be; yellow: allowed, but look; red: the run would fail, or not do what it says."""
    message: str
    """What was found, with its numbers."""
    remedy: str = ""
    """One sentence that names the option to change; empty if, and only if, the finding is green."""
    details: str = ""
    """Lines of plain text that are shown beneath the table: two renderings side by side, a list of tokens."""

    def __post_init__(self) -> None:
        if (self.status == "green") != (self.remedy == ""):
            raise ValueError(f"a finding has a remedy unless it is green: {self}")


def green(name: str, message: str, details: str = "") -> Finding:
    """As it should be."""
    return Finding(name, "green", message, details=details)


def yellow(name: str, message: str, remedy: str, details: str = "") -> Finding:
    """Allowed, but worth a look."""
    return Finding(name, "yellow", message, remedy, details)


def red(name: str, message: str, remedy: str, details: str = "") -> Finding:
    """The run would fail, or not do what it says."""
    return Finding(name, "red", message, remedy, details)


def complaint(name: str, status: Literal["yellow", "red"], message: str) -> Finding:
    """A finding from one of our own error messages: what is wrong, then a semicolon and the remedy."""
    problem, _, remedy = message.strip().rstrip(".").rpartition("; ")
    if not problem:
        problem, flag = remedy, re.search(r"--[a-z_][\w.]*\w", remedy)
        remedy = f"correct {flag[0]}" if flag else "mend what this names"
    return Finding(name, status, problem + ".", remedy[:1].upper() + remedy[1:] + ".")


def shown(objections: Iterable[Objection]) -> Iterator[Finding]:
    """What ``fit`` would say, as findings: red where it would refuse the run, yellow where it would warn."""
    for objection in objections:
        yield complaint(objection.topic, "red" if objection.refused else "yellow", objection.message)


def exit_status(findings: list[Finding]) -> int:
    """1 if anything is red, else 0."""
    return int(any(finding.status == "red" for finding in findings))
