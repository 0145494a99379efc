"""The interface of detectors: which of these objects does this picture have?"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.verdicts import Box, Detection, Vote, vote_of
from lit_uniopd.utils.images import open_image

Detections = dict[str, Detection]
"""Object -> whether the picture has it, the best score, and where."""
RawDetections = Mapping[str, Detection | tuple[bool, float]]
"""The same from a detector without boxes, which may return pairs of found and score."""


def as_detection(output: Detection | tuple[bool, float]) -> Detection:
    """A detection, without a box if there was none."""
    return output if isinstance(output, Detection) else Detection(*output)


def _strength(detection: Detection) -> tuple[int, float]:
    """Order of detections of one class: seen, undecided, absent; then by score."""
    return (False, None, True).index(detection.found), detection.score


class Detector(ABC):
    """Decides which objects are in a picture.

    A subclass implements ``look``; one of a closed vocabulary also ``supports``.
    """

    @property
    def name(self) -> str:
        """For reports."""
        return type(self).__name__

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that detections depend on: public attributes that are plain values."""
        speed = ("batch_size", "device")
        return {
            name: value
            for name, value in sorted(vars(self).items())
            if not name.startswith("_") and name not in speed and isinstance(value, str | int | float | tuple | None)
        }

    def supports(self, name: str) -> bool:
        """Whether the object is in the detector's vocabulary."""
        return True

    def prepare(self, device: torch.device | str) -> None:  # noqa: B027  # many plug-ins need nothing
        """Load models and files, before anything expensive starts."""

    @abstractmethod
    def look(self, images: Sequence[Any], objects: Sequence[Sequence[str]]) -> Sequence[RawDetections]:
        """Look for objects in several pictures at once.

        Args:
            images: paths, or open pictures.
            objects: for each picture, what to look for; each once, at least one, all supported.

        Returns:
            For each picture, object -> ``Detection``, or a pair of found and score.
        """

    def present(self, image: Any, objects: Collection[str]) -> Detections:
        """Look for objects in one picture.

        Raises:
            UserError: if the picture cannot be read.
        """
        (outputs,) = self.look([image], [list(objects)]) if objects else [{}]
        return {name: as_detection(output) for name, output in outputs.items()}

    def votes(
        self, images: Sequence[Any], objects: Sequence[Sequence[str]], class_of: Callable[[str], str] = str
    ) -> list[dict[str, Vote]]:
        """For each picture, object -> vote; None if the object is not in the vocabulary. Arguments as in `detect`."""
        return [
            {word: vote_of(detection) for word, detection in row.items()}
            for row in self.detect(images, objects, class_of)
        ]

    def detect(
        self, images: Sequence[Any], objects: Sequence[Sequence[str]], class_of: Callable[[str], str] = str
    ) -> list[dict[str, Detection | None]]:
        """For each picture, object -> detection; None if the object is not in the vocabulary.

        Args:
            images: as in `look`.
            objects: for each picture, words for what to look for.
            class_of: word -> class. A word that is not in the vocabulary is looked for by its class, and the best
                detection of a class holds for all its words (released ``run/utils.py``, its two ``recognize_by``
                functions).
        """
        terms = [{word: self._term(word, class_of) for word in words} for words in objects]
        queries = [list(dict.fromkeys(term for term in row.values() if term is not None)) for row in terms]
        rows = [row for row, names in enumerate(queries) if names]
        outputs = self.look([images[row] for row in rows], [queries[row] for row in rows]) if rows else []
        best: list[dict[str, Detection]] = [{} for _ in objects]
        for row, detections in zip(rows, outputs, strict=True):
            for name, output in detections.items():
                kind, detection = class_of(name), as_detection(output)
                best[row][kind] = max(detection, best[row].get(kind, detection), key=_strength)
        return [
            {word: None if term is None else best[row][class_of(word)] for word, term in term_of.items()}
            for row, term_of in enumerate(terms)
        ]

    def _term(self, word: str, class_of: Callable[[str], str]) -> str | None:
        """The supported term for a word: itself or its class; None if there is neither."""
        return next((term for term in (word, class_of(word)) if self.supports(term)), None)


