"""What speaks against a run before it begins: with its settings it would mean something else than it says.

``fit`` refuses the run or warns once, and ``uniopd doctor`` shows the same sentences.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from lit_uniopd.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Objection:
    """One thing that is wrong with the settings."""

    topic: str
    """The line of the doctor's screen that shows it."""
    message: str
    """One sentence: what is wrong, a semicolon, and a remedy that names the option."""
    refused: bool = False
    """Whether the run stops; else it is warned of."""


def refuse_or_warn(objections: Iterable[Objection], *, warns: bool = True) -> None:
    """Stop at the first objection that forbids the run, else say each of them once.

    Args:
        objections: all of them are looked at before anything is said.
        warns: whether this process is the one that speaks.

    Raises:
        UserError: if one of them is refused.
    """
    objections = list(objections)
    for objection in objections:
        if objection.refused:
            raise UserError(objection.message)
    for objection in objections if warns else ():
        log.warning(objection.message)
