"""The data types at the seams.

Shape legend, used as suffixes of tensor names everywhere:

    B  samples (answers) in a batch      T  response tokens, padded      P  prompt tokens, padded
    V  vocabulary                        H  hidden width                 G  answers to one prompt (a group)
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lit_uniopd.errors import UserError
from lit_uniopd.grade import CORRECT as CORRECT
from lit_uniopd.grade import INCORRECT as INCORRECT
from lit_uniopd.grade import UNKNOWN as UNKNOWN
from lit_uniopd.grade import Grade as Grade

Message = Mapping[str, Any]
"""One chat turn: ``{"role": ..., "content": ...}``."""

FinishReason = Literal["stop", "length"]
"""``stop``: the answer ended with an end-of-sequence token; ``length``: it was cut at ``max_new_tokens``."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, and all that is needed to teach and grade its answers."""

    id: str
    """Stable name of the row, unique within its data set."""
    messages: tuple[Message, ...]
    """The conversation so far; a plain text prompt is one user message."""
    gold: Any = None
    """What the grader compares with, in the form that it expects. None: the answer cannot be graded."""
    domain: str = "default"
    """Curves and tables are split by it; if ``teacher`` is None, the teacher of this name scores the answers."""
    teacher: str | Mapping[str, float] | None = None
    """Name of the teacher that scores the answers, or of several with their weights in a mixture."""
    grader: str | None = None
    """Key of ``lit_uniopd.rewards.GRADERS``. None: outcomes are unknown."""
    images: tuple[Any, ...] = ()
    """Image references (paths or loaded pictures) in the order of their placeholders."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The other columns of the row, for graders that read more than the gold answer."""
    teacher_messages: tuple[Message, ...] | None = None
    """The conversation that teachers read in the place of ``messages``; None: that one. The student never sees it."""
    teacher_system: str | None = None
    """The system message that teachers read; None: that of the conversation, or of the teacher's options."""
    teacher_images: tuple[Any, ...] | None = None
    """The pictures that teachers see in the place of ``images``; None: those; empty: none."""
    best_answer: str | None = None
    """A right answer of the student's own to it, for teachers that read one; filled in anew in each step."""

    @property
    def teacher_label(self) -> str | None:
        """Its teacher's name; of several, all of their names, and their shares unless those are equal."""
        if not isinstance(self.teacher, Mapping):
            return self.teacher
        names, total = sorted(self.teacher), sum(self.teacher.values())
        if len(set(self.teacher.values())) == 1:
            return "-".join(names)
        return "-".join(f"{name}-{self.teacher[name] / total:.6g}" for name in names)

    @property
    def key(self) -> str:
        """Digest of what the student reads: the same in any file."""
        return _digest([list(map(dict, self.messages)), _image_names(self.images)])

    @property
    def teacher_key(self) -> str:
        """Digest of what student and teachers read; that of the student where they read the same."""
        if self.teacher_messages is self.teacher_system is self.teacher_images is None:
            return self.key
        messages = None if self.teacher_messages is None else list(map(dict, self.teacher_messages))
        images = None if self.teacher_images is None else _image_names(self.teacher_images)
        return _digest([self.key, messages, self.teacher_system, images])


def _image_names(images: Sequence[Any]) -> list[str]:
    """A reference as it is, a loaded picture by the digest of its content."""
    return [
        hashlib.sha256(image if isinstance(image, bytes) else image.tobytes()).hexdigest()
        if not isinstance(image, str)
        else image
        for image in images
    ]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:16]


