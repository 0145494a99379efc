"""The spec of a benchmark: data, prompt, decoding, scoring and report of one test set under one protocol.

The same model moves by ten points between prompt variants, so the protocol is part of a benchmark's identity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # its tensors; listing benchmarks needs none
    from lit_uniopd.types import Message, Prompt

ProfileName = Literal["fixture", "smoke", "curve", "paper"]

DOMAINS: dict[str, str] = {
    "math": "Mathematics",
    "code": "Code",
    "multimodal_math": "Multimodal mathematics",
    "logic": "Logic",
    "document": "Documents and charts",
}
"""The five domains of Uni-OPD, in the order of its tables; other benchmarks may have others."""


@dataclass(frozen=True, slots=True)
class HubData:
    """Where the rows are."""

    id: str
    """Data set on the hub (owner/name), or ``playground:SPLIT``."""
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    """Branch, tag or commit. None: the newest, which the records note by fingerprint."""
    fallbacks: tuple[str, ...] = ()
    """Other ids of the same rows, tried in order."""
    files: str | None = None
    """Read these raw JSON lines of the repository instead of its own loader."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A system message of lmms-eval, which we do not ship: it is read in the installed package, or the user's."""

    file: str
    """In its folder of tasks."""
    name: str
    """Of the constant in this file."""
    sha256: str
    """Of the text: another version's may be another."""
    given: str | None = None
    """By the user, for a machine without lmms-eval."""


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How a row becomes a chat."""

    template: str = "{question}"
    """The user's turn; fields are the roles of ``columns``, and ``options`` for the lettered options."""
    system: str | None = None
    wording: Wording | None = None
    """What is asked instead of ``system``, except about the bundled rows."""
    image_first: bool = True
    """Pictures before the text, unless the text marks their places."""
    user_text: Literal["marked", "stripped", "as_is"] = "marked"
    """``marked``: ``<image>`` marks the place of a picture. Otherwise it is text like any other, whose outer blanks are
    taken off (``stripped``) or stay (``as_is``)."""
    chat: Mapping[str, Any] = field(default_factory=lambda: {"enable_thinking": False})
    """Extra arguments of the chat template."""


@dataclass(frozen=True, slots=True)
class Generation:
    """How answers are written."""

    n: int = 1
    """Answers to each row."""
    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    """An answer is cut before the first of these strings, after it is written: this saves no time."""
    max_pixels: int | None = None
    """Largest picture in pixels; larger ones are shrunk. None: the model's own limit."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How answers are judged."""

    grader: str | None
    """Key of ``lit_uniopd.rewards.GRADERS``. None: answers are only exported, for a judge."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the grader, the same for all rows."""
    also: tuple[str, ...] = ()
    """More graders whose verdicts are recorded beside the first one's."""
    judge: str | None = None
    """The judge that published numbers need; the answers are exported in ``export`` format instead."""
    export: str | None = None
    """Official answer format, and what a judge is asked: ``alpaca_eval | arena_hard | mm_vet | object_halbench |
    sedareval``."""


