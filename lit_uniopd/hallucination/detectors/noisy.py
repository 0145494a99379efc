"""A detector that knows the truth and errs at known rates: for the playground, and to try a pipeline out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.detectors.base import Detector, Seen, inside
from lit_uniopd.hallucination.verdicts import Box, Detection
from lit_uniopd.utils.paths import has_scheme, resolve_path
from lit_uniopd.utils.seeding import derive_seed


class NoisyOracle(Detector):
    """Tells the truth about a picture, but for errors that are drawn once for each picture and object.

    Args:
        truth: JSONL with ``images`` (a path or a list of one) and ``objects`` (classes of the picture) in each row; or
            `playground:scenes` and the like. With ``boxes`` (object -> left, top, right and bottom, as fractions of
            the picture) it tells where things are; what it imagines, it takes for one of the others.
        miss: share of present objects that it overlooks.
        false_alarm: share of absent objects that it sees.
        seed: of the errors; detectors of different seeds err independently.
    """

    def __init__(self, truth: str, miss: float = 0.05, false_alarm: float = 0.05, seed: int = 0) -> None:
        for name, rate in (("miss", miss), ("false_alarm", false_alarm)):
            if not 0 <= rate < 1:
                raise UserError(f"NoisyOracle.{name} must be in [0, 1), got {rate}.")
        self.truth, self.miss, self.false_alarm, self.seed = truth, miss, false_alarm, seed
        self._objects: dict[str, dict[str, Box | None]] | None = None

    @property
    def name(self) -> str:
        return f"NoisyOracle(miss={self.miss}, false_alarm={self.false_alarm})"

    def prepare(self, device: Any) -> None:
        if self._objects is None:
            self._objects = _read(self.truth)

    def look(self, images: Sequence[Any], objects: Sequence[Sequence[str]]) -> list[Seen]:
        self.prepare("cpu")
        return [self._seen(image, names) for image, names in zip(images, objects, strict=True)]

    def _seen(self, image: Any, names: Sequence[str]) -> Seen:
        assert self._objects is not None
        picture = Path(str(getattr(image, "filename", image))).name
        if picture not in self._objects:
            raise UserError(f"{self.truth} has no picture {picture!r}; give NoisyOracle.truth the file that has.")
        found: Seen = {}
        for name in names:
            there = name in self._objects[picture]
            drawn = derive_seed(self.seed, "oracle", picture, name) % 2**32 / 2**32
            errs = drawn < (self.miss if there else self.false_alarm)
            if there != errs:
                found[name] = Detection(True, 1.0, self._place(picture, name))
            else:
                found[name] = Detection(False, 0.0)
        return found

    def _place(self, picture: str, name: str) -> Box | None:
        assert self._objects is not None
        places = self._objects[picture]
        if name in places or not places:
            return places.get(name)
        return places[sorted(places)[derive_seed(self.seed, "place", picture, name) % len(places)]]


def _read(path: str) -> dict[str, dict[str, Box | None]]:
    """Picture -> object -> its place, as far as it is known."""
    file = Path(resolve_path(f"{path}.jsonl") if has_scheme(path) else path)
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found: dict[str, dict[str, Box | None]] = {}
        for row in rows:
            image = row["images"] if isinstance(row["images"], str) else row["images"][0]
            boxes = row.get("boxes") or {}
            found[Path(image).name] = {
                name: inside(boxes[name]) if name in boxes else None for name in dict.fromkeys(row["objects"])
            }
        return found
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"NoisyOracle.truth {path} must be JSONL with `images` and `objects` in each row ({error!r})."
        ) from error
