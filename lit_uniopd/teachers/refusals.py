"""What a teacher cannot do where it lives."""

from lit_uniopd.errors import UserError
from lit_uniopd.teachers.base import Teacher


def refuse_placement(teacher: Teacher, temperature: float, loss: str, *, direction: str, writer: str) -> None:
    """Refuse what a teacher cannot do in its placement, before anything is loaded.

    Args:
        teacher: not loaded yet.
        temperature: of both sides.
        loss: ``--model.loss.kind``.
        direction: ``--model.loss.top_k_direction``.
        writer: ``--model.writer``.

    Raises:
        UserError: naming the flags.
    """
    placement = teacher.args.placement
    where, is_here = f"--{teacher.flag}.placement {placement}", placement != "http"
    if loss != "sampled" and not teacher.scores_distributions:
        _refuse_loss(where, loss, direction, is_here=is_here)
    if writer == "teacher" and not is_here:
        raise UserError(
            f"--model.writer teacher needs the model itself, and with {where} it is on servers, which score "
            "and do not write; set --model.writer student, or place the teacher here."
        )
    if temperature != 1.0 and not is_here:
        raise UserError(
            f"--model.sampling.temperature {temperature} is applied to student and teacher alike, but with "
            f"{where} the servers score at temperature 1; set it to 1, or place the teacher here."
        )


def _refuse_loss(where: str, loss: str, direction: str, *, is_here: bool) -> None:
    """Refuse a loss over distributions that a teacher does not have."""
    if is_here:
        raise UserError(
            f"--model.loss.kind {loss} compares whole distributions, and {where} has log-probs of the sampled "
            "tokens only; choose loss.kind sampled, or place the teacher here."
        )
    if loss != "topk":
        raise UserError(
            f"--model.loss.kind {loss} compares whole distributions, and with {where} servers name their likeliest "
            "tokens only; choose loss.kind topk with loss.top_k_direction forward, or place the teacher here."
        )
    if direction != "forward":
        raise UserError(
            f"--model.loss.top_k_direction {direction} needs the teacher's log-probs of the student's likeliest "
            f"tokens, and with {where} servers name their own only; set it to forward, or place the teacher here."
        )
