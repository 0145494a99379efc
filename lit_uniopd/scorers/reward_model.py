"""Reward models: one number for a whole answer."""

from typing import Any, Literal

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lit_uniopd.errors import UserError
from lit_uniopd.scorers.base import Scorer, refuse_pictures
from lit_uniopd.types import Rollouts


class RewardModel(Scorer):
    """A sequence classifier with one output (ArmoRM, Skywork-Reward and their like) reads prompt and answer.

    Args:
        path: hub id or directory; with its own chat template.
        batch_size: answers at a time.
        max_length: longer conversations have no score.
        dtype: of its weights.
        trust_remote_code: run Python code that comes with the model.
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 8,
        max_length: int = 4096,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        self.path = self.name = path
        self.batch_size = batch_size
        self.max_length = max_length
        self.dtype = dtype
        self.trust_remote_code = trust_remote_code
        self._loaded: tuple[Any, Any] | None = None

    @torch.no_grad()
    def __call__(self, rollouts: Rollouts, device: torch.device) -> list[float]:
        model, tokenizer = self._load(device)
        refuse_pictures(rollouts, f"The reward model {self.path}")
        tokens = []
        for prompt, text in zip(rollouts.prompts, rollouts.text, strict=True):
            turns = [*map(dict, prompt.messages), {"role": "assistant", "content": text}]
            said = tokenizer.apply_chat_template(turns, tokenize=False)
            tokens.append(tokenizer(said, add_special_tokens=False).input_ids)
        scores = [float("nan")] * len(tokens)
        # Of like length together: padding costs time.
        fitting = [i for i, ids in enumerate(tokens) if len(ids) <= self.max_length]
        fitting.sort(key=lambda i: len(tokens[i]))
        for start in range(0, len(fitting), self.batch_size):
            rows = fitting[start : start + self.batch_size]
            padded = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt").to(device)
            logits = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits
            for row, score in zip(rows, logits[:, 0].float().tolist(), strict=True):
                scores[row] = score
        return scores

    def _load(self, device: torch.device) -> tuple[Any, Any]:
        if self._loaded is None:
            options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
            try:
                tokenizer: Any = AutoTokenizer.from_pretrained(self.path, **options)
                model = AutoModelForSequenceClassification.from_pretrained(
                    self.path, dtype=self.dtype, use_safetensors=True, **options
                )
            except (OSError, ValueError) as error:
                raise UserError(f"The reward model {self.path} cannot be loaded: {error}") from error
            if model.config.num_labels != 1:
                raise UserError(
                    f"The reward model {self.path} has {model.config.num_labels} outputs; choose one with a single one."
                )
            if tokenizer.chat_template is None:
                raise UserError(f"The reward model {self.path} has no chat template, so it cannot be shown answers.")
            tokenizer.padding_side = "right"
            self._loaded = model.eval().to(device), tokenizer
        return self._loaded