class PromptBatch:
    """The prompts of one rollout.

    Deliberately neither a dataclass nor a ``Sequence``: Lightning walks through those on every step to move and cast
    tensors, and would copy each prompt.
    """

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = tuple(prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        return self.prompts[index]


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one prompt, and their quality scores."""

    prompt: Prompt
    chosen: str
    rejected: str
    score_chosen: float = float("nan")
    """In the data set's unit, or normalised; NaN: not judged."""
    score_rejected: float = float("nan")
    quality: float = 1.0
    """Weight of the pair, from its scores."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair as the policy reads it."""

    pair: PreferencePair
    prompt_tokens: tuple[int, ...]
    """Without pictures, which are processed when the pair is used; empty for a prompt that has some."""
    chosen_tokens: tuple[int, ...]
    """The token that ends the answer included."""
    rejected_tokens: tuple[int, ...]


class PairBatch:
    """The pairs of one step. Not a ``Sequence``, for the same reason as ``PromptBatch``."""

    def __init__(self, pairs: Sequence[EncodedPair]) -> None:
        self.pairs = tuple(pairs)

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(slots=True)
class Rollouts:
    """Answers written by the student, on their way from sampling to the update.

    Every field has one entry per sample, so a ``Rollouts`` can be indexed, concatenated, moved, saved and loaded as a
    whole. Padded positions hold 0 in every ``_BT`` tensor.
    """

    prompts: list[Prompt]
    prompt_tokens: list[list[int]]
    """The prompt as the student saw it (its own chat template), without padding."""
    tokens_BT: Tensor
    """Sampled token ids, right-padded; the end-of-sequence token is part of the response."""
    mask_BT: Tensor
    """Bool; True on response tokens."""
    student_logps_BT: Tensor
    """float32 log-probs of the sampled tokens under the student before the update, at the sampling temperature."""
    group_B: Tensor
    """Answers to the same prompt share a number, unique over the ranks of one rollout."""
    finish: list[FinishReason]
    text: list[str]
    outcome_B: Tensor
    """1 correct, 0 incorrect, -1 unknown."""
    grades: list[Grade]
    """The verdicts behind ``outcome_B``."""
    teacher_logps_BT: Tensor
    """float32; 0 where ``teacher_ok_B`` is False."""
    teacher_ok_B: Tensor
    """Bool; False where no teacher could score the answer. Such a sample trains nothing and is counted."""
    advantages_BT: Tensor
    keep_B: Tensor
    """Bool; balancing sets False. A removed sample trains nothing but still counts in the loss denominator."""
    vision: list[Mapping[str, Tensor]] = field(default_factory=list)
    """What the student's processor made of each prompt's pictures, shared by the answers to it; empty for text."""
    sampler_logps_BT: Tensor = None  # type: ignore[assignment]  # never None once made
    """float32 log-probs of the distribution that the tokens were sampled from; None: ``student_logps_BT``. Those of an
    engine with its own kernels differ slightly from the trainer's, and a teacher that writes answers has its own."""
    clipped_BT: Tensor = None  # type: ignore[assignment]  # never None once made
    """Bool; True where the update's policy ratio left its clip range, so that the token has no gradient; None:
    nowhere."""
    scored_BT: Tensor = None  # type: ignore[assignment]  # never None once made
    """Bool; False on response tokens that a teacher with another tokenizer could not score, which train nothing:
    ``teacher_logps_BT`` is the student's there. None: all response tokens."""
    teacher_top_ids: list[Tensor] = field(default_factory=list)
    """int32 ``[T, K]``, unpadded and in host memory: at each token of an answer the teacher's likeliest ones, where the
    loss compares those and the teacher is on a server; K is 0 elsewhere."""
    teacher_top_logps: list[Tensor] = field(default_factory=list)
    """Their log-probs, float32."""

    def __post_init__(self) -> None:
        self.vision = self.vision or [{}] * len(self.prompts)
        if self.sampler_logps_BT is None:
            self.sampler_logps_BT = self.student_logps_BT
        if self.scored_BT is None:
            self.scored_BT = self.mask_BT.clone()
        if self.clipped_BT is None:
            self.clipped_BT = torch.zeros_like(self.mask_BT)
        self.teacher_top_ids = self.teacher_top_ids or [torch.zeros(0, 0, dtype=torch.int32)] * len(self.prompts)
        self.teacher_top_logps = self.teacher_top_logps or [torch.zeros(0, 0)] * len(self.prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths_B(self) -> Tensor:
        """Response tokens per sample."""
        return self.mask_BT.sum(dim=1)

    @property
    def domain(self) -> list[str]:
        return [prompt.domain for prompt in self.prompts]

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> "Rollouts":
        """Take samples, in the given order. Trailing all-padding columns are dropped."""
        if isinstance(index, slice):
            index = torch.arange(len(self))[index]
        rows = index if isinstance(index, Tensor) else torch.tensor(list(index), dtype=torch.long)
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        indices = rows.tolist()
        width = int(self.lengths_B[rows.to(self.mask_BT.device)].max()) if indices else 0
        values: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                value = value[rows.to(value.device)]
                values[f.name] = value[:, :width] if f.name.endswith("_BT") else value
            else:
                values[f.name] = [value[i] for i in indices]
        return Rollouts(**values)

    @classmethod
    def cat(cls, batches: Sequence["Rollouts"]) -> "Rollouts":
        """Concatenate along the samples, padding to the longest response."""
        if not batches:
            raise ValueError("Rollouts.cat needs at least one part")
        width = max(batch.tokens_BT.shape[1] for batch in batches)
        values: dict[str, Any] = {}
        for f in fields(cls):
            columns = [getattr(batch, f.name) for batch in batches]
            if isinstance(columns[0], Tensor):
                if f.name.endswith("_BT"):
                    columns = [torch.nn.functional.pad(column, (0, width - column.shape[1])) for column in columns]
                values[f.name] = torch.cat(columns)
            else:
                values[f.name] = [item for column in columns for item in column]
        return cls(**values)

    def to(self, device: torch.device | str) -> "Rollouts":
        """Move every tensor."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.to(device) for name, t in tensors.items() if isinstance(t, Tensor)})

    def save(self, path: str | Path) -> None:
        """Write to one file that ``load`` reads without executing pickles. Pictures are kept as references only."""
        state = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("prompts", "vision")}
        state["prompts"] = [_prompt_state(prompt) for prompt in self.prompts]
        state["grades"] = [asdict(grade) for grade in self.grades]
        torch.save(state, path)

    @classmethod
    def load(cls, path: str | Path) -> "Rollouts":
        """Read what ``save`` wrote.

        Raises:
            UserError: if the file does not hold rollouts.
        """
        state = torch.load(path, weights_only=True)
        names = {f.name for f in fields(cls)} - {"vision"}
        # Older files have no tokens that teachers could not score.
        if not isinstance(state, dict) or set(state) | {"scored_BT"} != names:
            raise UserError(f"{path} does not hold rollouts; give a file written by Rollouts.save.")
        state["prompts"] = [_prompt_of(item) for item in state["prompts"]]
        state["grades"] = [Grade(**item) for item in state["grades"]]
        return cls(**state)


_TUPLES = ("messages", "images", "teacher_messages", "teacher_images")


def _prompt_state(prompt: Prompt) -> dict[str, Any]:
    """A prompt as plain lists and texts; loaded pictures by their description."""
    state = {f.name: getattr(prompt, f.name) for f in fields(prompt)}
    for name in _TUPLES:
        if state[name] is not None:
            state[name] = [
                dict(x) if isinstance(x, Mapping) else x if isinstance(x, str) else repr(x) for x in state[name]
            ]
    if isinstance(prompt.teacher, Mapping):
        state["teacher"] = dict(prompt.teacher)
    return {**state, "row": dict(prompt.row)}


def _prompt_of(state: Mapping[str, Any]) -> Prompt:
    return Prompt(**{**state, **{name: tuple(state[name]) for name in _TUPLES if state.get(name) is not None}})
