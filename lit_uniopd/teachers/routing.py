"""Which teacher scores the answers to a prompt, and what it is made of."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lit_uniopd.errors import UserError
from lit_uniopd.functional.mixture import MixtureKind
from lit_uniopd.teachers.args import TeacherArgs
from lit_uniopd.teachers.refusals import shares_of
from lit_uniopd.types import Prompt
from lit_uniopd.utils.near_names import did_you_mean

DEFAULT = "default"
"""A teacher of this name takes every prompt that names no teacher and whose domain has none of its own."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several models as one teacher."""

    shares: Mapping[str, float]
    """By name, 1 together."""
    kind: MixtureKind = "arithmetic"


class Routing:
    """The teachers that prompts may be routed to.

    Args:
        args: checked, by name.

    Raises:
        UserError: naming the flag, if a mixture is made of what is no model.

    Attributes:
        models: arguments of those that are models, by name.
        mixtures: the others.
    """

    def __init__(self, args: Mapping[str, TeacherArgs]) -> None:
        self.models = {name: teacher for name, teacher in args.items() if teacher.mixture is None}
        self.mixtures = {
            name: Mixture(shares_of(name, teacher.mixture, self.models), teacher.mixture_kind)
            for name, teacher in args.items()
            if teacher.mixture is not None
        }

    @property
    def names(self) -> list[str]:
        """Of all that a prompt may be routed to, models first."""
        return [*self.models, *self.mixtures]

    def made_of(self, name: str) -> Mixture:
        """What a teacher is made of: itself alone, or several."""
        return self.mixtures.get(name) or Mixture({name: 1.0})

    def __call__(self, prompt: Prompt) -> str:
        """Name of the teacher for a prompt: its ``teacher``, else the one named like its domain, else ``default``.

        Raises:
            UserError: if there is no such teacher. A fallback would distil the wrong model without a word.
        """
        for name in (prompt.teacher,) if prompt.teacher is not None else (prompt.domain, DEFAULT):
            if name in self.models or name in self.mixtures:
                return name
        asked = prompt.domain if prompt.teacher is None else prompt.teacher
        route = f"{'domain' if prompt.teacher is None else 'teacher'} {asked!r}"
        raise UserError(
            f"Prompt {prompt.id!r} has {route}, but --model.teachers has only {', '.join(self.names)}"
            f"{did_you_mean(asked, self.names)}; add a teacher of that name, or one called '{DEFAULT}'."
        )

    def count(self, prompts: Iterable[Prompt]) -> Counter[str]:
        """How many prompts each teacher scores, by itself or in a mixture; checks every route."""
        counts = Counter(map(self, prompts))
        for name, mixture in self.mixtures.items():
            counts.update(dict.fromkeys(mixture.shares, counts[name]))
        return counts
