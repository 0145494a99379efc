"""Whether a picture has an object, from the votes of several detectors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

Verdict = Literal["factual", "hallucinated", "uncertain"]
Vote = bool | None
"""True: the detector sees the object; None: it cannot tell, as the object is not in its vocabulary, or as the label of
its box joins several objects."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as fractions of the picture."""


class Detection(NamedTuple):
    """A detector's result for one object."""

    found: Vote
    """None: undecided."""
    score: float
    """The best, in [0, 1]."""
    box: Box | None = None
    """Of the best score, if the object was found and the detector returns boxes."""


OutOfVocabulary = Literal["accept", "abstain", "reject"]
Uncertain = Literal["ignore", "factual", "hallucinated"]


def vote_of(detection: Detection | None) -> Vote:
    """The vote that follows from a detection; None: the object is not in the vocabulary."""
    return None if detection is None else detection.found


def cross_check(
    votes: Sequence[Mapping[str, Vote]],
    *,
    out_of_vocabulary: OutOfVocabulary = "abstain",
    uncertain: Uncertain = "ignore",
) -> dict[str, Verdict]:
    """Verdict on each object (SENTINEL, section 3.2): all detectors see it, none does, or they disagree.

    Args:
        votes: of each detector, on the same objects.
        out_of_vocabulary: how a detector's None counts. ``accept`` is the released code's choice, so that only objects
            of its closed vocabulary can be hallucinated; ``abstain`` leaves the verdict to the other detectors. An
            undecided detection counts alike.
        uncertain: the verdict if detectors disagree; ``ignore`` makes it "uncertain" (the paper's choice, table 9).

    Raises:
        ValueError: if there is no detector, or they voted on different objects.
    """
    if not votes or any(set(vote) != set(votes[0]) for vote in votes):
        raise ValueError("votes must come from at least one detector, and all be on the same objects")
    filler = {"accept": True, "abstain": None, "reject": False}[out_of_vocabulary]
    verdicts: dict[str, Verdict] = {}
    for name in votes[0]:
        cast = [filler if vote[name] is None else vote[name] for vote in votes]
        distinct_votes = {vote for vote in cast if vote is not None}
        verdict: Verdict = "uncertain"
        if len(distinct_votes) == 1:
            verdict = "factual" if distinct_votes == {True} else "hallucinated"
        elif uncertain != "ignore":
            verdict = uncertain
        verdicts[name] = verdict
    return verdicts


class VerdictCache:
    """The verdicts on one picture so far. They are never revised.

    Several words may name one class (man, woman), and detectors may answer them differently. As in the released
    ``run/utils.py``, a word is hallucinated if its own verdict says so, or if that of every word of its class does;
    otherwise it is uncertain if one of these is.

    Args:
        canonical: word -> class.
    """

    def __init__(self, canonical: Callable[[str], str]) -> None:
        self.canonical = canonical
        self.verdicts: dict[str, Verdict] = {}
        self.detections: dict[str, list[Detection | None]] = {}
        """Word -> detection by each detector; None: it is not in its vocabulary."""
        self._class_verdicts: dict[str, set[Verdict]] = {}

    def unknown(self, words: Sequence[str]) -> list[str]:
        """The words, each once, whose class has no verdict yet."""
        return [word for word in dict.fromkeys(words) if self.canonical(word) not in self._class_verdicts]

    @property
    def votes(self) -> dict[str, list[Vote]]:
        """Word -> vote of each detector."""
        return {word: [vote_of(detection) for detection in row] for word, row in self.detections.items()}

    def add(self, verdicts: Mapping[str, Verdict], detections: Sequence[Mapping[str, Detection | None]] = ()) -> None:
        """Store new verdicts with each detector's detections."""
        for word, verdict in verdicts.items():
            self.verdicts[word] = verdict
            self.detections[word] = [row[word] for row in detections]
            self._class_verdicts.setdefault(self.canonical(word), set()).add(verdict)

    def __getitem__(self, word: str) -> Verdict:
        """Verdict on a word, from its own and its class's verdicts.

        Raises:
            KeyError: if its class has none.
        """
        class_verdicts = self._class_verdicts[self.canonical(word)]
        if self.verdicts.get(word) == "hallucinated" or class_verdicts == {"hallucinated"}:
            return "hallucinated"
        return "uncertain" if "uncertain" in class_verdicts else "factual"

    def of(self, verdict: Verdict) -> list[str]:
        """The words with a verdict, in alphabetical order."""
        return sorted(word for word, other in self.verdicts.items() if other == verdict)
