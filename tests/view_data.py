"""Records of runs as they are on disk, and how to look at their page."""

import random
import shutil
from typing import Any

import pytest

from lit_uniopd.cli import main

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&lt;"


def group(number: int, rng: random.Random, answers: int = 8, tokens: int = 60) -> dict[str, Any]:
    def answer(place: int) -> dict[str, Any]:
        student = [round(-3 * rng.random(), 3) for _ in range(tokens)]
        teacher = [round(-3 * rng.random(), 3) for _ in range(tokens)]
        before = [b - a for a, b in zip(student, teacher, strict=True)]
        return {
            "outcome": place % 3 - 1,
            "reason": "boxed",
            "finish": "stop",
            "length": tokens,
            "kept": place != 0,
            "scored": True,
            "masked": False,
            "return": [round(sum(before) / tokens, 4), round(sum(before) / tokens + 0.2, 4)],
            "tokens": [rng.choice([" the", " sum", " is", "\n", NASTY]) for _ in range(tokens)],
            "student": student,
            "teacher": teacher,
            "advantage": [round(x + 0.2, 3) for x in before],
            "flags": "".join(rng.choice("...gc") for _ in range(tokens)),
        }

    return {
        "step": number // 10 * 10,
        "domain": ["math", "code"][number % 2],
        "teacher": ["math", "code"][number % 2],
        "why": [["best"], ["worst", "misordered"]][number % 3 == 0],
        "prompt": f"question {number} {NASTY}",
        "gold": "42",
        "answers": [answer(i) for i in range(answers)],
    }


def pair(number: int) -> dict[str, Any]:
    weights = {"w_quality": 0.5 + number / 100, "w_performance": 0.5, "margin": number - 5.0, "mastery": 0.206}
    rewards = {"chosen_reward": number - 6.0, "rejected_reward": -1.0}
    scores = {"score_chosen": 8.0, "score_rejected": None}
    texts = {"prompt": f"pair {number}", "chosen": f"good {NASTY}", "rejected": "bad"}
    return {"step": 3, "domain": "default", **texts, **scores, **weights, **rewards}


def sentence_pair(picture: str) -> dict[str, Any]:
    """Whose detectors disagree on the tree; Owlv2 takes the dog for a cat besides."""
    dog, tree = {"object": "dog", "place": [0.25, 0.5, 0.75, 1.0]}, {"object": "tree", "place": [0.0, 0.0, 0.5, 0.5]}
    boxes = [{**dog, "detector": name, "score": score} for name, score in (("GroundingDino", 0.9), ("Owlv2", 0.4))]
    cat = {**dog, "object": "cat", "detector": "Owlv2", "score": 0.3}
    return {
        **pair(0),
        "domain": "scenes",
        "score_chosen": None,
        "context": "There is a dog.",
        "images": [picture],
        "chosen": "The dogs rest.",
        "rejected": f"A cat is there. {NASTY}",
        "verdicts": {"dog": "factual", "cat": "uncertain", "tree": "uncertain", "sheep": "hallucinated"},
        "votes": {"dog": [True, True], "cat": [False, True], "tree": [True, None], "sheep": [False, False]},
        "boxes": [*boxes, cat, {**tree, "detector": "GroundingDino", "score": 0.5}],
        "detectors": ["GroundingDino", "Owlv2"],
    }


def caption(picture: str) -> dict[str, Any]:
    sentences = {"context": "A dog.", "chosen": "It has a ball.", "rejected": "It has a cat."}
    lists = {"objects_chosen": ["sports ball"], "hallucinated_rejected": ["cat"]}
    return {
        "id": "c1",
        "images": [picture],
        "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe."}]}],
        "caption": f"A dog. {NASTY}",
        "stopped": "end",
        "verdicts": {"dog": "factual", "cat": "hallucinated", "tree": "uncertain"},
        "votes": {"dog": [True, True], "cat": [False, False], "tree": [True, None]},
        "detectors": ["GroundingDino", "Owlv2"],
        "pairs": [{"sentence": 1, "context_factual": True, **sentences, **lists}],
    }


def main_status(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


def choose(tab: Any, name: str, value: str) -> str:
    tab.select_option(f"select[name={name}]", value)
    return tab.inner_text("#count")
