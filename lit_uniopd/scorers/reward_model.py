"""Reward models: one number for a whole answer."""

from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification

from lit_uniopd.errors import UserError
from lit_uniopd.scorers.base import Scorer, load_judge, refuse_pictures
from lit_uniopd.types import Rollouts


class RewardModel(Scorer):
    """A sequence classifier that reads prompt and answer and gives one number.

    That is its only output (Skywork-Reward and its like), or the one it names `score`: ArmoRM's own code adds up its
    weighted objectives.

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
            conversation = tokenizer.apply_chat_template(turns, tokenize=False)
            tokens.append(tokenizer(conversation, add_special_tokens=False).input_ids)
        scores = [float("nan")] * len(tokens)
        # Similar lengths together: padding costs time.
        fitting = [i for i, ids in enumerate(tokens) if len(ids) <= self.max_length]
        fitting.sort(key=lambda i: len(tokens[i]))
        pad = model.config.pad_token_id
        # Without a padding token the model cannot tell where an answer ends.
        size = 1 if pad is None else self.batch_size
        for start in range(0, len(fitting), size):
            rows = fitting[start : start + size]
            texts = [torch.tensor(tokens[row]) for row in rows]
            ids_BT = pad_sequence(texts, batch_first=True, padding_value=pad or 0)
            mask_BT = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
            outputs = model(input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device))
            rewards = outputs.logits if getattr(outputs, "score", None) is None else outputs.score
            if rewards.numel() != len(rows):
                raise UserError(
                    f"The reward model {self.path} has {rewards.shape[-1]} outputs; choose one with a single one, or "
                    "that makes a `score` of them."
                )
            for row, score in zip(rows, rewards.flatten().float().tolist(), strict=True):
                scores[row] = score
        return scores

    def _load(self, device: torch.device) -> tuple[Any, Any]:
        if self._loaded is None:
            model, tokenizer = load_judge(
                AutoModelForSequenceClassification,
                self.path,
                "reward model",
                trust_remote_code=self.trust_remote_code,
                dtype=self.dtype,
            )
            if tokenizer.chat_template is None:
                raise UserError(f"The reward model {self.path} has no chat template; choose one that has.")
            self._loaded = model.eval().to(device), tokenizer
        return self._loaded
