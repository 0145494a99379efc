"""A real model in plain transformers, and conversations for it: what the tests of tests/real compare with."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_uniopd.types import Prompt

SUMS = [(3, 4), (12, 5), (9, 8), (7, 6), (2, 19), (11, 11), (15, 3), (4, 4)]


def asked(text: str, **options: Any) -> Prompt:
    """A question in a conversation without the template's own system message, which would cost 20 tokens."""
    messages = ({"role": "system", "content": "Answer."}, {"role": "user", "content": text})
    return Prompt(**{"id": text, "messages": messages} | options)


def sums(count: int) -> list[Prompt]:
    """Questions, each with a whole answer to learn from as its gold."""
    texts = [
        (f"What is {a} + {b}?", f"{a} + {b} = {a + b}, so the result is \\boxed{{{a + b}}}.") for a, b in SUMS[:count]
    ]
    return [asked(question, gold=answer) for question, answer in texts]


def questions(count: int) -> list[Prompt]:
    """The same without answers."""
    return [asked(prompt.id) for prompt in sums(count)]


def sharpen(path: str, directory: Path) -> None:
    """Write the model as one that is surer of everything it says: its logits times 1.5."""
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)  # the last thing before the output layer
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(path).save_pretrained(directory)


class Plain:
    """One row at a time and no padding; float64 says what float32 cannot know."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

    @cached_property
    def exact(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float64)

    def tokens(self, prompt: Prompt, answer: str | None = None) -> tuple[list[int], list[int]]:
        """Of the prompt, and of the answer with its end (the prompt's gold, if none is given)."""
        messages = [dict(message) for message in prompt.messages]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        answer = f"{prompt.gold if answer is None else answer}<|im_end|>"
        start, whole = (self.tokenizer(part, add_special_tokens=False).input_ids for part in (text, text + answer))
        assert whole[: len(start)] == start
        return start, whole[len(start) :]

    @staticmethod
    def logps(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
        """Log-probs of the answer's tokens, ``[T]``."""
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]

    @torch.no_grad()
    def exact_and_rounding(self, rows: list[tuple[list[int], list[int]]]) -> tuple[list[Tensor], float]:
        """Log-probs in float64, and how far those of float32 are from them at most.

        Another order of the same float32 sums is as far off: up to twice as far from each other, and no two of some
        hundred tokens are much worse than the worst of the others.
        """
        exact = [self.logps(self.exact, *row) for row in rows]
        rounded = [self.logps(self.model, *row).double() for row in rows]
        return exact, max(float((a - b).abs().max()) for a, b in zip(exact, rounded, strict=True))


class Steps(Callback):
    """The metrics of every step of a run, and its rollouts."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.rollouts: list[Any] = []

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Any) -> None:
        self.rollouts.append(rollouts)

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def __getitem__(self, name: str) -> list[float]:
        return [metrics[name] for metrics in self.metrics]
