"""Which candidates of a step become preference pairs, and which ones may continue the caption."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Literal

from lit_uniopd.hallucination.sentences import LabelledSentence

Positives = Literal["coherent", "agnostic", "both"]
PairsPerStep = Literal["one", "zip", "cross"]
Append = Literal["coherent_first", "agnostic_first", "greedy", "hallucinated"]
WhenNoFactual = Literal["stop", "resample", "not_hallucinated", "any"]
Choose = Callable[[Sequence[LabelledSentence]], LabelledSentence]

_COHERENT, _AGNOSTIC = "factual_context_coherent", "factual_context_agnostic"


def build_pairs(
    candidates: Sequence[LabelledSentence], *, positives: Positives = "coherent", per_step: PairsPerStep = "zip"
) -> list[tuple[LabelledSentence, LabelledSentence]]:
    """Pairs of a factual and a hallucinated candidate (SENTINEL, section 3.3).

    Args:
        candidates: of one step, each text once.
        positives: ``coherent``: only those that share an object with the context, as in the paper; see its table 3.
        per_step: ``one`` pair, ``zip``: the first factual with the first hallucinated and so on, so that none is used
            twice (released code), or ``cross``: each with each.
    """
    labels = {"coherent": (_COHERENT,), "agnostic": (_AGNOSTIC,), "both": (_COHERENT, _AGNOSTIC)}[positives]
    better = [candidate for candidate in candidates if candidate.label in labels]
    worse = [candidate for candidate in candidates if candidate.label == "hallucinated"]
    if per_step == "cross":
        return list(product(better, worse))
    pairs = list(zip(better, worse, strict=False))
    return pairs[:1] if per_step == "one" else pairs


def append_pool(
    candidates: Sequence[LabelledSentence], *, append: Append = "coherent_first", when_no_factual: WhenNoFactual
) -> list[LabelledSentence]:
    """Candidates that may continue the caption (iterative contextual bootstrapping); may be empty.

    Args:
        candidates: of one step.
        append: which are preferred. ``greedy`` is handled by the caller and selects none here.
        when_no_factual: ``any`` falls back on all candidates, as the released code does; ``not_hallucinated`` on those
            that name nothing wrong, as in captioning without training (table 6).
    """
    orders: dict[str, tuple[str, ...]] = {
        "coherent_first": (_COHERENT, _AGNOSTIC),
        "agnostic_first": (_AGNOSTIC, _COHERENT),
        "hallucinated": ("hallucinated",),
        "greedy": (),
    }
    for label in orders[append]:
        pool = [candidate for candidate in candidates if candidate.label == label]
        if pool:
            return pool
    if when_no_factual == "not_hallucinated":
        return [candidate for candidate in candidates if candidate.label != "hallucinated"]
    return list(candidates) if when_no_factual == "any" or append == "hallucinated" else []
