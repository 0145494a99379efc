"""Process reward models: an answer is as good as its worst step."""

from typing import Any, Literal

import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from lit_uniopd.errors import UserError
from lit_uniopd.scorers.base import Scorer, refuse_pictures
from lit_uniopd.types import Rollouts


class ProcessRewardModel(Scorer):
    """A token classifier in the form that TRL's ``PRMTrainer`` trains: a step is judged at the token that ends it.

    It reads the question and the steps, each with the separator behind it. The probability of the second label, at the
    last token of the separator, is the step's; the least one, times ``scale``, the answer's.

    Args:
        path: hub id or directory.
        separator: ends a step, as in the model's training.
        split_on: what separates steps in answers; empty ones do not count.
        scale: score of an answer without any doubt; the paper's data have 10.
        max_length: longer conversations have no score.
        dtype: of its weights.
    """

    def __init__(
        self,
        path: str,
        separator: str = "\n",
        split_on: str = "\n\n",
        scale: float = 10.0,
        max_length: int = 4096,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    ) -> None:
        if not separator or not split_on:
            raise UserError("ProcessRewardModel.separator and split_on must not be empty.")
        self.path = self.name = path
        self.separator = separator
        self.split_on = split_on
        self.scale = scale
        self.max_length = max_length
        self.dtype = dtype
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, rollouts: Rollouts, device: torch.device) -> list[float]:
        refuse_pictures(rollouts, f"The process reward model {self.path}")
        questions = ("\n".join(str(turn["content"]) for turn in prompt.messages) for prompt in rollouts.prompts)
        return [self.score(asked, text, device) for asked, text in zip(questions, rollouts.text, strict=True)]

    @torch.no_grad()
    def score(self, question: str, answer: str, device: torch.device) -> float:
        """Score of one answer; NaN if it has no step, or is too long."""
        model, tokenizer = self._load(device)

        def encode(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False).input_ids

        steps = [step for step in answer.split(self.split_on) if step.strip()]
        ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        ids += encode(question)
        ends = []
        for step in steps:
            ids += encode(step) + encode(self.separator)
            ends.append(len(ids) - 1)
        if not ends or len(ids) > self.max_length:
            return float("nan")
        logits = model(input_ids=torch.tensor([ids], device=device)).logits[0, ends].float()
        return self.scale * float(logits.softmax(dim=-1)[:, 1].min())

    def _load(self, device: torch.device) -> tuple[Any, Any]:
        if self._loaded is None:
            try:
                tokenizer: Any = AutoTokenizer.from_pretrained(self.path)
                model = AutoModelForTokenClassification.from_pretrained(
                    self.path, dtype=self.dtype, use_safetensors=True
                )
            except (OSError, ValueError) as error:
                raise UserError(f"The process reward model {self.path} cannot be loaded: {error}") from error
            if model.config.num_labels != 2:
                raise UserError(
                    f"The process reward model {self.path} has {model.config.num_labels} labels; choose one with two, "
                    "wrong and right."
                )
            self._loaded = model.eval().to(device), tokenizer
        return self._loaded