@dataclass(frozen=True, slots=True)
class Report:
    """Scores, and how they are split and averaged."""

    metrics: tuple[Mapping[str, Any], ...]
    """Each ``{name: key of METRICS, **arguments}``; the first score of the first one stands for the benchmark."""
    breakdown: tuple[str, ...] = ()
    """Fields of ``Example.breakdown`` by which scores are split."""
    weight: float = 1.0
    """In the mean of the domain."""
    chance: float | None = None
    """Score of guessing, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class BenchmarkSpec:
    """One benchmark under one protocol; see ``benchmarks/specs/*.yaml``."""

    id: str
    protocol: str
    version: int
    """Raised when prompt, decoding or scoring change, so that old records are not mistaken for new ones."""
    title: str
    domain: str
    modality: Literal["text", "image"]
    hub: HubData
    scoring: Scoring
    report: Report
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role -> column. ``question``, ``answer``, ``id``, ``image`` (or ``images``) and ``options`` are understood."""
    adapter: str = "columns"
    """Key of ``ADAPTERS``: turns rows into examples."""
    adapter_args: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    """Role whose value names the problem that several rows belong to; None: every row is its own."""
    prompt: PromptFormat = field(default_factory=PromptFormat)
    generation: Generation = field(default_factory=Generation)
    size: int | None = None
    """Rows of the whole set, checked after loading."""
    fixture: str | None = None
    """JSON lines of a few rows in the schema of the hub, written by us. Relative to the YAML file."""
    licence: str = "not checked"
    source: str = ""
    """Origin of the protocol and of the published numbers."""
    verified: bool = False
    """Whether somebody has loaded it from the hub and run the gold self-check."""
    published: Mapping[str, float] = field(default_factory=dict)
    """Scores of the literature in [0, 1], by name, for the radar's lines."""

    @property
    def key(self) -> str:
        """Identity: ``chartqa@lmms``."""
        return f"{self.id}@{self.protocol}"


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a benchmark, ready to be answered and graded."""

    id: str
    """Unique in the benchmark and stable."""
    messages: "tuple[Message, ...]"
    gold: Any
    images: tuple[Any, ...] = ()
    """References in the order of their placeholders: paths, or loaded pictures."""
    group: str = ""
    """The problem this row belongs to; rows of one group are answered by one rank and scored together."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the grader for this row (``choices``, say); plain data."""
    breakdown: Mapping[str, str] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    """Other columns that graders, metrics or exports read; plain data."""
    grader: str | None = None
    """Key of ``GRADERS``, where rows differ; None: the benchmark's."""
    turns: tuple[str, ...] = ()
    """What the user asks in a conversation, each after the answer to the one before; ``messages`` end with the first.
    The answer to it is the transcript of all answers. Empty: there is one question and one answer."""
    for_teacher: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``Prompt`` that say what a teacher reads in the place of this, where rows say so."""

    @property
    def chat(self) -> "list[Message]":
        """All that is asked: the messages, and the later turns of a conversation without the answers between them."""
        return [*self.messages, *({"role": "user", "content": turn} for turn in self.turns[1:])]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark with its rows, under one profile."""

    spec: BenchmarkSpec
    profile: ProfileName
    generation: Generation
    """The spec's, as the profile changes it."""
    examples: Sequence[Example]
    fingerprint: str
    """Hash of the examples: prompts, golds, order."""
    harness: Any = None
    """`lit_uniopd.benchmarks.harness.scored_task.ScoredTask` that asks, judges and scores; None: we do."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of rows that are not scored (a data set's own defects, say)."""

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def is_heldout(self) -> bool:
        """Whether the rows are held-out prompts of a training run, not a published test set."""
        return not self.spec.hub.id

    @property
    def name(self) -> str:
        """For people: the key, or the domain of held-out prompts."""
        return self.spec.id if self.is_heldout else self.key

    def tag(self, name: str) -> str:
        """Where TensorBoard shows a score of this benchmark; profiles have charts of their own."""
        if self.is_heldout:
            return f"{self.spec.protocol}/{self.spec.id}/{name}"
        return f"{section(self.profile)}/{self.spec.domain}/{self.key}/{name}"

    def grader(self, example: Example) -> str | None:
        """Who judges the answers to a row."""
        return example.grader or self.spec.scoring.grader

    def prompt(self, example: Example) -> "Prompt":
        """The example as the policy and the graders take it."""
        from lit_uniopd.types import Prompt

        return Prompt(
            id=f"{self.key}/{example.id}",
            messages=example.messages,
            gold=example.gold,
            domain=self.spec.domain,
            grader=self.grader(example),
            images=example.images,
            row=example.row,
            **example.for_teacher,
        )


def section(profile: ProfileName) -> str:
    """First part of a tag: a point of a curve must not be taken for a published number."""
    return "eval" if profile == "paper" else f"eval_{profile}"
