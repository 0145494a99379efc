"""What a pool needs of a teacher, wherever it lives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jinja2 import TemplateError
from torch import Tensor

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.functional.mixture import MixtureKind
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.chat_template import EncodedPrompt, tokenizer_of
from lit_uniopd.policy.policy import Policy
from lit_uniopd.teachers.answer_alignment import AnswerAligner
from lit_uniopd.teachers.args import TeacherArgs
from lit_uniopd.teachers.reading import Reading, WorkedExample
from lit_uniopd.teachers.tokenizer_match import foreign_ids
from lit_uniopd.types import Prompt, Rollouts


@dataclass(frozen=True, slots=True)
class TopLogps:
    """A teacher's likeliest tokens at each token of one answer, in host memory."""

    ids_TK: Tensor
    """int32."""
    logps_TK: Tensor
    """float32."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A teacher's log-probs of some answers."""

    rows: list[int]
    """Indices of these answers among those it was given."""
    logps_BT: Tensor | None
    """float32, at least as wide as the longest of these answers, 0 in padding; None: it could not score them."""
    problem: str = ""
    """Why not."""
    cached: bool = False
    """Whether they were read from disk."""
    top: list[TopLogps] | None = None
    """Of each of these answers, where they were asked for."""
    scored_BT: Tensor | None = None
    """Bool; False on tokens that are not aligned with the teacher's; None: all are scored."""


