"""Detectors behind one interface: ``present(image, objects) -> {object: Detection(found, score, box)}``.

YOLO-World is not among them, as ``ultralytics`` is under the AGPL: docs/sentinel.md shows the dozen lines of a plug-in.
"""

from lit_uniopd.hallucination.detectors.base import Detector as Detector
from lit_uniopd.hallucination.detectors.base import TableDetector as TableDetector
from lit_uniopd.hallucination.detectors.noisy import NoisyOracle as NoisyOracle
from lit_uniopd.hallucination.detectors.pretrained import ClosedSet as ClosedSet
from lit_uniopd.hallucination.detectors.pretrained import GroundingDino as GroundingDino
from lit_uniopd.hallucination.detectors.pretrained import OmDetTurbo as OmDetTurbo
from lit_uniopd.hallucination.detectors.pretrained import Owlv2 as Owlv2
from lit_uniopd.hallucination.verdicts import Detection as Detection
