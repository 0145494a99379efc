"""What a check found, and what to do about it."""

import re
from dataclasses import dataclass
from typing import Literal

Status = Literal["green", "yellow", "red"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's screen."""

    name: str
    """What was looked at."""
    status: Status
    """green: as it should be; yellow: allowed, but look; red: the run would fail, or not do what it says."""
    found: str
    """What was found, with its numbers."""
    remedy: str = ""
    """One sentence that names the option to change; empty if, and only if, the finding is green."""
    details: str = ""
    """Lines of plain text that are shown beneath the table: two renderings side by side, a list of tokens."""

    def __post_init__(self) -> None:
        if (self.status == "green") != (self.remedy == ""):
            raise ValueError(f"a finding has a remedy unless it is green: {self}")


def green(name: str, found: str, details: str = "") -> Finding:
    """As it should be."""
    return Finding(name, "green", found, details=details)


def yellow(name: str, found: str, remedy: str, details: str = "") -> Finding:
    """Allowed, but worth a look."""
    return Finding(name, "yellow", found, remedy, details)


def red(name: str, found: str, remedy: str, details: str = "") -> Finding:
    """The run would fail, or not do what it says."""
    return Finding(name, "red", found, remedy, details)


def complaint(name: str, status: Literal["yellow", "red"], message: str) -> Finding:
    """A finding from one of our own messages, which say what is wrong before their last semicolon, and the remedy
    behind it.
    """
    found, _, remedy = message.strip().rstrip(".").rpartition("; ")
    if not found:
        found, flag = remedy, re.search(r"--[a-z_][\w.]*\w", remedy)
        remedy = f"correct {flag[0]}" if flag else "mend what this names"
    return Finding(name, status, found + ".", remedy[:1].upper() + remedy[1:] + ".")


def exit_status(findings: list[Finding]) -> int:
    """1 if anything is red, else 0."""
    return int(any(finding.status == "red" for finding in findings))
