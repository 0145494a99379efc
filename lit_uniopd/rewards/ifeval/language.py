"""Which language a text is in, by langdetect, as in the official checkers.

langdetect draws n-grams of the text at random. The official checkers let every process draw others, so that the verdict
on a few short texts changes from run to run; here all draw the same.
"""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langdetect.detector_factory import DetectorFactory

SEED = 0


def language_of(text: str) -> str | None:
    """Code of a language as in `languages`; None if no letter tells, as in numbers and URLs."""
    from langdetect import LangDetectException

    detector = _detectors().create()
    detector.append(text)
    try:
        return detector.detect()
    except LangDetectException:
        return None


def languages() -> list[str]:
    """The codes that langdetect knows: ISO 639-1, but ``zh-cn`` and ``zh-tw``."""
    return sorted(_detectors().get_lang_list())


@cache
def _detectors() -> "DetectorFactory":
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()  # langdetect's own would take its seed from the whole process
    factory.seed = SEED
    factory.load_profile(PROFILES_DIRECTORY)
    return factory
