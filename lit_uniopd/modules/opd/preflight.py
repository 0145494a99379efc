"""What is wrong with prompts, found before any model is loaded."""

from collections.abc import Iterable, Sequence
from typing import Literal

from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.modules.opd.lag import check_lag
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.loading import reads_images
from lit_uniopd.rewards import check_grader, is_custom
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.teachers import TeacherArgs, Teachers
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Prompt


def check_prompts(prompts: Iterable[Prompt]) -> list[str]:
    """Refuse prompts that could not be graded, before any model is loaded.

    Returns:
        The graders of users that they name.

    Raises:
        UserError: naming the prompt and the column.
    """
    custom: set[str] = set()
    for prompt in prompts:
        if prompt.grader is not None:
            check_grader(prompt.grader)
            if is_custom(prompt.grader):
                custom.add(prompt.grader)
            elif prompt.gold is None:
                raise UserError(
                    f"Prompt {prompt.id!r} has grader {prompt.grader!r} but no gold answer; name the column that holds "
                    "it by `answer_column`, or set `grader: null` to train without outcomes."
                )
    return sorted(custom)


def check_graders(prompts: Iterable[Prompt]) -> None:
    """Ask for the grader of gold answers that none would read.

    Raises:
        UserError: naming the prompt and the arguments.
    """
    for prompt in prompts:
        if prompt.gold is not None and prompt.grader is None:
            raise UserError(
                f"Prompt {prompt.id!r} has a gold answer but no grader, and its outcome would stay unknown; name one "
                'by `grader` of its source or in a column `grader`, or leave the answers unread by `answer_column` "".'
            )


def check_images(
    prompts: Sequence[Prompt], trained: Sequence[Prompt], *, student: PolicyArgs, flag: str, teachers: TeacherPool
) -> None:
    """Refuse pictures that student or teacher cannot read.

    Args:
        prompts: all that the student answers.
        trained: those whose answers teachers score.
        student: where it comes from.
        flag: the option that ``student`` came from.
        teachers: not loaded yet.

    Raises:
        UserError: naming the prompt and the option.
    """
    readers: dict[str, tuple[PolicyArgs, str]] = {"": (student, flag)}
    for name, args in teachers.args.items():
        option = f"model.teachers.{name}"
        readers[name] = (args, option) if args.placement == "http" else args.source(option, student, flag)
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        if prompt.images:
            first.setdefault("", prompt)
    for prompt in trained if teachers else ():
        for name, read in teachers.readings(prompt).items():
            if read.images:
                first.setdefault(name, prompt)
    for name, prompt in first.items():
        args, flag = readers[name]
        if isinstance(args, TeacherArgs) and args.placement == "http":
            raise UserError(
                f"Prompt {prompt.id!r} has pictures, which are not sent to --{flag}.placement http; place the "
                "teacher here, or route the prompt elsewhere by its teacher column."
            )
        if isinstance(args, TeacherArgs) and args.cross_tokenizer:
            raise UserError(
                f"Prompt {prompt.id!r} has pictures, and --{flag}.cross_tokenizer aligns texts only; choose a teacher "
                "with the student's tokenizer, or route the prompt elsewhere by its teacher column."
            )
        if not reads_images(args, flag):
            raise UserError(
                f"Prompt {prompt.id!r} has pictures, which --{flag}.path {args.path} cannot read; choose an "
                "image-text model, or route the prompt elsewhere by its teacher column."
            )


def check_arguments(
    sampling: SamplingArgs,
    loss: LossArgs,
    advantage: AdvantageArgs,
    writer: Literal["student", "teacher"],
    split_groups: int,
    updates_per_rollout: int,
    teachers: Teachers,
) -> None:
    """Refuse arguments of ``UniOPD`` that contradict each other.

    Raises:
        UserError: naming the options.
    """
    if updates_per_rollout < 1:
        raise UserError(f"--model.updates_per_rollout must be at least 1, got {updates_per_rollout}.")
    if split_groups < 1 or sampling.n % split_groups:
        raise UserError(
            f"--model.split_groups {split_groups} does not divide --model.sampling.n {sampling.n}; give a divisor."
        )
    if split_groups > 1 and writer == "teacher":
        raise UserError(
            "--model.split_groups divides what the student writes; leave it out with --model.writer teacher."
        )
    if split_groups > 1 and sampling.lag:
        raise UserError(
            "--model.split_groups shares out what ranks wait for, and with --model.sampling.lag servers write ahead; "
            "leave one of them out."
        )
    check_lag(sampling, loss)
    if writer == "teacher" and loss.kind == "sampled":
        raise UserError(
            "--model.writer teacher needs whole distributions: the sampled loss holds for answers that the student "
            "wrote; set --model.loss.kind forward_kl."
        )
    if writer == "teacher" and sampling.engine == "vllm":
        raise UserError("--model.sampling.engine vllm serves the student; with --model.writer teacher set it to loop.")
    if loss.kind != "sampled" and advantage != AdvantageArgs():
        raise UserError(f"--model.advantage has no meaning for --model.loss.kind {loss.kind}; choose sampled.")
    if advantage.needs_teachers and not any(teachers.values()):
        raise UserError("Set --model.teachers to at least one `name: {path: ...}`.")
