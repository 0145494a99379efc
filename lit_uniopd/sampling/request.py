"""What every engine gets, the request, and what it fills in, the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from lit_uniopd.policy.backbone import head_of
from lit_uniopd.policy.chat_template import EncodedPrompt, UnprocessedPrompt
from lit_uniopd.policy.multimodal import Vision, image_token_ids
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.utils.seeding import derive_seed
from lit_uniopd.utils.stop_request import poll


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """Prompts to answer, and how. Answers to one prompt are adjacent rows."""

    model: nn.Module
    """A transformers model, bare or PEFT-wrapped, in eval mode."""
    prompt_tokens: Sequence[Sequence[int]]
    """Token ids of each prompt; nothing is added."""
    args: SamplingArgs
    eos_ids: Sequence[int]
    """Each of them ends an answer; ascending."""
    pad_id: int
    """Pads shorter prompts."""
    seed: int
    """Of all randomness."""
    keys: Sequence[int]
    """Name each prompt's noise."""
    first: int = 0
    """Number of the first answer to each prompt, for its noise."""
    vision: Sequence[Vision]
    """Of each prompt, what the processor made of its pictures."""
    unprocessed: Sequence[UnprocessedPrompt | None]
    """Of each prompt with pictures, what the processor made that of, for engines with processors of their own."""
    processor: Any = None
    """The model's tokenizer or processor, for such engines."""
    read_weights: Callable[[Callable[[], Any]], Any] = lambda compute: compute()
    """Runs what reads the model's weights; ``layer_by_layer`` of a policy whose weights are sharded."""
    on_progress: Callable[[int, int], None] | None = None
    """Called with (finished answers, all answers) whenever more are finished."""
    on_tokens: Callable[[int], None] | None = None
    """Called with the number of tokens that were written since the last call."""
    answers: int = field(init=False)
    """Different answers to each prompt."""
    banned: list[int] = field(init=False)
    """Tokens that no answer may have: an image token in an answer would have no image behind it."""

    def __post_init__(self) -> None:
        if not len(self.keys) == len(self.vision) == len(self.unprocessed) == len(self.prompt_tokens):
            raise ValueError("keys, vision and unprocessed must have one entry per prompt")
        greedy = self.args.temperature == 0  # greedy answers are all the same
        object.__setattr__(self, "answers", 1 if greedy else self.args.n)
        object.__setattr__(self, "banned", image_token_ids(self.model))

    def prompt(self, number: int) -> EncodedPrompt:
        """One of the prompts, with its pictures."""
        return EncodedPrompt(list(self.prompt_tokens[number]), self.vision[number], self.unprocessed[number])

    def vllm_seed(self, prompt: int) -> int:
        """Of the first answer to one of the prompts; vLLM counts on from it for the others."""
        return derive_seed(self.seed, "vllm", self.keys[prompt]) % 2**31 + self.first

    @property
    def probe(self) -> EncodedPrompt:
        """By which an engine with weights of its own is compared with the student: the first prompt that has pictures,
        or else the first.
        """
        return self.prompt(next((number for number, pictures in enumerate(self.vision) if pictures), 0))

    @property
    def device(self) -> torch.device:
        """Where the model computes, and where the answers stay."""
        return head_of(self.model).weight_VH.device

    @property
    def rows(self) -> int:
        """Different answers to all prompts."""
        return len(self.prompt_tokens) * self.answers

    @property
    def eos_E(self) -> Tensor:
        return torch.tensor(self.eos_ids, dtype=torch.long, device=self.device)

    def generation_config(self) -> GenerationConfig:
        """The sampling options as transformers takes them."""
        args = self.args
        greedy = args.temperature == 0
        sampling = {} if greedy else {"temperature": args.temperature, "top_p": args.top_p, "top_k": args.top_k}
        return GenerationConfig(
            do_sample=not greedy,
            max_new_tokens=args.max_new_tokens,
            eos_token_id=list(self.eos_ids) or None,
            pad_token_id=self.pad_id,
            suppress_tokens=self.banned or None,
            use_cache=True,
            **sampling,
        )


class AnswerBuffer:
    """Rows of a request, filled in by an engine. What follows an answer's first end token has no meaning.

    Args:
        request: whose answers they are.

    Attributes:
        tokens_BT: token ids ``[B, max_new_tokens]``.
        logps_BT: float32 log-probs of the same shape.
    """

    def __init__(self, request: GenerationRequest) -> None:
        shape = (request.rows, request.args.max_new_tokens)
        self.tokens_BT = torch.zeros(shape, dtype=torch.long, device=request.device)
        self.logps_BT = torch.zeros(shape, dtype=torch.float32, device=request.device)

    def put(self, row: int, tokens: Tensor, logps: Tensor) -> None:
        """Store one answer, with all of its tokens."""
        self.tokens_BT[row, : len(tokens)] = tokens.to(self.tokens_BT.device)
        self.logps_BT[row, : len(logps)] = logps.to(self.logps_BT.device)


class Progress:
    """Reports to the caller of a request how many answers are finished, and stops the engine after a signal.

    Args:
        request: whose ``on_progress`` is called.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.on_progress, self.on_tokens, self.rows = request.on_progress, request.on_tokens, request.rows
        self.repeat = request.args.n // request.answers
        self.reported = 0

    def __call__(self, finished: int, tokens: int = 0) -> None:
        """Report how many rows of the whole request are finished.

        Args:
            finished: since the beginning.
            tokens: written since the last call, as far as the engine tells.

        Raises:
            Stopped: if a signal has come and the answers may be left.
        """
        poll()
        if self.on_tokens is not None and tokens:
            self.on_tokens(tokens)
        if self.on_progress is not None and finished > self.reported:
            self.reported = finished
            self.on_progress(finished * self.repeat, self.rows * self.repeat)
