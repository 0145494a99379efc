"""Settings of on-policy distillation with which it would train on something else than they say."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lit_uniopd.functional.balance import balance_outcomes
from lit_uniopd.memory import Workload, free_bytes, replies_bytes
from lit_uniopd.memory.plan import readable
from lit_uniopd.modules.lengths import beyond_positions, beyond_servers, shortened_benchmarks, unlike_lengths
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.modules.opd.horizon import HorizonArgs
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.modules.opd.outcomes import outcome_scopes
from lit_uniopd.modules.opd.self_teaching import self_teaching_objections
from lit_uniopd.modules.run_objections import template_objections
from lit_uniopd.modules.unlike_prompts import unlike_benchmark_prompts, unlike_system_prompts
from lit_uniopd.policy.chat_template import AnswerEnd, answer_end
from lit_uniopd.policy.loading import load_processor
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.teachers import TeacherArgs
from lit_uniopd.types import Prompt
from lit_uniopd.utils.objections import Objection

MOST = 256
"""Answers up to which it is tried whether balancing can remove any; more are enough for any sensible ratio."""


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """What the answers of a step are, and what is made of them."""

    sampling: SamplingArgs
    loss: LossArgs
    advantage: AdvantageArgs
    writer: Literal["student", "teacher"]
    updates: int
    """Optimizer steps of a rollout."""
    batch_size: int | None
    """Prompts of a rollout on each rank; None: unknown."""
    ranks: int
    scopes: Mapping[str, str]
    """What compares right and wrong answers -> among which (see ``outcome_scopes``)."""
    balance: Any = None
    """Ratio, scope and treatment of unknown outcomes of online balancing; None: there is none."""
    calibrations: Sequence[str] = ()
    """Callbacks that change advantages."""
    horizon: HorizonArgs | None = None

    @property
    def answers(self) -> int | None:
        """Of a rollout on this rank."""
        return None if self.batch_size is None else self.batch_size * self.sampling.n

    def compared(self, scope: str) -> int | None:
        """Answers among which right and wrong ones are compared; None: unknown."""
        if scope == "group":
            return self.sampling.n
        return None if self.answers is None else self.answers * self.ranks


def opd_objections(module: Any, processor: Any) -> Iterator[Objection]:
    """What speaks against a fit of ``UniOPD``.

    Args:
        module: with its trainer.
        processor: of the student.
    """
    data, trainer, sampling = module.trainer_data, module.trainer, module.sampling
    callbacks = [callback for callback in trainer.callbacks if getattr(callback, "changes_advantages", False)]
    yield from rollout_objections(
        RolloutSettings(
            sampling,
            module.loss,
            module.advantage,
            module.writer,
            module.updates_per_rollout,
            batch_size=getattr(data.datamodule, "batch_size", None),
            ranks=trainer.world_size,
            scopes=outcome_scopes(module.advantage, trainer, module.teachers.showing_best),
            balance=getattr(data.datamodule, "online_balance", None),
            calibrations=[type(callback).__name__ for callback in callbacks],
            horizon=module.horizon,
        )
    )
    args, flag = module.policy_args, module.policy_flag
    trained, heldout = data.prompts("train"), data.prompts("val") if trainer.limit_val_batches else []
    if trained and module.teachers:
        yield from idle_teachers(module.teachers.routes(trained), module.teachers)
        yield from self_teaching_objections(module)
    if any(prompt.grader is not None for prompt in heldout):
        yield from unlike_lengths(sampling.max_new_tokens, module.val_sampling.max_new_tokens)
    yield from unlike_system_prompts(trained, heldout)
    yield from greedy_validation(module.val_sampling)
    if trained:
        lengths = {"prompt": module.longest_prompt(trained), "answer": sampling.max_new_tokens}
        yield from beyond_positions(args, flag, **lengths, option="--model.sampling.max_new_tokens")
        if sampling.server is not None and module.writer == "student":
            yield from beyond_servers(sampling, lengths["prompt"])
        if module.loss.asked_top_k:
            yield from heavy_replies(module.teachers.args, module.workload(), processes=trainer.num_devices)
    benchmarks = data.benchmarks_in_fit
    yield from shortened_benchmarks(benchmarks, sampling.max_new_tokens)
    yield from unlike_benchmark_prompts(benchmarks, args, flag, processor)
    # Last: a teacher that cannot be read ends this.
    if trained and module.teachers:
        yield from _long_readings(module, trained, processor)
    for name, teacher in module.teachers.args.items():
        reader_flag = f"model.teachers.{name}"
        source, _ = teacher.source(reader_flag, args, flag)
        reader = processor if teacher.reads_as_student else load_processor(source, reader_flag)
        yield from template_objections(reader, teacher.chat_template_kwargs, reader_flag)
        if teacher.cross_tokenizer:
            continue  # whatever ends an answer there is aligned with what ends it here
        ends = answer_end(processor, args.chat_template_kwargs), answer_end(reader, source.chat_template_kwargs)
        yield from unlike_ends(name, *ends)


def heavy_replies(teachers: Mapping[str, TeacherArgs], load: Workload, *, processes: int) -> Iterator[Objection]:
    """Top log-probs of long answers from a server, for which this machine may have no room.

    Args:
        teachers: by name.
        load: of a step.
        processes: that share this machine's memory.
    """
    free = free_bytes(torch.device("cpu"), processes)
    for name, teacher in teachers.items():
        if teacher.http is None:
            continue
        options = {"top_k": load.top_k, "row": load.longest_row, "new_tokens": load.new_tokens}
        size = replies_bytes(teacher.http, answers=load.answers, **options)
        if size > free:
            yield Objection(
                f"replies {name}",
                f"Replies of teacher {name} with {load.top_k} log-probs for each token may take {readable(size)} in "
                f"each process, where this machine has {readable(free)} for it; lower "
                f"--model.teachers.{name}.http.requests, or --model.loss.top_k.",
            )


def _long_readings(module: Any, trained: Sequence[Prompt], processor: Any) -> Iterator[Objection]:
    """What teachers read beside the student's prompt, where it is longer than their positions."""
    options = (processor, module.policy_args, module.sampling.max_new_tokens)
    longest = module.teachers.longest_prompts(trained, *options)
    for name, tokens in longest.items():
        teacher, flag = module.teachers.args[name], f"model.teachers.{name}"
        if teacher.is_student or teacher.placement != "http" or teacher.path:
            yield from beyond_positions(
                *teacher.source(flag, module.policy_args, module.policy_flag),
                prompt=tokens,
                answer=module.sampling.max_new_tokens,
                option="--model.sampling.max_new_tokens",
                shorter=f"shorten --{flag}.reads or the teacher_prompt of rows",
            )


