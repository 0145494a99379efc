"""The grid of runs and their arguments."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_uniopd.utils.strict_yaml import read_yaml

CONFIGS = Path(__file__).parents[2] / "configs/lab"
GRIDS = sorted(path.name for path in CONFIGS.glob("*grid.yaml"))
FAMILIES = sorted(path.stem for path in CONFIGS.glob("*questions.yaml"))
"""Of primary questions; also the names of their summaries and tables."""
MATCH = re.compile(r"^\{match:(\w+)\}$")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: an arm of a setting on a seed."""

    setting: str
    arm: str
    seed: int
    args: tuple[str, ...]
    """Of ``uniopd fit``, behind those of base.yaml; placeholders are not filled in yet."""

    @property
    def needs(self) -> str | None:
        """The arm whose calibration this one is matched to."""
        return next((match[1] for arg in self.args if (match := MATCH.match(arg))), None)

    @property
    def texts(self) -> list[str]:
        """Those of its configs."""
        files = [arg for arg in self.args if arg.endswith(".yaml")]
        return [Path(file).read_text() for file in ("configs/lab/base.yaml", *files)]

    @property
    def models(self) -> set[str]:
        """Those that it takes of the playground."""
        return set(re.findall(r"playground:(\w*(?:student|teacher))\b", " ".join((*self.texts, *self.args))))

    @property
    def key(self) -> str:
        """Changes with anything that changes the run, so that no result of another config is taken for this one's."""
        return digest(self.setting, self.arm, self.seed, self.args, self.texts)


@dataclass(frozen=True, slots=True)
class Grid:
    """All runs."""

    seeds: list[int]
    arms: dict[str, list[str]]
    settings: dict[str, dict[str, Any]]

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
        cells = [
            Cell(setting, arm, seed, (*map(str, chosen["args"]), *map(str, self.arms[arm])))
            for arm in chosen["arms"]
            for seed in self.seeds
        ]
        return sorted(cells, key=lambda cell: cell.needs is not None)


def digest(*identity: Any) -> str:
    """Names all that makes a run."""
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
