"""Writing answers with the policy: text prompts in, tokens and their log-probs out."""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig

from lit_uniopd.backbone import body_of, head_of, unwrap
from lit_uniopd.decoding import Decoder, arguments, decodable, decode, left_pad
from lit_uniopd.drawing import Uniforms, draw
from lit_uniopd.engines import continuous, server
from lit_uniopd.engines.server import ServerArgs
from lit_uniopd.errors import UserError
from lit_uniopd.interrupts import poll
from lit_uniopd.seeding import derive_seed
from lit_uniopd.types import FinishReason
from lit_uniopd.vision import Vision, grid_positions, picture_ids, vision_inputs

log = logging.getLogger(__name__)

LocalEngine = Literal["loop", "generate", "cb"]
Engine = Literal["loop", "generate", "cb", "vllm"]

OWN_KERNELS: frozenset[Engine] = frozenset({"cb", "vllm"})
"""Engines that compute otherwise than training does: the trainer computes the log-probs of their answers again."""


@dataclass
class SamplingArgs:
    """How answers are written."""

    n: int = 16
    """Answers per prompt."""
    max_new_tokens: int = 1024
    """Longest answer in tokens; a longer one is cut, and counts as truncated."""
    temperature: float = 1.0
    """Divides the logits; 0 always takes the most probable token."""
    top_p: float = 1.0
    """Sample from the fewest tokens whose probability reaches this; 1 for all. Log-probs stay those over all tokens."""
    top_k: int = 0
    """Sample from so many most probable tokens; 0 for all. Log-probs stay those over all tokens."""
    max_rows: int = 256
    """Answers written at the same time: fewer need less memory. The answers themselves do not depend on it."""
    engine: Engine = "loop"
    """loop: our own, which drops finished answers; generate: the one of transformers, slower, to compare with; cb:
    transformers' continuous batching, for text on CUDA; vllm: servers, for text."""
    server: ServerArgs | None = None
    """The servers of `engine: vllm`."""

    def __post_init__(self) -> None:
        rules = {
            "n": (self.n >= 1, "at least 1"),
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 (greedy) or more"),
            "top_p": (0 < self.top_p <= 1, "in (0, 1]"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "max_rows": (self.max_rows >= 1, "at least 1"),
            "engine": (self.engine in get_args(Engine), "loop, generate, cb or vllm"),
        }
        for name, (good, rule) in rules.items():
            if not good:
                raise UserError(f"sampling.{name} must be {rule}, got {getattr(self, name)}.")
        if (self.engine == "vllm") != (self.server is not None):
            raise UserError("sampling.engine=vllm and sampling.server belong together; set both or neither.")

    def reach(self) -> None:
        """Ask the servers, if there are any, whether they serve the student.

        Raises:
            UserError: if one cannot be reached, or serves something else.
        """
        if self.server is not None:
            server.connect(self.server)


@dataclass(slots=True)
class Completions:
    """Answers to ``B / n`` prompts, the ``n`` answers to one prompt adjacent. Padded positions hold 0."""

    tokens_BT: Tensor
    """Token ids, right-padded to the longest answer; the end-of-sequence token is part of the answer."""
    mask_BT: Tensor
    """Bool; True on the answer's tokens."""
    logps_BT: Tensor
    """float32 log-probs under the full softmax at the sampling temperature (at 1 when greedy). Other engines than loop
    and generate report those that they drew with: after top_p and top_k, and by kernels of their own."""
    finish: list[FinishReason]


@torch.no_grad()
def sample(
    model: nn.Module,
    prompt_tokens: Sequence[Sequence[int]],
    args: SamplingArgs,
    *,
    eos_ids: Collection[int],
    pad_id: int,
    seed: int,
    keys: Sequence[int] | None = None,
    vision: Sequence[Vision] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Completions:
    """Write ``args.n`` answers to each prompt.

    With the loop, answer ``j`` to a prompt depends on the weights, the prompt, ``seed``, the prompt's key and ``j``
    alone, as far as the model's own logits do not change with the batch. ``generate`` draws from torch's generator and
    promises that only for an equal batch. Torch's random state is left as it was.

    Args:
        model: A transformers causal (or image-text) model, bare or PEFT-wrapped, in eval mode.
        prompt_tokens: Token ids as the model shall see them; nothing is added.
        args: How to sample.
        eos_ids: Each of them ends an answer; may be empty.
        pad_id: Stands in the padding of shorter prompts; may be one of ``eos_ids``.
        seed: Of all randomness.
        keys: Name each prompt's noise, so that its answers do not depend on its place. None: the prompts' numbers.
        vision: Of each prompt, what the processor made of its pictures. None: there are none.
        on_progress: Called with (finished answers, all answers) whenever more are finished.

    Raises:
        ValueError: if a prompt is empty, there is none, or the model is in training mode.
        UserError: if prompt and answer do not fit in the model's table of positions.
        FloatingPointError: if the model's logits are not finite.
    """
    _check(model, prompt_tokens, args)
    answers = args.n if args.temperature > 0 else 1  # greedy answers are all the same
    run = Run(model, prompt_tokens, answers, args, eos_ids, pad_id, seed, keys, vision, on_progress)
    if args.engine == "vllm":
        server.write(run)
    elif args.engine == "cb":
        continuous.write(run)
    elif args.engine == "loop" and _can_loop(model):
        run.loop()
    else:
        run.generate()
    return _completions(run.tokens_BT, run.logps_BT, run.eos_E, repeat=args.n // answers)


def _completions(tokens_BT: Tensor, logps_BT: Tensor, eos_E: Tensor, repeat: int) -> Completions:
    """Cut each row behind its first end-of-sequence token, then repeat the rows."""
    ended_BT = torch.isin(tokens_BT, eos_E)
    stopped_B = ended_BT.any(dim=1)
    lengths_B = torch.where(stopped_B, ended_BT.int().argmax(dim=1) + 1, tokens_BT.shape[1])
    mask_BT = torch.arange(int(lengths_B.max()), device=tokens_BT.device) < lengths_B[:, None]
    tokens_BT = tokens_BT[:, : mask_BT.shape[1]] * mask_BT
    logps_BT = logps_BT[:, : mask_BT.shape[1]].masked_fill(~mask_BT, 0)
    if not bool(logps_BT.isfinite().all()):
        raise FloatingPointError("The policy's logits are not finite: the weights have diverged or are damaged.")
    finish: list[FinishReason] = ["stop" if stopped else "length" for stopped in stopped_B.tolist()]
    return Completions(
        tokens_BT.repeat_interleave(repeat, dim=0),
        mask_BT.repeat_interleave(repeat, dim=0),
        logps_BT.repeat_interleave(repeat, dim=0),
        [reason for reason in finish for _ in range(repeat)],
    )


def _check(model: nn.Module, prompt_tokens: Sequence[Sequence[int]], args: SamplingArgs) -> None:
    if not prompt_tokens or not all(prompt_tokens):
        raise ValueError("prompt_tokens must hold at least one prompt, and each at least one token")
    if model.training:
        raise ValueError(
            "model must be in eval mode: dropout, or checkpointing without a KV cache, would spoil answers"
        )
    config = unwrap(model).config.get_text_config(decoder=True)
    positions = getattr(config, "max_position_embeddings", None)
    longest = max(map(len, prompt_tokens))
    # Rotary positions reach beyond their training length; a table of learned ones ends there.
    if positions and not getattr(config, "rope_parameters", None) and longest + args.max_new_tokens > positions:
        raise UserError(
            f"sampling.max_new_tokens={args.max_new_tokens} does not fit: the model has {positions} positions and the "
            f"longest prompt takes {longest}; lower it to {positions - longest} or drop long prompts."
        )


def _can_loop(model: nn.Module) -> bool:
    if decodable(model):
        return True
    _warn_fallback(type(unwrap(model)).__name__)
    return False


@cache
def _warn_fallback(name: str) -> None:
    log.warning("sampling.engine=loop cannot split the cache of %s; sampling.engine=generate is used instead.", name)


class Run:
    """One call of ``sample``: what every engine reads, and the rows it writes."""

    def __init__(
        self,
        model: nn.Module,
        prompt_tokens: Sequence[Sequence[int]],
        answers: int,
        args: SamplingArgs,
        eos_ids: Collection[int],
        pad_id: int,
        seed: int,
        keys: Sequence[int] | None,
        vision: Sequence[Vision] | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.model, self.prompt_tokens, self.answers, self.args = model, prompt_tokens, answers, args
        self.pad_id, self.seed, self.on_progress = pad_id, seed, on_progress
        self.device = head_of(model).weight_VH.device
        rows = len(prompt_tokens) * answers
        self.tokens_BT = torch.zeros(rows, args.max_new_tokens, dtype=torch.long, device=self.device)
        self.logps_BT = torch.zeros(rows, args.max_new_tokens, dtype=torch.float32, device=self.device)
        self.eos_E = torch.tensor(sorted(eos_ids), dtype=torch.long, device=self.device)
        self.done = self.told = 0
        self.vision = list(vision) if vision is not None else [{}] * len(prompt_tokens)
        self.keys = list(keys) if keys is not None else list(range(len(prompt_tokens)))
        if not len(self.keys) == len(self.vision) == len(prompt_tokens):
            raise ValueError("keys and vision must have one entry per prompt")
        # Chosen by the model, a picture's token would be a picture without a picture.
        self.banned = picture_ids(model)

    def loop(self) -> None:
        args = self.args
        keys_P = torch.tensor(self.keys, dtype=torch.long, device=self.device)
        answer_B = torch.arange(self.answers, device=self.device).repeat(len(keys_P))
        uniforms = Uniforms(self.seed, keys_P.repeat_interleave(self.answers), answer_B)

        def choose(step: int, rows_R: Tensor, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
            if self.banned:
                return self._draw_allowed(logits_RV, uniforms(step, rows_R))
            return draw(logits_RV, uniforms(step, rows_R), args.temperature, args.top_k, args.top_p)

        for picked, answers, rows_R in self._batches():
            decoder = Decoder(self.model, args.max_new_tokens)
            prompts, vision = [self.prompt_tokens[i] for i in picked], [self.vision[i] for i in picked]
            logits_RV = decoder.prefill(prompts, answers, self.pad_id, vision)
            decode(decoder, logits_RV, rows_R, choose, self.eos_E, self.tokens_BT, self.logps_BT, self.tell)
            self.done += len(rows_R)

    def _draw_allowed(self, logits_RV: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
        """Never a picture's token; log-probs stay those over all tokens, as everywhere."""
        args = self.args
        logps_RV = (logits_RV / (args.temperature or 1)).log_softmax(dim=-1)
        logits_RV[:, self.banned] = -torch.inf
        tokens_R, _ = draw(logits_RV, uniform_R, args.temperature, args.top_k, args.top_p)
        return tokens_R, logps_RV.gather(1, tokens_R[:, None])[:, 0]

    def generate(self) -> None:
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            # One generator for the whole call: ranks differ by their prompts' keys.
            torch.manual_seed(derive_seed(self.seed, "generate", self.keys[0]))
            for picked, answers, rows_R in self._batches():
                prompts, vision = [self.prompt_tokens[i] for i in picked], [self.vision[i] for i in picked]
                ids_PL, mask_PL = left_pad(prompts, self.pad_id, self.device)
                out_RL = self._generate(ids_PL, mask_PL, answers, vision)
                new_RT = out_RL[:, ids_PL.shape[1] :]
                mask_RL = F.pad(mask_PL.repeat_interleave(answers, dim=0), (0, new_RT.shape[1]), value=True)
                repeated = [row for row in vision for _ in range(answers)]
                logps_RT = _response_logps(self.model, out_RL, mask_RL, new_RT, self.args.temperature or 1, repeated)
                self.tokens_BT[rows_R, : new_RT.shape[1]] = new_RT
                self.logps_BT[rows_R, : new_RT.shape[1]] = logps_RT
                self.tell(len(rows_R))
                self.done += len(rows_R)

    def _generate(self, ids_PL: Tensor, mask_PL: Tensor, answers: int, vision: Sequence[Vision]) -> Tensor:
        base, config = unwrap(self.model), self.generation_config(answers)
        pictures = vision_inputs(self.model, ids_PL, vision)
        # What is left open is taken from the model's own config (repetition penalties, say), so that is set aside.
        own, base.generation_config = base.generation_config, GenerationConfig()
        try:
            return base.generate(  # type: ignore[operator]
                ids_PL, attention_mask=mask_PL.long(), generation_config=config, **pictures
            )
        finally:
            base.generation_config = own

    def generation_config(self, answers: int) -> GenerationConfig:
        """How to sample, in transformers' words."""
        args = self.args
        greedy = args.temperature == 0
        sampling = {} if greedy else {"temperature": args.temperature, "top_p": args.top_p, "top_k": args.top_k}
        return GenerationConfig(
            do_sample=not greedy,
            max_new_tokens=args.max_new_tokens,
            num_return_sequences=answers,
            eos_token_id=self.eos_E.tolist() or None,
            pad_token_id=self.pad_id,
            suppress_tokens=self.banned or None,
            use_cache=True,
            **sampling,
        )

    def _batches(self) -> Iterator[tuple[list[int], int, Tensor]]:
        """Numbers of prompts, answers to each, and their rows: long prompts first, for little padding in a batch."""
        order = sorted(range(len(self.prompt_tokens)), key=lambda i: -len(self.prompt_tokens[i]))
        together = max(1, self.args.max_rows // self.answers)
        for start in range(0, len(order), together):
            picked = order[start : start + together]
            for first in range(0, self.answers, self.args.max_rows):
                part = range(first, min(self.answers, first + self.args.max_rows))
                rows_R = torch.tensor([i * self.answers + j for i in picked for j in part], device=self.device)
                yield picked, len(part), rows_R

    def tell(self, finished: int) -> None:
        """``finished`` answers of this batch are, beside those of earlier batches."""
        poll()
        finished += self.done
        if self.on_progress is not None and finished > self.told:
            self.told = finished
            repeat = self.args.n // self.answers
            self.on_progress(finished * repeat, len(self.tokens_BT) * repeat)


def _response_logps(
    model: nn.Module, ids_RL: Tensor, mask_RL: Tensor, new_RT: Tensor, temperature: float, vision: Sequence[Vision]
) -> Tensor:
    """Log-probs of the last tokens of each row, by one pass over prompt and answer."""
    body, head = body_of(model), head_of(model)
    pictures = vision_inputs(model, ids_RL, vision)
    grid = grid_positions(model, ids_RL, mask_RL, pictures)
    positions_RL = (mask_RL.cumsum(dim=1) - 1).clamp(min=0) if grid is None else grid[0]
    positions = {"position_ids": positions_RL} if "position_ids" in arguments(body) else {}
    hidden_RLH = body(
        input_ids=ids_RL, attention_mask=mask_RL, use_cache=False, **positions, **pictures
    ).last_hidden_state
    hidden_RTH = hidden_RLH[:, -new_RT.shape[1] - 1 : -1]
    logps_RT = torch.empty(new_RT.shape, dtype=torch.float32, device=new_RT.device)
    for t in range(new_RT.shape[1]):  # a column at a time: [R, T, V] may not fit
        logits_RV = head.logits(hidden_RTH[:, t]) / temperature
        logps_RT[:, t] = logits_RV.log_softmax(dim=-1).gather(1, new_RT[:, t, None])[:, 0]
    return logps_RT
