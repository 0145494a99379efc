"""Whether a picture has an object, from the votes of several detectors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

Verdict = Literal["factual", "hallucinated", "uncertain"]
Vote = bool | None
"""True: the detector sees the object; None: the object is not in its vocabulary."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as fractions of the picture."""


class Detection(NamedTuple):
    """What a detector makes of an object that it was asked for."""

    found: bool
    score: float
    """The best, in [0, 1]."""
    box: Box | None = None
    """Where the best score is, if the object was found by a detector that tells places."""


OutOfVocabulary = Literal["accept", "abstain", "reject"]
Uncertain = Literal["ignore", "factual", "hallucinated"]


def vote_of(detection: Detection | None) -> Vote:
    """The vote that follows from a detection."""
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
        out_of_vocabulary: what a detector's None counts as. ``accept`` is what the released code does, so that only
            objects of its closed vocabulary can be hallucinated there; ``abstain`` leaves the verdict to the others.
        uncertain: what disagreement counts as; ``ignore`` keeps it apart (the paper's choice, table 9).

    Raises:
        ValueError: if there is no detector, or they were asked about different objects.
    """
    if not votes or any(set(vote) != set(votes[0]) for vote in votes):
        raise ValueError("votes must come from at least one detector, and all be on the same objects")
    filler = {"accept": True, "abstain": None, "reject": False}[out_of_vocabulary]
    found: dict[str, Verdict] = {}
    for name in votes[0]:
        cast = [filler if vote[name] is None else vote[name] for vote in votes]
        said = {vote for vote in cast if vote is not None}
        verdict: Verdict = "uncertain"
        if len(said) == 1:
            verdict = "factual" if said == {True} else "hallucinated"
        elif uncertain != "ignore":
            verdict = uncertain
        found[name] = verdict
    return found


class VerdictCache:
    """What is known of one picture. Verdicts are never revised.

    Several words may name one class (man, woman), and detectors may answer them differently. As in the released
    ``run/utils.py``, a word is hallucinated if it was found to be itself, or if every word of its class was; else it is
    uncertain if one of them is.

    Args:
        canonical: word -> class.
    """

    def __init__(self, canonical: Callable[[str], str]) -> None:
        self.canonical = canonical
        self.verdicts: dict[str, Verdict] = {}
        self.seen: dict[str, list[Detection | None]] = {}
        """Word -> what each detector makes of it; None: it is not in its vocabulary."""
        self._of_class: dict[str, set[Verdict]] = {}

    def unknown(self, words: Sequence[str]) -> list[str]:
        """The words, each once, about whose class nothing is known yet."""
        return [word for word in dict.fromkeys(words) if self.canonical(word) not in self._of_class]

    @property
    def votes(self) -> dict[str, list[Vote]]:
        """Word -> vote of each detector."""
        return {word: [vote_of(detection) for detection in row] for word, row in self.seen.items()}

    def add(self, verdicts: Mapping[str, Verdict], seen: Sequence[Mapping[str, Detection | None]] = ()) -> None:
        """Note new verdicts, and what the detectors saw."""
        for word, verdict in verdicts.items():
            self.verdicts[word] = verdict
            self.seen[word] = [row[word] for row in seen]
            self._of_class.setdefault(self.canonical(word), set()).add(verdict)

    def __getitem__(self, word: str) -> Verdict:
        """Verdict on a word, from what is known of it and of its class.

        Raises:
            KeyError: if nothing is known.
        """
        known = self._of_class[self.canonical(word)]
        if self.verdicts.get(word) == "hallucinated" or known == {"hallucinated"}:
            return "hallucinated"
        return "uncertain" if "uncertain" in known else "factual"

    def of(self, verdict: Verdict) -> list[str]:
        """The words with a verdict, in alphabetical order."""
        return sorted(word for word, found in self.verdicts.items() if found == verdict)
