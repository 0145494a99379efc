"""What is kept of a bootstrapping: a line for each caption, a row for each pair."""

from collections.abc import Mapping
from typing import Any

from lit_uniopd.hallucination.bootstrap import Caption


def caption_line(caption: Caption) -> dict[str, Any]:
    """A finished caption, as JSON; with the picture's true objects if its row has a list of them."""
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
        "verdicts": caption.book.verdicts,
        "votes": caption.book.votes,
        "pairs": [
            {
                "context": pair.context,
                "chosen": pair.chosen.text,
                "rejected": pair.rejected.text,
                "sentence": pair.sentence,
                "context_factual": pair.context_factual,
                "objects_chosen": list(pair.chosen.objects),
                "hallucinated_rejected": list(pair.rejected.hallucinated),
            }
            for pair in caption.pairs
        ],
    }


def pair_rows(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pairs of a caption's line, as ``SentencePairDataModule`` reads them."""
    return [
        {
            "id": f"{line['id']}#{number}",
            "domain": line["domain"],
            "prompt": line["messages"],
            "images": line["images"],
            **pair,
        }
        for number, pair in enumerate(line["pairs"])
    ]
