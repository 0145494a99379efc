"""Which teacher scores the answers to a prompt, and what it is made of."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from lit_uniopd.errors import UserError
from lit_uniopd.functional.mixture import MixtureKind
from lit_uniopd.teachers.args import TeacherArgs
from lit_uniopd.types import Prompt
from lit_uniopd.utils.near_names import did_you_mean

DEFAULT = "default"
"""A teacher of this name takes every prompt that names no teacher and whose domain has none of its own."""
MOST_MADE = 32
"""Different mixtures that rows may make."""


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
        mixtures: the others, and those that rows have made, as soon as one was routed.
        given: names of those that were given.
        check: called with a name for people and the mixture, for each that a row makes.
    """

    def __init__(self, args: Mapping[str, TeacherArgs]) -> None:
        self.models = {name: teacher for name, teacher in args.items() if teacher.mixture is None}
        self.mixtures = {
            name: Mixture(shares_of(name, teacher.mixture, self.models), teacher.mixture_kind)
            for name, teacher in args.items()
            if teacher.mixture is not None
        }
        self.given = list(args)
        self.check: Callable[[str, Mixture], None] = lambda name, mixture: None
        self._made: dict[tuple[tuple[str, float], ...], str] = {}

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
        if isinstance(prompt.teacher, Mapping):
            return self._made_by(prompt, prompt.teacher)
        for name in (prompt.teacher,) if prompt.teacher is not None else (prompt.domain, DEFAULT):
            if name in self.given:  # never what rows have made: it would depend on which rows came before
                return name
        unknown = prompt.domain if prompt.teacher is None else prompt.teacher
        route = f"{'domain' if prompt.teacher is None else 'teacher'} {unknown!r}"
        there = f"{', '.join(self.given)}{did_you_mean(unknown, self.given)}"
        raise UserError(
            f"Prompt {prompt.id!r} has {route}, but --model.teachers has only {there}; add a teacher of that name, or "
            f"one called '{DEFAULT}'."
        )

    def _made_by(self, prompt: Prompt, weights: Mapping[str, float]) -> str:
        """Name of the mixture that a row makes of several teachers."""
        key = tuple(weights.items())
        if key not in self._made:
            label, mixture = str(prompt.teacher_label), self._mixture_of(prompt, weights)
            if label in self.names and not _same(self.made_of(label), mixture):
                where = "--model.teachers has" if label in self.given else "other rows make"
                raise UserError(
                    f"The teachers of prompt {prompt.id!r} are a mixture {label!r}, and {where} another teacher of "
                    "that name; change the names in --model.teachers."
                )
            if label not in self.names:
                if len(self.names) - len(self.given) == MOST_MADE:
                    raise UserError(
                        f"The rows' teachers are more than {MOST_MADE} different mixtures, and each has curves and "
                        "passes of its own; make them fewer by rounding the weights in the teacher column."
                    )
                self.check(f"prompt {prompt.id!r}", mixture)
                self.mixtures[label] = mixture
            self._made[key] = label
        return self._made[key]

    def _mixture_of(self, prompt: Prompt, weights: Mapping[str, float]) -> Mixture:
        for name in weights:
            if name not in self.given:
                there = f"{', '.join(self.given)}{did_you_mean(name, self.given)}"
                raise UserError(
                    f"Prompt {prompt.id!r} has teacher {name!r} among several, but --model.teachers has only {there}; "
                    "add it to them, or mend the row."
                )
            if name not in self.models:
                raise UserError(
                    f"Prompt {prompt.id!r} has teacher {name!r} among several, and --model.teachers.{name}.mixture is "
                    "a mixture already, which no other has in it; name its teachers instead."
                )
        total = sum(weights.values())
        return Mixture({name: weights[name] / total for name in self.models if name in weights})

    def count(self, prompts: Iterable[Prompt]) -> Counter[str]:
        """How many prompts each teacher scores, by itself or in a mixture; checks every route."""
        counts = Counter(map(self, prompts))
        for name, mixture in self.mixtures.items():
            counts.update(dict.fromkeys(mixture.shares, counts[name]))
        return counts


def _same(one: Mixture, other: Mixture) -> bool:
    """Whether two mixtures are the same, to the digits of a label."""
    return (one.kind, one.shares.keys()) == (other.kind, other.shares.keys()) and all(
        abs(share - other.shares[name]) < 1e-6 for name, share in one.shares.items()
    )


def shares_of(name: str, mixture: Mapping[str, float], models: Collection[str]) -> dict[str, float]:
    """Shares of a mixture, 1 together.

    Raises:
        UserError: naming the flag, if it is made of what is no model.
    """
    for part in mixture:
        if part not in models:
            raise UserError(
                f"--model.teachers.{name}.mixture names {part!r}, and the models of --model.teachers are "
                f"{', '.join(models) or 'none'}; add it to them, or take it out of the mixture."
            )
    total = sum(mixture.values())
    return {part: weight / total for part, weight in mixture.items()}
