"""Where a teacher comes from and where it lives."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal

from lit_uniopd.errors import UserError
from lit_uniopd.functional.mixture import MixtureKind
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.teachers.reading import ReadsArgs

Placement = Literal["resident", "cpu_offload", "quantized", "disk_cache", "http"]
Weights = Literal["path", "student_at_start", "student", "student_average"]
DECAY = 0.999
"""Of an average, unless another is given: it reaches back about 1000 optimizer steps."""


@dataclass
class HttpArgs:
    """Model servers that score answers (`placement: http`)."""

    urls: list[str] = field(default_factory=list)
    """Their addresses, `[http://host:8000, ...]`. All serve the same model; they are asked in turn, and one that fails
    is left alone for a while."""
    protocol: Literal["vllm", "sglang"] = "vllm"
    """Whose log-prob interface they speak: vLLM's `prompt_logprobs` or SGLang's `return_logprob`."""
    model: str | None = None
    """Name of the model at the servers; null: the teacher's `path`, or whatever they serve if that is empty too."""
    requests: int = 64
    """Requests on their way at the same time, from each rank. With `loss.kind: topk` replies are large, and as many may
    be in this machine's memory."""
    batch: int = 1
    """Answers in one request. Servers batch by themselves: more than one saves little but the requests' overhead."""
    timeout: float = 120.0
    """Seconds for one request, waiting at the server included."""
    connect_timeout: float = 10.0
    """Seconds until a connection stands."""
    retries: int = 4
    """Further rounds over the servers when none has answered, each after about twice as long a pause. Then the answers
    of the request count as failed."""
    api_key_variable: str | None = None
    """Environment variable that has the servers' key; null: none is sent."""


