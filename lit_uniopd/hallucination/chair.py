"""CHAIR (Rohrbach et al. 2018): objects that a caption names and the picture does not have. By rule, without an LLM."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from lit_uniopd.hallucination.lexicon import Lexicon, chair_words


@dataclass(frozen=True, slots=True)
class ChairCounts:
    """One caption's counts; sums of them make the scores."""

    mentions: int
    """Different words that name an object; two words for one class are two."""
    hallucinated: int
    """Those words whose class the picture does not have."""
    hit: int
    """Classes of the picture that are named."""
    truth: int
    """Classes of the picture."""


@dataclass(frozen=True, slots=True)
class ChairScores:
    """Scores over captions, in [0, 1]."""

    chair_i: float
    """Hallucinated mentions by mentions, pooled over captions."""
    chair_s: float
    """Captions with a hallucinated mention by captions."""
    chair_s_refined: float
    """The same by captions with a mention: what Object HalBench reports."""
    recall: float
    """Named classes by classes, pooled."""


def chair_counts(mentions: Sequence[tuple[str, str]], truth: Iterable[str]) -> ChairCounts:
    """Counts of one caption.

    Args:
        mentions: (word, class) of each object that it names.
        truth: classes of the picture.
    """
    classes = set(truth)
    named_classes = {name for _, name in mentions}
    return ChairCounts(
        mentions=len(mentions),
        hallucinated=sum(name not in classes for _, name in mentions),
        hit=len(named_classes & classes),
        truth=len(classes),
    )


def chair(captions: Sequence[str], truths: Sequence[Iterable[str]], lexicon: Lexicon | None = None) -> ChairScores:
    """Scores of captions.

    Args:
        captions: texts.
        truths: for each, the classes of the picture.
        lexicon: of objects. None: CHAIR's own words for the 80 COCO classes.

    Raises:
        ValueError: if there are not as many truths as captions.
    """
    if len(captions) != len(truths):
        raise ValueError(f"captions and truths must be equally many, not {len(captions)} and {len(truths)}")
    words = lexicon or chair_words()
    return scores_of([chair_counts(words.mentions(text), truth) for text, truth in zip(captions, truths, strict=True)])


def scores_of(counts: Sequence[ChairCounts]) -> ChairScores:
    """Scores from counts; 0 where there is nothing to divide by."""
    total = {
        name: sum(asdict(count)[name] for count in counts) for name in ("mentions", "hallucinated", "hit", "truth")
    }
    wrong = sum(count.hallucinated > 0 for count in counts)
    naming = sum(count.mentions > 0 for count in counts)
    return ChairScores(
        chair_i=total["hallucinated"] / max(total["mentions"], 1),
        chair_s=wrong / max(len(counts), 1),
        chair_s_refined=wrong / max(naming, 1),
        recall=total["hit"] / max(total["truth"], 1),
    )
