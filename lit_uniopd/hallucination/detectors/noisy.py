"""A detector that knows the truth and errs at known rates: for the playground, and for testing a pipeline."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.detectors.base import Detections, Detector, inside
from lit_uniopd.hallucination.verdicts import Box, Detection
from lit_uniopd.utils.jsonl import numbered_lines
from lit_uniopd.utils.paths import has_scheme, resolve_path
from lit_uniopd.utils.seeding import derive_seed


class NoisyOracle(Detector):
    """Detects the true objects of a picture, except for errors that are drawn once per picture and object.

    Args:
        truth: JSONL with ``images`` (a path or a list of one) and ``objects`` (classes of the picture) in each row; or
            `playground:scenes` and the like. With ``boxes`` (object -> left, top, right and bottom, as fractions of
            the picture) it returns boxes; a false alarm gets the box of another object.
        miss: share of present objects that it overlooks.
        false_alarm: share of absent objects that it reports.
        seed: of the errors; detectors of different seeds err independently.
        shared: share of a picture's objects, present and absent ones, at which it errs as a detector of `shared_seed`
            would, so that the two err together.
        shared_seed: that of the other detector.
    """

    def __init__(
        self,
        truth: str,
        miss: float = 0.05,
        false_alarm: float = 0.05,
        seed: int = 0,
        shared: float = 0.0,
        shared_seed: int = 0,
    ) -> None:
        for name, rate in (("miss", miss), ("false_alarm", false_alarm), ("shared", shared)):
            if not 0 <= rate < 1:
                raise UserError(f"NoisyOracle.{name} must be in [0, 1), got {rate}.")
        self.truth, self.miss, self.false_alarm, self.seed = truth, miss, false_alarm, seed
        self.shared, self.shared_seed = shared, shared_seed
        self._objects: dict[str, dict[str, Box | None]] | None = None

    @property
    def name(self) -> str:
        return f"NoisyOracle(miss={self.miss}, false_alarm={self.false_alarm})"

    def prepare(self, device: Any) -> None:
        if self._objects is None:
            self._objects = _read(self.truth)

    def look(self, images: Sequence[Any], objects: Sequence[Sequence[str]]) -> list[Detections]:
        self.prepare("cpu")
        return [self._detect(image, names) for image, names in zip(images, objects, strict=True)]

    def _detect(self, image: Any, names: Sequence[str]) -> Detections:
        assert self._objects is not None
        picture = Path(str(getattr(image, "filename", image))).name
        if picture not in self._objects:
            raise UserError(f"{self.truth} has no picture {picture!r}; give NoisyOracle.truth the file that has.")
        detections: Detections = {}
        for name in names:
            present = name in self._objects[picture]
            follows = _uniform(self.seed, "shared", picture, name) < self.shared
            uniform = _uniform(self.shared_seed if follows else self.seed, "oracle", picture, name)
            errs = uniform < (self.miss if present else self.false_alarm)
            if present != errs:
                detections[name] = Detection(True, 1.0, self._place(picture, name))
            else:
                detections[name] = Detection(False, 0.0)
        return detections

    def _place(self, picture: str, name: str) -> Box | None:
        assert self._objects is not None
        places = self._objects[picture]
        if name in places or not places:
            return places.get(name)
        return places[sorted(places)[derive_seed(self.seed, "place", picture, name) % len(places)]]


def _uniform(*keys: int | str) -> float:
    """A number in [0, 1) that these keys always give."""
    return derive_seed(*keys) % 2**32 / 2**32


def _read(path: str) -> dict[str, dict[str, Box | None]]:
    """Picture -> object -> its box, or None."""
    file = Path(resolve_path(f"{path}.jsonl") if has_scheme(path) else path)
    try:
        rows = [json.loads(line) for _, line in numbered_lines(file)]
        objects_by_picture: dict[str, dict[str, Box | None]] = {}
        for row in rows:
            image = row["images"] if isinstance(row["images"], str) else row["images"][0]
            boxes = row.get("boxes") or {}
            objects_by_picture[Path(image).name] = {
                name: inside(boxes[name]) if name in boxes else None for name in dict.fromkeys(row["objects"])
            }
        return objects_by_picture
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"NoisyOracle.truth {path} must be JSONL with `images` and `objects` in each row ({error!r})."
        ) from error