@dataclass
class TeacherArgs(PolicyArgs):
    """Where a teacher comes from, how it is held, and where it lives."""

    placement: Placement = "resident"
    """`resident`: beside the student for the whole run. `cpu_offload`: in host memory, and on the device only while it
    scores, one teacher after the other. `quantized`: resident in 4 or 8 bits (`quantization`). `disk_cache`: log-probs
    are kept in `cache`, and the teacher is loaded only when one is missing. `http`: on servers (`http`); `path` then
    says where its tokenizer and chat template are (empty: it reads what the student reads)."""
    gather: Literal["whole", "layers"] = "whole"
    """How a resident teacher scores whose weights FSDP shares over ranks. `whole`: all of them are gathered on every
    GPU, once a step, and ranks score at their own pace. `layers`: layer by layer, in each pass, for a teacher that is
    too large for a GPU; ranks run equally many passes."""
    cache: str | None = None
    """Directory of `disk_cache`; runs may share it."""
    http: HttpArgs | None = None
    """The servers of `placement: http`."""
    weights: Weights = "path"
    """Whose weights it has. `path`: those of the model that is there. The others are the student's own, behind what the
    teacher `reads`: `student_at_start`, as they were before training (adapters off, or one frozen copy); `student`, as
    they are now, without a copy; `student_average`, an exponential moving average of them."""
    decay: float = DECAY
    """Of `student_average`: after each optimizer step it is `decay` of itself and the rest the student; 0 is `student`
    and 1 `student_at_start`."""
    mixture: dict[str, float] | None = None
    """Other teachers by name, with weights (divided by their sum): it is their mixture, token by token, each behind
    what it reads itself. It has no model of its own, and no other option but `mixture_kind`."""
    mixture_kind: MixtureKind = "arithmetic"
    """How those of `mixture` are mixed. `arithmetic`: the mean of their probabilities, which is likely where one of
    them is. `log_linear`: the mean of their log-probs, divided by the sum over the vocabulary (a product of experts),
    which is likely where all are; it needs their whole distributions, so none of them may be on a server."""
    cross_tokenizer: bool = False
    """Whether it may have another tokenizer than the student: it then scores the text of an answer in tokens of its
    own, and its log-prob of each piece of text that both cut alike is shared out over the student's tokens in it. For
    `loss.kind: sampled` and texts without pictures."""
    reads: ReadsArgs | None = None
    """What it reads in the place of the student's prompt: a solution, worked examples, a system message. null: what the
    student reads, or what the row says (`teacher_prompt`, `teacher_system`, `teacher_images`)."""

    @property
    def is_student(self) -> bool:
        """Whether it has the student's weights, and so its tokenizer and places."""
        return self.weights != "path"

    @property
    def reads_as_student(self) -> bool:
        """Whether it has no tokenizer of its own to read with."""
        return self.is_student or (self.placement == "http" and not (self.path or self.tokenizer))

    def source(self, flag: str, student: PolicyArgs, student_flag: str) -> tuple[PolicyArgs, str]:
        """Whose tokenizer, config and places it has, and the option that they come from.

        Args:
            flag: of this teacher.
            student: the student's arguments.
            student_flag: of the student.
        """
        if not self.reads_as_student:
            return self, flag
        options = student.chat_template_kwargs | self.chat_template_kwargs
        return replace(student, chat_template_kwargs=options), student_flag

    @classmethod
    def of(cls, args: PolicyArgs, flag: str) -> "TeacherArgs":
        """Checked arguments of a teacher; those of a policy become a resident teacher's.

        Raises:
            UserError: naming ``flag``, if the options contradict each other.
        """
        teacher = args if isinstance(args, cls) else cls(**{f.name: getattr(args, f.name) for f in fields(PolicyArgs)})
        if teacher.mixture is not None:
            teacher._check_mixture(flag, teacher.mixture)
            return teacher
        if teacher.is_student:
            teacher._check_student(flag)
        if teacher.mixture_kind != "arithmetic":
            raise UserError(
                f"--{flag}.mixture_kind {teacher.mixture_kind} is how other teachers are mixed, and --{flag}.mixture "
                "names none; name them, or leave mixture_kind out."
            )
        teacher = teacher._with_quantization(flag)
        teacher._check(flag)
        return teacher

    def _with_quantization(self, flag: str) -> "TeacherArgs":
        """`placement: quantized` and `quantization` mean the same; either sets the other."""
        if self.placement == "quantized" and self.quantization == "none":
            return replace(self, quantization="4bit")
        if self.placement == "resident" and self.quantization != "none":
            return replace(self, placement="quantized")
        if self.placement in ("cpu_offload", "http") and self.quantization != "none":
            raise UserError(
                f"--{flag}.quantization {self.quantization} cannot be had with --{flag}.placement {self.placement}; "
                "choose placement quantized, or quantization none."
            )
        return self

    def _beyond(self, kept: Collection[str]) -> str | None:
        """The first option that is set and not among these."""
        plain = TeacherArgs()
        given = (f.name for f in fields(self) if getattr(self, f.name) != getattr(plain, f.name))
        return next((name for name in given if name not in kept), None)

    def _check_mixture(self, flag: str, mixture: Mapping[str, float]) -> None:
        """Refuse weights that mix nothing, and options of a model of its own."""
        if (option := self._beyond({"mixture", "mixture_kind"})) is not None:
            raise UserError(
                f"--{flag}.mixture is made of other teachers, so --{flag}.{option} has no meaning; give it to those "
                "that are mixed, or leave it out."
            )
        if not mixture or not all(0 < weight < math.inf for weight in mixture.values()):
            raise UserError(
                f"--{flag}.mixture must name teachers with positive weights, got {mixture}; "
                f"write `mixture: {{math: 0.5, code: 0.5}}`."
            )

    def _check_student(self, flag: str) -> None:
        """Refuse options of a model of its own beside the student's weights."""
        if (option := self._beyond(_OF_STUDENTS)) is not None:
            raise UserError(
                f"--{flag}.weights {self.weights} is the student itself, in this process and held as --model.student "
                f"says, so --{flag}.{option} has no meaning; leave it out, or name a model by --{flag}.weights path "
                f"and --{flag}.path."
            )
        if not 0 <= self.decay <= 1:
            raise UserError(f"--{flag}.decay must be in [0, 1], got {self.decay}; 0.999 is usual.")

    def _check(self, flag: str) -> None:
        if self.cross_tokenizer and self.reads_as_student:
            raise UserError(
                f"--{flag}.cross_tokenizer needs the teacher's own tokenizer, and without --{flag}.path it reads what "
                f"the student reads; name the directory of its tokenizer by --{flag}.path or --{flag}.tokenizer."
            )
        if self.decay != DECAY and self.weights != "student_average":
            raise UserError(
                f"--{flag}.decay is that of --{flag}.weights student_average, and weights is {self.weights}; leave it "
                "out, or set weights."
            )
        if self.lora is not None:
            raise UserError(f"--{flag}.lora trains adapters, and a teacher is not trained; leave it out.")
        if self.gather == "layers" and self.placement != "resident":
            raise UserError(
                f"--{flag}.gather layers is for weights that ranks share, and with --{flag}.placement {self.placement} "
                "they do not; set placement resident, or leave gather out."
            )
        if (self.placement == "http") != (self.http is not None):
            raise UserError(f"--{flag}.placement http and --{flag}.http.urls go together; give both or neither.")
        if (self.placement == "disk_cache") != (self.cache is not None):
            raise UserError(f"--{flag}.placement disk_cache and --{flag}.cache go together; give both or neither.")
        if self.placement == "disk_cache" and self.config is not None:
            raise UserError(f"--{flag}.config makes random weights, which no cache can know; give --{flag}.path.")
        if self.http is not None:
            for name in ("requests", "batch"):
                if getattr(self.http, name) < 1:
                    raise UserError(f"--{flag}.http.{name} must be at least 1, got {getattr(self.http, name)}.")


_OF_STUDENTS = {"weights", "decay", "reads", "chat_template_kwargs", "lora"}
"""Options that a teacher with the student's weights may have; `lora` is refused for all."""

# In Python a policy's arguments make a resident teacher; in YAML and on the command line all options are there, and
# null removes a teacher that a config names.
if TYPE_CHECKING:
    Teachers = Mapping[str, PolicyArgs]
else:
    Teachers = dict[str, TeacherArgs | None]