def unlike_ends(name: str, student: AnswerEnd, teacher: AnswerEnd) -> Iterator[Objection]:
    """A teacher that ends its turns otherwise finds the student's ends unlikely.

    Args:
        name: of the teacher.
        student: what ends its answers.
        teacher: what ends those of the teacher.
    """
    if student.token is not None and teacher.token is not None and student.token != teacher.token:
        yield Objection(
            f"ends {name}",
            f"The student ends its turns with {student.marks[0]} ({student.token}), teacher {name} with "
            f"{teacher.marks[0]} ({teacher.token}): it will find the student's ends unlikely, and answers grow; give "
            "--model.student and its teachers the same end of turn, a base model with a base teacher, an instruct "
            "model with an instruct one.",
        )


def idle_teachers(routes: Mapping[str, int], names: Iterable[str]) -> Iterator[Objection]:
    """Teachers that score nothing.

    Args:
        routes: name -> how many training prompts go to it.
        names: of all teachers.
    """
    for name in names:
        if not routes.get(name):
            yield Objection(
                "teachers",
                f"No training prompt goes to {name}, which is loaded all the same; name it in the teacher or domain "
                f"column of some prompts, or leave --model.teachers.{name} out.",
            )


def greedy_validation(sampling: SamplingArgs) -> Iterator[Objection]:
    """Several answers to each held-out prompt that cannot differ."""
    option = sampling.greedy_option("model.val_sampling")
    if option is not None and sampling.n > 1:
        yield Objection(
            "validation",
            f"With {option} the {sampling.n} answers to a held-out prompt are all the same; set "
            "--model.val_sampling.n 1, or temperature 1.",
        )


def rollout_objections(settings: RolloutSettings) -> Iterator[Objection]:
    """What speaks against these settings; the lines `sampling` and `settings` of the doctor."""
    yield from _same_answers(settings)
    yield from _too_few_answers(settings)
    yield from _idle_balance(settings)
    yield from _idle_options(settings)


def _same_answers(settings: RolloutSettings) -> Iterator[Objection]:
    """Answers that do not differ have no margin, and are no sample of the policy."""
    sampling, n = settings.sampling, settings.sampling.n
    option = sampling.greedy_option("model.sampling")
    if option is None:
        if settings.loss.kind == "sampled" and (sampling.top_p < 1 or sampling.top_k > 0):
            yield Objection(
                "sampling",
                "--model.sampling.top_p and top_k cut the distribution that answers are drawn from, but the loss "
                "treats them as drawn from the whole policy; set top_p 1 and top_k 0 to be on-policy.",
            )
        return
    users = [name for name, scope in settings.scopes.items() if scope == "group"]
    if settings.loss.kind == "sampled" and settings.writer == "student":
        yield Objection(
            "sampling",
            f"{option} always takes the most probable token, and the sampled loss is an expectation over drawn ones; "
            "set --model.sampling.temperature 1, top_p 1 and top_k 0, or choose a loss over whole distributions by "
            "--model.loss.kind reverse_kl.",
            refused=True,
        )
    elif n > 1 and users:
        yield Objection(
            "sampling",
            f"With {option} the {n} answers to a prompt are all the same, so none has both right and wrong ones and "
            f"{', '.join(users)} can do nothing; set --model.sampling.temperature 1, top_p 1 and top_k 0.",
            refused=True,
        )
    elif n > 1:
        yield Objection(
            "sampling",
            f"With {option} the {n} answers to a prompt are all the same; set --model.sampling.n 1, or draw them at "
            "--model.sampling.temperature 1, top_p 1 and top_k 0.",
        )