class TableDetector(Detector):
    """Looks objects up in a table: for tests, and for detections from elsewhere.

    Args:
        table: picture -> its objects, or object -> score. A picture is named by its path or its file name.
        threshold: an object is present if its score is above it.
        vocabulary: objects that the detector knows; null: all.
        boxes: picture -> object -> left, top, right and bottom, as fractions of the picture; null: unknown.
    """

    def __init__(
        self,
        table: Mapping[str, Mapping[str, float] | Sequence[str]],
        threshold: float = 0.5,
        vocabulary: list[str] | None = None,
        boxes: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    ) -> None:
        self.table = {
            key: dict(row) if isinstance(row, Mapping) else dict.fromkeys(row, 1.0) for key, row in table.items()
        }
        self.threshold = threshold
        self.vocabulary = None if vocabulary is None else frozenset(vocabulary)
        self.boxes = boxes or {}

    def supports(self, name: str) -> bool:
        return self.vocabulary is None or name in self.vocabulary

    def look(self, images: Sequence[Any], objects: Sequence[Sequence[str]]) -> list[Detections]:
        return [self._detect(image, names) for image, names in zip(images, objects, strict=True)]

    def _detect(self, image: Any, names: Sequence[str]) -> Detections:
        path = str(getattr(image, "filename", image))
        row, boxes = _entry(self.table, path), _entry(self.boxes, path) or {}
        if row is None:
            raise UserError(f"TableDetector.table has no picture {path!r}; add it, or leave the picture out.")
        detections: Detections = {}
        for name in names:
            score = row.get(name, 0.0)
            present = score > self.threshold
            detections[name] = Detection(present, score, inside(boxes[name]) if present and name in boxes else None)
        return detections


def _entry(table: Mapping[str, Any], path: str) -> Any:
    """A table's entry for a picture, by its path or its file name."""
    return table.get(path, table.get(path.rsplit("/", 1)[-1]))


def inside(box: Sequence[float], within: Sequence[float] = (0.0, 0.0, 1.0, 1.0)) -> Box:
    """A box relative to an outer box, clipped at the outer box's edges.

    Args:
        box: left, top, right and bottom.
        within: the outer box, in the same coordinates.
    """
    left, top, width, height = within[0], within[1], within[2] - within[0], within[3] - within[1]
    starts, sizes = (left, top, left, top), (width, height, width, height)
    a, b, c, d = (
        min(1.0, max(0.0, (edge - start) / size)) for edge, start, size in zip(box, starts, sizes, strict=True)
    )
    return a, b, c, d


MAX_ASPECT_RATIO = 50
"""Processors would round the short side of a thinner picture to zero pixels."""


def opened(images: Sequence[Any]) -> list[Image.Image]:
    """The pictures as RGB, with a black margin beside extremely thin ones."""
    return [_padded(open_image(image)) for image in images]


def _padded(picture: Image.Image) -> Image.Image:
    least = -(-max(picture.size) // MAX_ASPECT_RATIO)
    if min(picture.size) >= least:
        return picture
    sheet = Image.new("RGB", (max(picture.width, least), max(picture.height, least)))
    left, top = (sheet.width - picture.width) // 2, (sheet.height - picture.height) // 2
    sheet.paste(picture, (left, top))
    right, bottom = left + picture.width, top + picture.height
    sheet.info[_PLACE] = (left / sheet.width, top / sheet.height, right / sheet.width, bottom / sheet.height)
    return sheet


_PLACE = "place of the picture"


def on_picture(box: Sequence[float], sheet: Image.Image) -> Box:
    """A box on a picture with the margin of `opened`, as a box on the picture itself."""
    return inside(box, sheet.info.get(_PLACE, (0.0, 0.0, 1.0, 1.0)))
