"""What a teacher cannot do where it lives, and what cannot be mixed."""

from collections.abc import Mapping, Sequence

from lit_uniopd.errors import UserError
from lit_uniopd.teachers.base import Teacher
from lit_uniopd.teachers.routing import Mixture, Routing


def refuse_all(
    teachers: Mapping[str, Teacher],
    routing: Routing,
    temperature: float,
    loss: str,
    *,
    direction: str,
    writer: str,
    baseline: str,
) -> None:
    """Refuse what teachers cannot do in their placements or together, before anything is loaded; also what rows may not
    mix, as soon as one is routed.

    Args:
        teachers: by name; not loaded yet.
        routing: of prompts to them.
        temperature: of both sides.
        loss: ``--model.loss.kind``.
        direction: ``--model.loss.top_k_direction``.
        writer: ``--model.writer``.
        baseline: ``--model.advantage.baseline``.

    Raises:
        UserError: naming the flags.
    """

    def refuse_parts(where: str, mixture: Mixture) -> None:
        parts = [teachers[part] for part in mixture.shares]
        refuse_mixture(where, parts, loss, writer=writer)
        if baseline != "none":
            refuse_without_distributions(where, parts, baseline)

    for name, teacher in teachers.items():
        refuse_placement(teacher, temperature, loss, direction=direction, writer=writer)
        if baseline != "none":
            refuse_without_distributions(f"teacher {name}", [teacher], baseline)
    for name, mixture in routing.mixtures.items():
        refuse_parts(f"--model.teachers.{name}.mixture", mixture)
    routing.check = refuse_parts


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
    if loss != "sampled" and teacher.args.cross_tokenizer:
        raise UserError(
            f"--model.loss.kind {loss} compares distributions over one vocabulary, and with --{teacher.flag}."
            "cross_tokenizer the teacher may have another than the student; set --model.loss.kind sampled."
        )
    if loss != "sampled" and not teacher.scores_distributions:
        _refuse_loss(where, loss, direction, is_here=is_here)
    if writer == "teacher" and not is_here:
        raise UserError(
            f"--model.writer teacher needs the model itself, and with {where} it is on servers, which score "
            "and do not write; set --model.writer student, or place the teacher here."
        )
    if writer == "teacher" and teacher.args.gather == "layers":
        raise UserError(
            "--model.writer teacher gathers whole weights, since answers differ in length, and "
            f"--{teacher.flag}.gather is layers; set it to whole, or --model.writer student."
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


def refuse_log_linear(name: str, parts: Sequence[Teacher]) -> None:
    """Refuse to mix log-linearly what has no whole distributions, or none of the mixture's on disk.

    Args:
        name: of the mixture.
        parts: those that are mixed, at least two.

    Raises:
        UserError: naming the flags.
    """
    flag = f"--model.teachers.{name}.mixture_kind log_linear"
    if served := next((part for part in parts if part.args.placement == "http"), None):
        raise UserError(
            f"{flag} divides by a sum over the vocabulary at each token, and with --{served.flag}.placement http "
            "servers name single tokens or the likeliest ones only; set mixture_kind arithmetic, or place "
            f"{served.name} here."
        )
    cached = [part for part in parts if part.args.placement == "disk_cache"]
    if cached and len(cached) < len(parts):
        other = next(part for part in parts if part not in cached)
        raise UserError(
            f"{flag} has log-probs of its own, which are on disk if all of its teachers are, and --{cached[0].flag}."
            f"placement is disk_cache and --{other.flag}.placement {other.args.placement}; set all of them to "
            "disk_cache, or none: cpu_offload takes as little of the device."
        )


def refuse_mixture(where: str, parts: Sequence[Teacher], loss: str, *, writer: str) -> None:
    """Refuse what several teachers cannot do together, before anything is loaded.

    Args:
        where: they are named: a flag, or a prompt.
        parts: those that are mixed.
        loss: ``--model.loss.kind``.
        writer: ``--model.writer``.

    Raises:
        UserError: naming the flags.
    """
    if other := next((part for part in parts if part.args.cross_tokenizer and len(parts) > 1), None):
        raise UserError(
            f"{where[:1].upper()}{where[1:]} mixes distributions token by token, and --{other.flag}.cross_tokenizer "
            "scores pieces of several tokens; mix teachers with the student's tokenizer, or route the prompts to one "
            "of them."
        )
    if writer == "teacher":
        raise UserError(
            f"--model.writer teacher lets one model write, and {where} has a mixture of {len(parts)}; set "
            "--model.writer student, or route the prompts to one of them."
        )
    for part in parts if loss != "sampled" and len(parts) > 1 else ():
        if part.args.placement not in ("resident", "quantized"):
            raise UserError(
                f"--model.loss.kind {loss} reads all teachers of {where} in one pass, and --{part.flag}.placement "
                f"{part.args.placement} does not keep {part.name} on the device; set it to resident, or loss.kind to "
                "sampled."
            )


def refuse_without_distributions(where: str, parts: Sequence[Teacher], baseline: str) -> None:
    """Refuse a baseline over distributions that a teacher does not have, or not at the same time as others.

    Args:
        where: the teacher is, or several are: a name, a flag or a prompt.
        parts: it, or those that are mixed.
        baseline: ``--model.advantage.baseline``.

    Raises:
        UserError: naming the flags.
    """
    for part in parts:
        if part.args.cross_tokenizer:
            raise UserError(
                f"--model.advantage.baseline {baseline} compares distributions over one vocabulary, and --{part.flag}."
                "cross_tokenizer is for teachers with another; set baseline none."
            )
        together = len(parts) == 1 or part.args.placement in ("resident", "quantized")
        if not (part.scores_distributions and together):
            raise UserError(
                f"--model.advantage.baseline {baseline} compares whole distributions, and --{part.flag}.placement "
                f"{part.args.placement} has none for {where}; set baseline none, or placement resident."
            )
