"""What SENTINEL asks of a detector: which of these objects does this picture have?"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.verdicts import Box, Detection, Vote, vote_of
from lit_uniopd.utils.images import open_image

Seen = dict[str, Detection]
"""Object -> whether the picture has it, the best score, and where."""
Told = Mapping[str, Detection | tuple[bool, float]]
"""The same; a detector that tells no places may leave them out."""


def as_detection(said: Detection | tuple[bool, float]) -> Detection:
    """The same, with no place if none was told."""
    return said if isinstance(said, Detection) else Detection(*said)


class Detector(ABC):
    """Tells objects that are in a picture from those that are not.

    A subclass implements ``look``; one of a closed vocabulary also ``supports``.
    """

    @property
    def name(self) -> str:
        """For reports."""
        return type(self).__name__

    @property
    def settings(self) -> dict[str, Any]:
        """What verdicts depend on beside the picture: public attributes that are plain values."""
        speed = ("batch_size", "device")
        return {
            name: value
            for name, value in sorted(vars(self).items())
            if not name.startswith("_") and name not in speed and isinstance(value, str | int | float | tuple | None)
        }

    def supports(self, name: str) -> bool:
        """Whether the object is in the detector's vocabulary."""
        return True

    def prepare(self, device: torch.device | str) -> None:  # noqa: B027  # most of one's own need nothing
        """Load what is needed, before anything expensive starts."""

    @abstractmethod
    def look(self, images: Sequence[Any], objects: Sequence[Sequence[str]]) -> Sequence[Told]:
        """Look for objects in several pictures at once.

        Args:
            images: paths, or pictures that are open already.
            objects: of each picture, what to look for; each once, at least one, all supported.

        Returns:
            Of each picture, object -> ``Detection``, or the pair of found and score.
        """

    def present(self, image: Any, objects: Collection[str]) -> Seen:
        """Look for objects in one picture.

        Raises:
            UserError: if the picture cannot be read.
        """
        (told,) = self.look([image], [list(objects)]) if objects else [{}]
        return {name: as_detection(said) for name, said in told.items()}

    def votes(
        self, images: Sequence[Any], objects: Sequence[Sequence[str]], class_of: Callable[[str], str] = str
    ) -> list[dict[str, Vote]]:
        """Of each picture, object -> vote; None where the object is not in the vocabulary. Arguments as in `detect`."""
        return [
            {word: vote_of(detection) for word, detection in row.items()}
            for row in self.detect(images, objects, class_of)
        ]

    def detect(
        self, images: Sequence[Any], objects: Sequence[Sequence[str]], class_of: Callable[[str], str] = str
    ) -> list[dict[str, Detection | None]]:
        """Of each picture, object -> what is seen of it; None where the object is not in the vocabulary.

        Args:
            images: as in `look`.
            objects: of each picture, words for what to look for.
            class_of: word -> class. A word that is not in the vocabulary is asked for by its class, and what is seen
                speaks for all words of its class (released ``run/utils.py``, its two ``recognize_by`` functions).
        """
        terms = [{word: self._term(word, class_of) for word in words} for words in objects]
        asked = [list(dict.fromkeys(term for term in row.values() if term is not None)) for row in terms]
        rows = [row for row, names in enumerate(asked) if names]
        seen = self.look([images[row] for row in rows], [asked[row] for row in rows]) if rows else []
        best: list[dict[str, Detection]] = [{} for _ in objects]
        for row, found in zip(rows, seen, strict=True):
            for name, said in found.items():
                kind, detection = class_of(name), as_detection(said)
                best[row][kind] = max(detection, best[row].get(kind, detection), key=lambda d: (d.found, d.score))
        return [
            {word: None if term is None else best[row][class_of(word)] for word, term in named.items()}
            for row, named in enumerate(terms)
        ]

    def _term(self, word: str, class_of: Callable[[str], str]) -> str | None:
        """What to ask for; None: the detector cannot tell."""
        return next((term for term in (word, class_of(word)) if self.supports(term)), None)


class TableDetector(Detector):
    """Looks objects up in a table: for tests, and for detections that were made elsewhere.

    Args:
        table: picture -> objects that it has, or object -> score. A picture is named by its path, or by its file's
            name.
        threshold: an object is there if its score is above it.
        vocabulary: objects that the detector knows; null: all.
        boxes: picture -> object -> left, top, right and bottom, as fractions of the picture; null: not
            known.
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

    def look(self, images: Sequence[Any], objects: Sequence[Sequence[str]]) -> list[Seen]:
        return [self._seen(image, names) for image, names in zip(images, objects, strict=True)]

    def _seen(self, image: Any, names: Sequence[str]) -> Seen:
        path = str(getattr(image, "filename", image))
        row, boxes = _named(self.table, path), _named(self.boxes, path) or {}
        if row is None:
            raise UserError(f"TableDetector.table has no picture {path!r}; add it, or leave the picture out.")
        found: Seen = {}
        for name in names:
            score = row.get(name, 0.0)
            there = score > self.threshold
            found[name] = Detection(there, score, inside(boxes[name]) if there and name in boxes else None)
        return found


def _named(table: Mapping[str, Any], path: str) -> Any:
    """What a table has of a picture, by its path or by its file's name."""
    return table.get(path, table.get(path.rsplit("/", 1)[-1]))


def inside(box: Sequence[float], within: Sequence[float] = (0.0, 0.0, 1.0, 1.0)) -> Box:
    """A box as fractions of a part of what it is a fraction of, cut at that part's edges.

    Args:
        box: left, top, right and bottom.
        within: the part, likewise.
    """
    left, top, width, height = within[0], within[1], within[2] - within[0], within[3] - within[1]
    starts, sizes = (left, top, left, top), (width, height, width, height)
    a, b, c, d = (
        min(1.0, max(0.0, (edge - start) / size)) for edge, start, size in zip(box, starts, sizes, strict=True)
    )
    return a, b, c, d


THIN = 50
"""How many times as long as broad a picture may be: processors would round a thinner one's breadth to nothing."""


def opened(images: Sequence[Any]) -> list[Image.Image]:
    """The pictures as RGB; extremely thin ones have a black margin."""
    return [_broad(open_image(image)) for image in images]


def _broad(picture: Image.Image) -> Image.Image:
    least = -(-max(picture.size) // THIN)
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
    """A box on what `opened` made of a picture, as a box on the picture itself: without the margin."""
    return inside(box, sheet.info.get(_PLACE, (0.0, 0.0, 1.0, 1.0)))
