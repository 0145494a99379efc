"""Process reward models: an answer is as good as its worst step."""

from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.scorers.base import Scorer, load_judge, refuse_pictures
from lit_uniopd.types import Rollouts


class ProcessRewardModel(Scorer):
    """A classifier of tokens: a step is judged at the token that ends it, an answer by its worst step.

    It reads the question and the steps, each with the separator behind it, as text (what TRL's former ``PRMTrainer``
    trained) or as a conversation (Qwen2.5-Math-PRM: ``separator`` ``<extra_0>``, ``as_chat`` and
    ``trust_remote_code``). The probability of the second label at the last token of the separator is the step's score;
    the lowest one, times ``scale``, is the answer's.

    Args:
        path: hub id or directory.
        separator: ends a step, as in the model's training.
        as_chat: question and steps are messages, in the model's own chat template.
        system: what the conversation begins with; null: nothing.
        split_on: what separates steps in answers; empty ones do not count.
        scale: score of an answer with probability 1; the paper's data have 10.
        max_length: longer conversations have no score.
        dtype: of its weights.
        trust_remote_code: run Python code that comes with the model.
    """

    def __init__(
        self,
        path: str,
        separator: str = "\n",
        as_chat: bool = False,
        system: str | None = None,
        split_on: str = "\n\n",
        scale: float = 10.0,
        max_length: int = 4096,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        if not separator or not split_on:
            raise UserError("ProcessRewardModel.separator and split_on must not be empty.")
        self.path = self.name = path
        self.separator = separator
        self.as_chat = as_chat
        self.system = system
        self.split_on = split_on
        self.scale = scale
        self.max_length = max_length
        self.dtype: str = dtype
        self.trust_remote_code = trust_remote_code
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, rollouts: Rollouts, device: torch.device) -> list[float]:
        refuse_pictures(rollouts, f"The process reward model {self.path}")
        questions = ("\n".join(str(turn["content"]) for turn in prompt.messages) for prompt in rollouts.prompts)
        return [self.score(question, text, device) for question, text in zip(questions, rollouts.text, strict=True)]

    @torch.no_grad()
    def score(self, question: str, answer: str, device: torch.device) -> float:
        """Score of one answer; NaN if it has no step, or is too long."""
        model, tokenizer = self._load(device)
        steps = [step for step in answer.split(self.split_on) if step.strip()]
        ids, ends = (self._chat if self.as_chat else self._text)(tokenizer, question, steps)
        if not ends or len(ends) != len(steps) or len(ids) > self.max_length:
            return float("nan")
        outputs = model(input_ids=torch.tensor([ids], device=device))
        logits = (outputs.logits if hasattr(outputs, "logits") else outputs[0])[0, ends].float()
        if logits.shape[-1] != 2:
            raise UserError(
                f"The process reward model {self.path} has {logits.shape[-1]} labels; choose one with two, wrong and "
                "right."
            )
        return self.scale * float(logits.softmax(dim=-1)[:, 1].min())

    def _text(self, tokenizer: Any, question: str, steps: list[str]) -> tuple[list[int], list[int]]:
        """Token ids of question and steps as text, and where steps end."""

        def encode(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False).input_ids

        ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        ids += encode(question)
        ends = []
        for step in steps:
            ids += encode(step) + encode(self.separator)
            ends.append(len(ids) - 1)
        return ids, ends

    def _chat(self, tokenizer: Any, question: str, steps: list[str]) -> tuple[list[int], list[int]]:
        """The same as a conversation."""
        turns = [] if self.system is None else [{"role": "system", "content": self.system}]
        turns += [{"role": "user", "content": question}]
        turns += [{"role": "assistant", "content": "".join(step + self.separator for step in steps)}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        separator = tokenizer(self.separator, add_special_tokens=False).input_ids
        size = len(separator)
        ends = [i for i in range(size - 1, len(ids)) if ids[i - size + 1 : i + 1] == separator]
        return ids, ends[-len(steps) :] if steps else []  # without those of the question

    def _load(self, device: torch.device) -> tuple[Any, Any]:
        if self._loaded is None:
            config = _config(self.path, self.trust_remote_code)
            remote = (getattr(config, "auto_map", None) or {}) if self.trust_remote_code else {}
            plain = "AutoModel" in remote and "AutoModelForTokenClassification" not in remote
            model, tokenizer = load_judge(
                AutoModel if plain else AutoModelForTokenClassification,
                self.path,
                "process reward model",
                trust_remote_code=self.trust_remote_code,
                dtype=self.dtype,
            )
            if self.as_chat and tokenizer.chat_template is None:
                raise UserError(f"The process reward model {self.path} has no chat template; set as_chat false.")
            self._loaded = model.eval().to(device), tokenizer
        return self._loaded


def _config(path: str, trust_remote_code: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The process reward model {path} cannot be loaded ({first_line(error)}); give another path."
        ) from error