@dataclass(frozen=True, slots=True)
class TeacherPass:
    """A teacher's forward pass over some answers, in this process."""

    policy: Policy
    prompts: Sequence[EncodedPrompt]
    """Of each answer, as the teacher reads it."""
    in_place: Callable[[], AbstractContextManager[Any]] = nullcontext
    """See ``Teacher.in_place``."""
    share: float = 1.0
    """In a mixture of several."""
    mixture_kind: MixtureKind = "arithmetic"
    """Of that mixture."""

    def response_hidden(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Hidden states ``[B, T, H]`` from which it predicts the answers, without gradient; call in ``policy(...)``."""
        prompts, vision = [prompt.tokens for prompt in self.prompts], [prompt.vision for prompt in self.prompts]
        with self.policy.answering():
            return self.policy.response_hidden(prompts, tokens_BT, mask_BT, vision)


class Teacher(ABC):
    """A frozen teacher.

    Args:
        name: of the teacher in ``model.teachers``.
        args: where it comes from.

    Attributes:
        reading: from the student's prompt to what it reads.
        foreign_ids: the student's tokens that it does not know; set by ``check``.
        aligner: to its own tokens, where it has another tokenizer; made by ``check``.
        device: where it computes; None: where it was loaded.
        ranks: that will share its weights.
    """

    scores_distributions = True
    """Whether it has whole next-token distributions, not only the sampled tokens' log-probs."""
    by_layer = False
    """Whether all ranks must score together, also those that have nothing to score."""

    def __init__(self, name: str, args: TeacherArgs) -> None:
        self.name = name
        self.args = args
        self.flag = f"model.teachers.{name}"
        self.reading = Reading(args.reads, f"{self.flag}.reads")
        self.foreign_ids = torch.tensor([], dtype=torch.long)
        self.aligner: AnswerAligner | None = None
        self.device: torch.device | None = None
        self.ranks = 1

    def check(self, student_processor: Any, student_args: PolicyArgs) -> None:
        """Check, before any weights are loaded, that it exists and has the student's tokens, or others to align.

        Args:
            student_processor: tokenizer or processor of the student.
            student_args: of the student.

        Raises:
            UserError: naming the flag, if it does not exist or uses other tokens.
        """
        processor, student = self.processor_beside(student_processor, student_args), tokenizer_of(student_processor)
        if self.args.cross_tokenizer:
            flags = "model.student", self.flag
            self.aligner = AnswerAligner(student, processor, self.args.chat_template_kwargs, flags)
        else:
            self.foreign_ids = foreign_ids(student, tokenizer_of(processor), self.name)
        if self.reading.turns or self.reading.args.system or self.reading.args.draw:
            self._check_turns()

    def _check_turns(self) -> None:
        """Let the chat template write a system message and earlier turns, which not all of them take."""
        try:
            question = Prompt("question", ({"role": "user", "content": "question"},))
            self.tokenize(self._some_turns(replace(question, teacher_messages=question.messages)))
        except (UserError, TemplateError) as error:
            raise UserError(
                f"--{self.flag}.reads has a system message or examples, which its chat template cannot write "
                f"({first_line(error)}); choose a chat model, or write them into --{self.flag}.reads.template."
            ) from error

    def _some_turns(self, question: Prompt) -> Prompt:
        """A prompt with turns like those that it will read; nothing is drawn yet."""
        args, example = self.reading.args, WorkedExample("question", "answer")
        if args.draw is None:
            return self.reading(question)
        return Reading(replace(args, draw=None, examples=[example]), self.reading.flag)(question)

    @abstractmethod
    def processor_beside(self, student_processor: Any, student_args: PolicyArgs) -> Any:
        """The teacher's tokenizer or processor."""

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """The student's prompt as this teacher reads it. Every loss, cache and server gets it from here.

        Raises:
            UserError: naming the prompt, if its row lacks what the teacher is to read.
        """
        return self.tokenize(self.reading(prompt))

    @abstractmethod
    def tokenize(self, prompt: Prompt) -> EncodedPrompt:
        """A prompt that is the teacher's already, in its own chat template."""

    @abstractmethod
    def score(self, rollouts: Rollouts, *, temperature: float, max_tokens: int) -> Iterator[Scored]:
        """Log-probs of the response tokens; every answer is in exactly one of the results, in any order.

        Args:
            rollouts: answers, each to a prompt of this teacher.
            temperature: divides the logits.
            max_tokens: token budget of one forward pass.
        """

    @property
    @abstractmethod
    def policy(self) -> Policy:
        """The model itself, loaded now if it is not yet.

        Raises:
            UserError: if it is not in this process.
        """

    @property
    def loaded(self) -> Policy | None:
        """The model, if it is loaded in this process."""
        return None

    def load(self) -> None:  # noqa: B027  # a teacher elsewhere has nothing to load
        """Get ready to score."""

    def in_place(self) -> AbstractContextManager[Any]:
        """Its weights in ``policy``, where those of another are there otherwise; entered before ``gathered``."""
        return nullcontext()

    def gathered(self) -> AbstractContextManager[None]:
        """Whole weights, in place, where they are sharded over ranks; a collective call then."""
        return nullcontext() if self.loaded is None else self.loaded.gathered()

    def fetch(self) -> None:  # noqa: B027
        """Bring the weights to the device."""

    def send_away(self) -> None:  # noqa: B027
        """Free the device for other teachers, if the weights do not stay there."""


class Scorer(Protocol):
    """Scores answers: a teacher, or several as one. See ``Teacher`` for each of these."""

    @property
    def name(self) -> str: ...
    @property
    def foreign_ids(self) -> Tensor: ...
    @property
    def by_layer(self) -> bool: ...
    def gathered(self) -> AbstractContextManager[None]: ...
    def score(self, rollouts: Rollouts, *, temperature: float, max_tokens: int) -> Iterator[Scored]: ...
    def send_away(self) -> None: ...


class Encoder(Protocol):
    """Encodes prompts: a policy or a teacher."""

    def encode(self, prompt: Prompt, /) -> EncodedPrompt: ...


def encode_each(encoder: Encoder, prompts: Iterable[Prompt]) -> list[EncodedPrompt]:
    """Prompts as a policy or a teacher takes them; the answers of a group share one prompt object, encoded once."""
    encoded: dict[int, EncodedPrompt] = {}
    results = []
    for prompt in prompts:
        if id(prompt) not in encoded:
            encoded[id(prompt)] = encoder.encode(prompt)
        results.append(encoded[id(prompt)])
    return results
