"""Detectors from transformers: three with an open vocabulary, one with a closed one."""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
)
from transformers.image_transforms import center_to_corners_format

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.detectors.base import Detections, Detector, on_picture, opened
from lit_uniopd.hallucination.detectors.labels import LabelMatch as LabelMatch
from lit_uniopd.hallucination.detectors.labels import labels_to_objects as labels_to_objects
from lit_uniopd.hallucination.lexicon import coco
from lit_uniopd.hallucination.verdicts import Detection


class PretrainedDetector(Detector):
    """Base of detectors that are loaded from the hub or a directory.

    Args:
        path: hub id or directory.
        batch_size: pictures in one forward pass.
        dtype: of the weights.
        device: where it runs; null: where the policy is.
    """

    model_class: ClassVar[Any] = AutoModelForZeroShotObjectDetection
    processor_class: ClassVar[Any] = AutoProcessor

    def __init__(
        self,
        path: str,
        batch_size: int = 16,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        device: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"{type(self).__name__}.batch_size must be at least 1, got {batch_size}.")
        self.path, self.batch_size, self.dtype, self.device = path, batch_size, dtype, device
        self.model: Any = None
        self.processor: Any = None

    @property
    def name(self) -> str:
        return f"{type(self).__name__}({self.path})"

    def load(self) -> tuple[Any, Any]:
        """Model and processor."""
        model = self.model_class.from_pretrained(self.path, dtype=getattr(torch, self.dtype), use_safetensors=True)
        return model, self.processor_class.from_pretrained(self.path)

    def prepare(self, device: torch.device | str) -> None:
        if self.model is None:
            with _explained(type(self).__name__, self.path):
                self.model, self.processor = self.load()
            self.model.to(self.device or device).requires_grad_(False).eval()

    @torch.no_grad()
    def look(self, images: Sequence[Any], objects: Sequence[Sequence[str]]) -> list[Detections]:
        self.prepare("cpu")
        detections: list[Detections] = []
        for start in range(0, len(images), self.batch_size):
            batch = slice(start, start + self.batch_size)
            detections += self.look_at(images[batch], [list(names) for names in objects[batch]])
        return detections

    @abstractmethod
    def look_at(self, images: Sequence[Any], objects: list[list[str]]) -> list[Detections]:
        """One batch."""

    def run(self, **inputs: Any) -> tuple[Any, Any]:
        """The processed inputs, and the model's outputs."""
        encoded = self.processor(**inputs, return_tensors="pt").to(self.model.device)
        dtype = self.model.dtype
        return encoded, self.model(**{k: v.to(dtype) if v.is_floating_point() else v for k, v in encoded.items()})


