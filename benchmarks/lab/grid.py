"""The grid of runs and their arguments."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_uniopd.utils.strict_yaml import read_yaml

CONFIGS = Path(__file__).parents[2] / "configs/lab"
GRIDS = sorted(path.name for path in CONFIGS.glob("*grid.yaml"))
FAMILIES = sorted(path.stem for path in CONFIGS.glob("*questions.yaml"))
"""Of primary questions; also the names of their summaries and tables."""
MATCH = re.compile(r"^\{match:(\w+)\}$")
BASE = "configs/lab/base.yaml"
MADE = Path("runs/lab/made")


@dataclass(frozen=True, slots=True)
class Made:
    """What all runs of a seed share, made by one command before them."""

    args: tuple[str, ...]
    """Of ``uniopd``; ``{here}`` is where it is to write."""
    directory: Path
    """Where it is then; named by all that it is made of."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: an arm of a setting on a seed."""

    setting: str
    arm: str
    seed: int
    args: tuple[str, ...]
    """Of ``uniopd fit``, behind the base config; ``{difficulty}`` and ``{match:ARM}`` are not filled in yet."""
    base: str = BASE
    made: tuple[Made, ...] = ()

    @property
    def needs(self) -> str | None:
        """The arm whose calibration this one is matched to."""
        return next((match[1] for arg in self.args if (match := MATCH.match(arg))), None)

    @property
    def texts(self) -> list[str]:
        """Those of its configs."""
        return texts_of([self.base, *self.args])

    @property
    def models(self) -> set[str]:
        """Those that it takes of the playground."""
        return set(re.findall(r"playground:(reader|\w*(?:student|teacher))\b", " ".join((*self.texts, *self.args))))

    @property
    def key(self) -> str:
        """Changes with anything that changes the run, so that no result of another config is taken for this one's."""
        return digest(self.setting, self.arm, self.seed, self.args, self.texts)


def texts_of(args: Sequence[str]) -> list[str]:
    """Those of the configs among arguments."""
    return [Path(arg).read_text() for arg in args if arg.endswith(".yaml")]


def fill_in(args: Sequence[Any], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Arguments with the values of those names in braces that are known."""
    return tuple(re.sub(r"\{(\w+)\}", lambda name: str(values.get(name[1], name[0])), str(arg)) for arg in args)


@dataclass(frozen=True, slots=True)
class Grid:
    """All runs.

    Attributes:
        seeds: on which every arm runs.
        arms: arguments of ``uniopd fit`` behind those of its setting.
        settings: title, arguments and arms of each.
        base: config of all runs.
        made: name -> arguments of ``uniopd`` that make, once for each seed, what ``{NAME}`` stands for behind it.
    """

    seeds: list[int]
    arms: dict[str, list[str]]
    settings: dict[str, dict[str, Any]]
    base: str = BASE
    made: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path = CONFIGS / "grid.yaml") -> "Grid":
        """Read a grid file."""
        return cls(**read_yaml(path))

    def student(self, setting: str) -> tuple[str, tuple[str, ...]]:
        """Who learns in a setting, and on which of the playground's prompts."""
        chosen = self.settings[setting]
        return chosen.get("student", "student"), tuple(chosen.get("prompts", ("train", "short")))

    def cells(self, setting: str) -> list[Cell]:
        """The runs of a setting, those that others are matched to first."""
        chosen = self.settings[setting]
        cells = []
        for arm in chosen["arms"]:
            for seed in self.seeds:
                made = self.made_for(seed)
                values = {name: each.directory for name, each in made.items()}
                args = fill_in([*chosen["args"], *self.arms[arm]], values)
                cells.append(Cell(setting, arm, seed, args, self.base, (*made.values(),)))
        return sorted(cells, key=lambda cell: cell.needs is not None)

    def made_for(self, seed: int) -> dict[str, Made]:
        """What is made before the runs of a seed, in this order."""
        made: dict[str, Made] = {}
        for name, template in self.made.items():
            args = fill_in(template, {each: made[each].directory for each in made})
            made[name] = Made(args, MADE / f"{name}-{digest(seed, args, texts_of(args))}")
        return made


def digest(*identity: Any) -> str:
    """Names all that makes a run."""
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
