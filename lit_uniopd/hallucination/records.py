"""The files of a bootstrapping: a line for each caption, a row for each pair."""

from collections.abc import Mapping, Sequence
from typing import Any

from lit_uniopd.hallucination.bootstrap import Caption


def caption_line(caption: Caption, detectors: Sequence[str] = ()) -> dict[str, Any]:
    """A finished caption as JSON; with the picture's true objects if its row has a list of them.

    Args:
        caption: the finished caption.
        detectors: their names, in the order of the votes.
    """
    truth = caption.prompt.row.get("objects")
    return {
        "id": caption.prompt.id,
        "domain": caption.prompt.domain,
        "messages": [dict(message) for message in caption.prompt.messages],
        "images": list(caption.prompt.images),
        "caption": caption.text,
        "stopped": caption.stopped,
        "labels": [sentence.label for sentence in caption.sentences],
        "steps": caption.steps,
        "dropped": dict(caption.dropped),
        **({"objects": truth} if isinstance(truth, list) else {}),
        "verdicts": caption.verdict_cache.verdicts,
        "votes": caption.verdict_cache.votes,
        "boxes": _boxes(caption, detectors),
        "detectors": list(detectors),
        "pairs": [
            {
                "context": pair.context,
                "chosen": pair.chosen.text,
                "rejected": pair.rejected.text,
                "sentence": pair.sentence,
                "context_factual": pair.context_factual,
                "objects_chosen": list(pair.chosen.objects),
                "objects_rejected": list(pair.rejected.objects),
                "hallucinated_rejected": list(pair.rejected.hallucinated),
            }
            for pair in caption.pairs
        ],
    }


def _boxes(caption: Caption, detectors: Sequence[str]) -> list[dict[str, Any]]:
    """All boxes, as fractions of the picture, rounded to four digits."""
    return [
        {
            "object": word,
            "detector": detectors[number] if number < len(detectors) else f"detector {number + 1}",
            "score": round(detection.score, 4),
            "place": [round(edge, 4) for edge in detection.box],
        }
        for word, detections in caption.verdict_cache.detections.items()
        for number, detection in enumerate(detections)
        if detection is not None and detection.found and detection.box is not None
    ]


def pair_rows(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pairs of a caption's line, as ``SentencePairDataModule`` reads them.

    Each has the evidence for the objects of its sentences, and for those on which detectors disagree: candidates that
    named these were left out. Lines that predate boxes give rows without boxes.
    """
    return [
        {
            "id": f"{line['id']}#{number}",
            "domain": line["domain"],
            "prompt": line["messages"],
            "images": line["images"],
            **pair,
            **_evidence(line, [*pair["objects_chosen"], *pair.get("objects_rejected", pair["hallucinated_rejected"])]),
        }
        for number, pair in enumerate(line["pairs"])
    ]


def checked_prompts(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The pictures of captions' lines as prompts, each with the objects of its candidates that are factual.

    Pictures without one are left out: a teacher that reads `factual` would have nothing to read.

    Returns:
        Rows as ``PromptDataModule`` reads them; ``factual`` is in alphabetical order.
    """
    rows = [
        {
            "id": line["id"],
            "domain": line["domain"],
            "prompt": line["messages"],
            "images": line["images"],
            "factual": sorted(word for word, verdict in line["verdicts"].items() if verdict == "factual"),
        }
        for line in lines
    ]
    return [row for row in rows if row["factual"]]


def _evidence(line: Mapping[str, Any], mentioned: Sequence[str]) -> dict[str, Any]:
    unsure = [word for word, verdict in line["verdicts"].items() if verdict == "uncertain"]
    words = [word for word in dict.fromkeys([*mentioned, *unsure]) if word in line["verdicts"]]
    return {
        "verdicts": {word: line["verdicts"][word] for word in words},
        "votes": {word: line["votes"][word] for word in words},
        "boxes": [box for box in line.get("boxes", ()) if box["object"] in words],
        "detectors": line.get("detectors", []),
    }
