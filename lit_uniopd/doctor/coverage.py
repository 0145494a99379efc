"""Where a student parts from its teacher: would it ever draw what the teacher would have written?"""

from functools import partial

import torch
from torch import Tensor

from lit_uniopd.doctor.dry_run import Case
from lit_uniopd.doctor.findings import Finding, green, yellow
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.policy.backbone import head_of
from lit_uniopd.policy.policy import Policy
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Rollouts


def check_coverage(case: Case, name: str, pool: TeacherPool, rollouts: Rollouts) -> Finding | None:
    """The student's probability of the teacher's likeliest word, at the first token where its own is another.

    A loss that averages over the student's distribution hardly moves what that gives no probability.

    Args:
        case: that is examined.
        name: of the teacher.
        pool: has it, loaded.
        rollouts: a few answers of the student's, to prompts of this teacher.

    Returns:
        None where there are no whole distributions to compare.
    """
    args = pool.args[name]
    if args.cross_tokenizer or args.placement in ("http", "disk_cache"):
        return None
    with case.trainer.precision_plugin.forward_context():
        probs = first_partings(case.policy, pool, name, rollouts, case.module.temperature)
    title, module = f"coverage {name}", case.module
    if not len(probs):
        return green(title, f"Student and teacher find the same words likeliest in all of {len(rollouts)} answers.")
    middle, n = float(probs.median()), module.sampling.n
    numbers = (
        f"Where the teacher's likeliest word is first another than the student's ({len(probs)} of {len(rollouts)} "
        f"answers), the student gives it probability {middle:.2g} (median; least {float(probs.min()):.2g})"
    )
    if not over_student(module.loss) or module.writer == "teacher":
        return green(title, f"{numbers}.")
    numbers += f": of {n} answers to a prompt {n * middle:.2g} have it there"
    if n * middle >= 1 or module.warm_start is not None:
        return green(title, f"{numbers}.")
    return yellow(
        title,
        f"{numbers}, so --model.loss.kind {module.loss.kind} will hardly ever raise it.",
        "Set --model.loss.kind forward_kl, which raises what the teacher finds likely whether it is drawn or not, or "
        "let teachers write the first steps by --model.warm_start.steps.",
    )


def over_student(loss: LossArgs) -> bool:
    """Whether a loss weighs words by the student's probability of them."""
    return loss.kind in ("sampled", "reverse_kl") or (loss.kind == "topk" and loss.top_k_direction == "reverse")


@torch.no_grad()
def first_partings(student: Policy, pool: TeacherPool, name: str, rollouts: Rollouts, temperature: float) -> Tensor:
    """Of each answer in which their likeliest words differ somewhere, the student's probability of the teacher's at the
    first such token, ``[N]``.

    Args:
        student: who has written.
        pool: has the teacher.
        name: of the teacher.
        rollouts: the answers.
        temperature: divides the student's logits.
    """
    answers = (rollouts.tokens_BT, rollouts.mask_BT)
    (teacher,) = pool.passes(name, rollouts.prompts)
    with student.answering():
        with teacher.in_place():
            q_BTV = head_of(teacher.policy.model).logits(teacher.policy(partial(teacher.response_hidden, *answers)))
        hidden_BTH = student.response_hidden(rollouts.prompt_tokens, *answers, rollouts.vision)
        p_BTV = head_of(student.model).logits(hidden_BTH)
    common = min(q_BTV.shape[-1], p_BTV.shape[-1])
    top_BT, p_BTV = q_BTV[..., :common].argmax(dim=-1), p_BTV[..., :common]
    parted_BT = (top_BT != p_BTV.argmax(dim=-1)) & rollouts.mask_BT
    probs_BT = (p_BTV / temperature).softmax(dim=-1).gather(-1, top_BT[..., None])[..., 0]
    first_B1 = parted_BT.int().argmax(dim=1, keepdim=True)
    return probs_BT.gather(1, first_B1)[parted_BT.any(dim=1)][:, 0]
