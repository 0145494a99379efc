"""A teacher that is the student itself: advantages are zero but for rounding, and nothing is learned from it."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.backbone import unwrap
from lit_uniopd.policy.policy import Policy
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Prompt
from lit_uniopd.utils.objections import Objection

READ = 4
"""Prompts that are read by both, to see whether their templates differ."""


def own_teachers(module: Any) -> Iterator[Objection]:
    """The teachers that have the student's weights and read its prompts as it does.

    Args:
        module: ``UniOPD`` as training begins, after a checkpoint was read. Of its teachers, those in this process are
            compared; one that waits on disk is looked for by its path.
    """
    student, teachers = module.policy, module.teachers
    prompts = module.trainer_data.prompts("train")
    for name, args in teachers.args.items():
        if args.is_student:  # by its own word, which ``self_teaching_objections`` has looked at
            continue
        routed = list(islice((prompt for prompt in prompts if teachers.route(prompt) == name), READ))
        if teacher := teachers.loaded.get(name):
            same = bool(routed) and reads_as_student(student, teachers, name, routed) and same_weights(student, teacher)
        else:
            same = args.placement == "disk_cache" and not module.global_step and _same_source(args, student.args)
            same = same and reads_as_student(student, teachers, name, routed)
        if same:
            yield Objection(
                "teachers",
                f"Teacher {name} is the student as it is now: it has the same weights and reads the same prompts, so "
                f"there is nothing to learn from it; name another model by --model.teachers.{name}.path.",
            )


def _same_source(args: PolicyArgs, other: PolicyArgs) -> bool:
    """Whether two policies are loaded from one place and read prompts alike."""
    names = ("path", "revision", "tokenizer", "quantization", "chat_template_kwargs")
    return all(getattr(args, name) == getattr(other, name) for name in names)


def reads_as_student(student: Policy, teachers: TeacherPool, name: str, prompts: Sequence[Prompt]) -> bool:
    """Whether a teacher reads these prompts as the student does: the same tokens, the same pictures.

    Args:
        student: the student.
        teachers: of the run.
        name: of the teacher.
        prompts: routed to it.
    """
    tokens = [encoded.tokens for encoded in teachers.encode(name, prompts)]
    if name in teachers.showing_best:
        return False
    alike = all(student.encode(p).tokens == read for p, read in zip(prompts, tokens, strict=True))
    return alike and all(teachers.reading(prompt).images == prompt.images for prompt in prompts)


@torch.no_grad()
def same_weights(student: Policy, teacher: Policy) -> bool:
    """Whether two policies have the same weights, in the coarser of their types; adapters must still do nothing."""
    weights, adapters = _weights(student)
    others, other_adapters = _weights(teacher)
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in others.items()}:
        return False
    if any(bool(w.any()) for name, w in (adapters | other_adapters).items() if ".lora_B." in name):
        return False
    return all(_equal(weight, others[name]) for name, weight in weights.items())


def _weights(policy: Policy) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of the model and of its adapters; this rank's share where they are sharded."""
    weights: dict[str, Tensor] = {}
    adapters: dict[str, Tensor] = {}
    for name, parameter in unwrap(policy.model).named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter.data
        (adapters if ".lora_" in name else weights)[name.replace(".base_layer.", ".")] = local
    return weights, adapters


def _equal(weight: Tensor, other: Tensor) -> bool:
    if not (weight.is_floating_point() and other.is_floating_point()):
        return weight.dtype == other.dtype and torch.equal(weight, other.to(weight.device))
    coarser = max(weight.dtype, other.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return torch.equal(weight.to(coarser), other.to(weight.device, coarser))
