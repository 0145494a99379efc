"""Statistics of a bootstrapping: pairs, verdicts, and signs of shortcuts in the pairs."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lit_uniopd.hallucination.chair import chair


def bootstrap_report(captions: Sequence[Mapping[str, Any]], detectors: Sequence[str] = ()) -> dict[str, Any]:
    """Statistics of captions that `records.caption_line` wrote.

    Args:
        captions: of all pictures.
        detectors: their names, in the order of the votes.

    Returns:
        Counts and shares; averages over pairs are missing if there are none. CHAIR's scores of the captions, if the
        objects of all pictures are known.
    """
    pairs = [pair for caption in captions for pair in caption["pairs"]]
    verdicts = Counter(verdict for caption in captions for verdict in caption["verdicts"].values())
    labels = Counter(label for caption in captions for step in caption["steps"] for label in _repeated(step))
    votes = [vote for caption in captions for vote in caption["votes"].values()]
    report: dict[str, Any] = {
        "pictures": len(captions),
        "pairs": len(pairs),
        "pairs_per_picture": round(len(pairs) / max(len(captions), 1), 3),
        "pictures_without_pairs": sum(not caption["pairs"] for caption in captions),
        "pairs_by_sentence": _by(Counter(pair["sentence"] + 1 for pair in pairs)),
        "stopped": _by(Counter(caption["stopped"] for caption in captions)),
        "sentences_per_caption": _mean([len(caption["labels"]) for caption in captions]),
        "objects": sum(verdicts.values()),
        "verdicts": _shares(verdicts),
        "candidates": _shares(labels),
        "dropped_candidates": dict(sum((Counter(caption["dropped"]) for caption in captions), Counter())),
        "rejected_by": {
            name: round(statistics.fmean(vote[i] is False for vote in votes), 4)
            for i, name in enumerate(detectors)
            if votes
        },
    }
    if captions and all("objects" in caption for caption in captions):
        texts, truths = zip(*((caption["caption"], caption["objects"]) for caption in captions), strict=True)
        scores = {name: round(value, 4) for name, value in asdict(chair(texts, truths)).items()}
        report["captions"] = scores | {"words": _mean([len(text.split()) for text in texts])}
    if pairs:
        report["words_chosen"] = _mean([len(pair["chosen"].split()) for pair in pairs])
        report["words_rejected"] = _mean([len(pair["rejected"].split()) for pair in pairs])
        report["factual_contexts"] = _mean([bool(pair["context_factual"]) for pair in pairs])
        report["empty_contexts"] = sum(not pair["context"] for pair in pairs)
    return report


def format_report(report: Mapping[str, Any]) -> str:
    """The report as a few lines of text."""
    shares = lambda key: ", ".join(f"{name} {share:.0%}" for name, share in report[key].items()) or "none"  # noqa: E731
    lines = [
        f"{report['pairs']} pairs of {report['pictures']} pictures ({report['pairs_per_picture']} a picture, "
        f"{report['pictures_without_pairs']} pictures without any)",
        f"objects: {shares('verdicts')}; rejected by {shares('rejected_by')}",
        f"candidates: {shares('candidates')}; dropped: {report['dropped_candidates'] or 'none'}",
    ]
    if report["pairs"]:
        lines.append(
            f"words of chosen and rejected sentences: {report['words_chosen']} and {report['words_rejected']}; "
            f"{report['factual_contexts']:.0%} of contexts are factual"
        )
    if "captions" in report:
        scores = report["captions"]
        lines.append(
            f"captions: {scores['chair_i']:.1%} of mentions hallucinated, in {scores['chair_s']:.1%} of captions; "
            f"{scores['recall']:.1%} of objects named, {scores['words']} words"
        )
    return "\n".join(lines)


def _repeated(step: Mapping[str, int]) -> list[str]:
    return [label for label, count in step.items() for _ in range(count)]


def _by(counts: Counter[Any]) -> dict[str, int]:
    return {str(key): counts[key] for key in sorted(counts, key=str)}


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: round(count / total, 4) for name, count in counts.most_common()}


def _mean(values: Sequence[float]) -> float:
    return round(statistics.fmean(values), 3) if values else 0.0