class GroundingDino(PretrainedDetector):
    """Grounding DINO, and models with its processor (MM-Grounding-DINO, LLMDet).

    All objects of a picture are looked for with one caption, or with several if the text encoder is too short.

    Args:
        path: hub id or directory.
        box_threshold: least score of a box; the released code's 0.35, not the library's 0.25.
        text_threshold: least score of a word of the caption for it to be part of the box's label.
        label_match: ``exact``: a box shows an object if its label is the object, and one whose label joins several
            objects leaves them undecided; ``substring``: a label shows each object that it contains, as in the
            released code ("woman" then shows a man, and "hot dog" a dog).
        **loading: as in `PretrainedDetector`.
    """

    def __init__(
        self,
        path: str = "IDEA-Research/grounding-dino-base",
        box_threshold: float = 0.35,
        text_threshold: float = 0.25,
        label_match: LabelMatch = "exact",
        **loading: Any,
    ) -> None:
        super().__init__(path, **loading)
        self.box_threshold, self.text_threshold = box_threshold, text_threshold
        self.label_match: LabelMatch = label_match

    def look_at(self, images: Sequence[Any], objects: list[list[str]]) -> list[Detections]:
        pictures = opened(images)
        captions = [self._captions(names) for names in objects]
        detections: list[Detections] = [{} for _ in images]
        for turn in range(max(map(len, captions))):
            rows = [row for row, portions in enumerate(captions) if turn < len(portions)]
            texts = [captions[row][turn] for row in rows]
            encoded, out = self.run(images=[pictures[row] for row in rows], text=texts, padding=True)
            probs_RQL = out.logits.float().sigmoid()
            corners_RQ4 = _corners(out.pred_boxes)
            for index, row in enumerate(rows):
                probs_QL, ids_L = probs_RQL[index], encoded["input_ids"][index]
                labels, scores = self._labels(probs_QL, ids_L)
                boxes = corners_RQ4[index][probs_QL.amax(dim=1) > self.box_threshold].tolist()
                places = [on_picture(box, pictures[row]) for box in boxes]
                detections[row] |= labels_to_objects(texts[index], labels, scores, self.label_match, places)
        return detections

    def _labels(self, probs_QL: Tensor, ids_L: Tensor) -> tuple[list[str], list[float]]:
        """Labels and scores of boxes above the threshold, as in the library, but without the caption's end tokens."""
        scores_Q = probs_QL.amax(dim=1)
        keep = scores_Q > self.box_threshold
        # The first and the last token belong to no word.
        above_threshold = probs_QL[keep][:, 1 : len(ids_L) - 1] > self.text_threshold
        labels = [self.processor.tokenizer.decode(ids_L[1:-1][row]) for row in above_threshold]
        return labels, scores_Q[keep].tolist()

    def _captions(self, names: list[str]) -> list[list[str]]:
        """The objects in portions that fit the text encoder; objects that it cuts off would look absent."""
        room = int(getattr(self.model.config, "max_text_len", 256)) - 2
        portions: list[list[str]] = [[]]
        used = 0
        for name in names:
            size = len(self.processor.tokenizer(f"{name.lower()}. ", add_special_tokens=False).input_ids)
            if portions[-1] and used + size > room:
                portions.append([])
                used = 0
            portions[-1].append(name)
            used += size
        return portions


class Owlv2(PretrainedDetector):
    """OWLv2: every object is its own query, so that none hides another.

    Args:
        path: hub id or directory.
        threshold: least score.
        prompt: of an object.
        **loading: as in `PretrainedDetector`.
    """

    def __init__(
        self,
        path: str = "google/owlv2-base-patch16-ensemble",
        threshold: float = 0.2,
        prompt: str = "a photo of a {}",
        **loading: Any,
    ) -> None:
        super().__init__(path, **loading)
        self.threshold, self.prompt = threshold, prompt

    def look_at(self, images: Sequence[Any], objects: list[list[str]]) -> list[Detections]:
        # Equally many queries for each picture: the processor's own filler would be one more object to find.
        width = max(map(len, objects))
        queries = [[self.prompt.format(name) for name in (names * width)[:width]] for names in objects]
        pictures = opened(images)
        _, out = self.run(images=pictures, text=queries, truncation=True)
        # Boxes are fractions of a square that the picture fills from its top left corner.
        sides_R4 = torch.tensor([[max(p.size) / side for side in p.size * 2] for p in pictures])
        corners_RQ4 = _corners(out.pred_boxes).cpu() * sides_R4[:, None]
        return _best(pictures, objects, out.logits, corners_RQ4, self.threshold)


class OmDetTurbo(PretrainedDetector):
    """OmDet-Turbo; its processor needs torchvision. The paper found it too permissive (table 8).

    Args:
        path: hub id or directory.
        threshold: least score.
        **loading: as in `PretrainedDetector`.
    """

    def __init__(
        self,
        path: str = "omlab/omdet-turbo-swin-tiny-hf",
        threshold: float = 0.3,
        **loading: Any,
    ) -> None:
        super().__init__(path, **loading)
        self.threshold = threshold

    def look_at(self, images: Sequence[Any], objects: list[list[str]]) -> list[Detections]:
        pictures = opened(images)
        _, out = self.run(images=pictures, text=objects)
        corners_RQ4 = _corners(out.decoder_coord_logits)
        return _best(pictures, objects, out.decoder_class_logits, corners_RQ4, self.threshold)


