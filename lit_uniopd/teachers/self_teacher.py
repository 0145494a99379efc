"""A teacher that is the student: as it was at the start, as it is now, or averaged over its steps."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from lit_uniopd.distributed.sharding import is_sharded
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.chat_template import EncodedPrompt, encode
from lit_uniopd.policy.policy import Policy
from lit_uniopd.teachers.args import TeacherArgs
from lit_uniopd.teachers.local import LocalTeacher
from lit_uniopd.teachers.student_average import StudentAverage
from lit_uniopd.types import Prompt


class SelfTeacher(LocalTeacher):
    """The student behind a prompt of the teacher's (self-distillation with privileged context).

    ============================ ============================ ================================
    weights                      trained in full              trained by adapters
    ============================ ============================ ================================
    ``student_at_start``         one frozen copy              the student, adapters off
    ``student``                  the student                  the student
    ``student_average``          a frozen copy                the student, adapters exchanged
    ============================ ============================ ================================

    Attributes:
        average: of the student, where it is that; made by ``load``.
    """

    def __init__(self, name: str, args: TeacherArgs) -> None:
        super().__init__(name, args)
        self.average: StudentAverage | None = None
        self._student: Policy | None = None
        self._template: dict[str, Any] = {}
        self._max_pixels: int | None = None

    def processor_beside(self, student_processor: Any, student_args: PolicyArgs) -> Any:
        self._processor = student_processor
        self._template = student_args.chat_template_kwargs | self.args.chat_template_kwargs
        self._max_pixels = student_args.max_pixels
        return student_processor

    def tokenize(self, prompt: Prompt) -> EncodedPrompt:
        return encode(self._processor, prompt, self._template, self._max_pixels)

    def attach(self, student: Policy) -> None:
        """Take the student for its model while it is as before training, and whole; a second call changes nothing."""
        if self._student is not None:
            return
        self._student = student
        if student.args.lora is None and self.args.weights == "student_at_start":
            student.keep_reference()
        if student.args.lora is None and self.args.weights == "student_average":
            self._policy = student.frozen_copy()

    def load(self) -> None:
        if self.args.weights == "student_average" and self.average is None:
            self.average = StudentAverage(self.student, self.args.decay, self._policy)

    @property
    def student(self) -> Policy:
        if self._student is None:
            raise RuntimeError(f"teacher {self.name!r} is the student, and needs it: call TeacherPool.load(student)")
        return self._student

    @property
    def policy(self) -> Policy:
        if self.args.weights == "student_at_start" and self.student.references:
            return self.student.references[0]
        return self.student if self._policy is None else self._policy

    def fetch(self) -> None:
        if self.device is None:
            return
        if self.policy is not self.student and not is_sharded(self.policy):
            self.policy.to(self.device)
        if self.average is not None:
            self.average.to(self.device)

    def in_place(self) -> AbstractContextManager[Any]:
        if self.policy is not self.student or self.args.weights == "student":
            return nullcontext()
        return self.student.reference() if self.average is None else self.average.in_place()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        with self.in_place(), self.policy.gathered():
            yield