def _too_few_answers(settings: RolloutSettings) -> Iterator[Objection]:
    """Whatever compares right and wrong answers needs two of them, and each update one."""
    alone = [name for name, scope in settings.scopes.items() if settings.compared(scope) == 1]
    if alone:
        yield Objection(
            "sampling",
            f"With one answer a prompt, none has both right and wrong ones: {', '.join(alone)} can do nothing; raise "
            "--model.sampling.n (the paper has 16), or set the scope to global with several prompts a step.",
            refused=True,
        )
    if settings.answers is not None:
        yield from too_many_updates(settings.updates, settings.answers)


def too_many_updates(updates: int, answers: int) -> Iterator[Objection]:
    """More optimizer steps on a rollout than a rank has answers; the last batch of a pass may be short."""
    if updates > answers:
        yield Objection(
            "sampling",
            f"--model.updates_per_rollout {updates} is more than the {answers} answers of a rollout; lower it, or "
            "raise --model.sampling.n or --data.batch_size.",
            refused=True,
        )


def _idle_balance(settings: RolloutSettings) -> Iterator[Objection]:
    """A ratio that so few answers cannot be brought to leaves all of them in."""
    balance = settings.balance
    count = None if balance is None else settings.compared(balance.scope)
    if balance is None or count is None or not 2 <= count <= MOST:
        return
    group_B = torch.zeros(count, dtype=torch.long)
    for correct in range(1, count):
        outcome_B = (torch.arange(count) < correct).long()
        if not bool(balance_outcomes(outcome_B, group_B, ratio=balance.ratio, scope=balance.scope).all()):
            return
    yield Objection(
        "sampling",
        f"--data.online_balance.ratio {balance.ratio:g} leaves all of {count} answers in, however many of them are "
        "right; raise --model.sampling.n, or set the ratio nearer to 1.",
    )


def _idle_options(settings: RolloutSettings) -> Iterator[Objection]:
    """Options that are set and change nothing, or not what they say."""
    loss, advantage = settings.loss, settings.advantage
    if settings.calibrations and loss.kind != "sampled":
        names = ", ".join(settings.calibrations)
        yield Objection(
            "settings",
            f"{names} changes advantages, which --model.loss.kind {loss.kind} does not read; choose sampled, or leave "
            f"{names} out of --trainer.callbacks.",
            refused=True,
        )
    horizon, longest = settings.horizon, settings.sampling.max_new_tokens
    if horizon is not None and horizon.start >= longest:
        yield Objection(
            "settings",
            f"--model.horizon.start {horizon.start} is not below --model.sampling.max_new_tokens {longest}, so answers "
            "never grow; lower it, or set --model.horizon null.",
            refused=True,
        )
    if settings.calibrations and advantage.baseline != "none":
        names = ", ".join(settings.calibrations)
        yield Objection(
            "settings",
            f"{names} compares what a teacher thinks of whole answers, and --model.advantage.baseline "
            f"{advantage.baseline} takes that out of the advantages; set baseline none, or leave {names} out of "
            "--trainer.callbacks.",
            refused=True,
        )
    if settings.calibrations and loss.keep_tokens < 1:
        names = ", ".join(settings.calibrations)
        yield Objection(
            "settings",
            f"{names} makes margins of all tokens of an answer, and --model.loss.keep_tokens {loss.keep_tokens:g} "
            f"trains some of them, chosen later: those may still rank answers wrongly; set it to 1, or leave {names} "
            "out of --trainer.callbacks.",
        )
    if loss.importance_cap is not None and loss.importance_cap < 1:
        yield Objection(
            "settings",
            f"--model.loss.importance_cap {loss.importance_cap:g} cuts the weights of tokens that both sides find "
            "equally likely, so it scales the loss; set it to 1 or more, 2 is usual.",
        )
    if advantage.extrapolation <= 0 and advantage.teacher_weight > 0:
        yield Objection(
            "settings",
            f"--model.advantage.extrapolation {advantage.extrapolation:g} does not aim at the teacher, but at the "
            "student before training or away from both; set it to 1, or above for ExOPD.",
        )
    if advantage.teacher == "self" and advantage.extrapolation != 1:
        yield Objection(
            "settings",
            f"--model.advantage.extrapolation {advantage.extrapolation:g} changes nothing with teacher self, which is "
            "the student before training already; set it to 1.",
        )