class ClosedSet(PretrainedDetector):
    """A detector of fixed classes, such as RT-DETRv2 on COCO; the released code has YOLO11x here.

    The detections of the last pictures are cached, since all classes are detected at once.

    Args:
        path: hub id or directory.
        threshold: least score.
        **loading: as in `PretrainedDetector`.
    """

    model_class = AutoModelForObjectDetection
    processor_class = AutoImageProcessor
    CACHE_SIZE = 512
    """Pictures."""

    def __init__(
        self,
        path: str = "PekingU/rtdetr_v2_r50vd",
        threshold: float = 0.25,
        **loading: Any,
    ) -> None:
        super().__init__(path, **loading)
        self.threshold = threshold
        self._cache: OrderedDict[str, Detections] = OrderedDict()

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """Class of each of the model's labels, as COCO's lexicon has it ("aeroplane" is its airplane)."""
        self.prepare("cpu")
        squeezed = {name.replace(" ", ""): name for name in coco().classes} | {"tvmonitor": "tv"}
        return {
            number: squeezed.get(label, coco().canonical(label)) for number, label in self.model.config.id2label.items()
        }

    def supports(self, name: str) -> bool:
        return name in self.labels.values()

    def look_at(self, images: Sequence[Any], objects: list[list[str]]) -> list[Detections]:
        new = [image for image in images if not isinstance(image, str) or image not in self._cache]
        fresh = iter(self._detected(new) if new else [])
        rows = [self._cache[i] if isinstance(i, str) and i in self._cache else next(fresh) for i in images]
        for image, row in zip(images, rows, strict=True):
            if isinstance(image, str):
                self._cache[image] = row
        while len(self._cache) > self.CACHE_SIZE:
            self._cache.popitem(last=False)
        return [
            {name: row.get(name, Detection(False, 0.0)) for name in names}
            for names, row in zip(objects, rows, strict=True)
        ]

    def _detected(self, images: Sequence[Any]) -> list[Detections]:
        """For each picture, the best detection of every class above the threshold."""
        pictures = opened(images)
        _, out = self.run(images=pictures)
        # With a size of 1 boxes are fractions.
        results = self.processor.post_process_object_detection(
            out, threshold=self.threshold, target_sizes=[(1, 1)] * len(pictures)
        )
        detections: list[Detections] = []
        for picture, result in zip(pictures, results, strict=True):
            best: Detections = {}
            for label, score, box in zip(*(result[key].tolist() for key in ("labels", "scores", "boxes")), strict=True):
                name = self.labels[label]
                if name not in best or score > best[name].score:
                    best[name] = Detection(True, score, on_picture(box, picture))
            detections.append(best)
        return detections


def _corners(boxes_RQ4: Tensor) -> Tensor:
    """Left, top, right and bottom of boxes, from their centres and sizes."""
    boxes: Any = boxes_RQ4.float()
    corners: Any = center_to_corners_format(boxes)
    return corners


def _best(
    pictures: Sequence[Image.Image],
    objects: Sequence[Sequence[str]],
    logits_RQC: Tensor,
    corners_RQ4: Tensor,
    threshold: float,
) -> list[Detections]:
    """For each picture, the best box of each object; the objects are the first of the columns ``C``."""
    scores_RC, places_RC = logits_RQC.float().sigmoid().max(dim=1)
    outputs: list[Detections] = []
    for picture, names, scores, places, corners_Q4 in zip(
        pictures, objects, scores_RC.tolist(), places_RC.tolist(), corners_RQ4.tolist(), strict=True
    ):
        detections: Detections = {}
        for name, score, place in zip(names, scores, places, strict=False):
            present = score > threshold
            detections[name] = Detection(present, score, on_picture(corners_Q4[place], picture) if present else None)
        outputs.append(detections)
    return outputs


@contextmanager
def _explained(kind: str, path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{kind}.path {path}: this detector cannot be loaded; give a hub id or a directory that has one ({first})."
        ) from error
