"""Do the settings fit the objective?"""

from collections.abc import Iterator
from typing import Any

from lit_uniopd.doctor.dry_run import Case, complaints
from lit_uniopd.doctor.findings import Finding, green, red, yellow


def check_setup(case: Case) -> Iterator[Finding]:
    """What the module itself warns of or refuses when a run begins."""
    with complaints("settings") as problems:
        case.module.setup(case.stage)
    yield from problems
    if not problems:
        yield green("settings", f"{type(case.module).__name__} has nothing to object.")


def check_sampling(case: Case) -> Iterator[Finding]:
    """How answers are sampled, against what the loss assumes."""
    if not case.on_policy:
        return
    module, sampling = case.module, case.module.sampling
    problems = [*_greedy(case), *_groups(case), *_positions(case)]
    answers = case.trainer_data.batch_size * sampling.n
    if module.updates_per_rollout > answers:
        problems.append(
            red(
                "sampling",
                f"--model.updates_per_rollout {module.updates_per_rollout} is more than a rollout's {answers} answers.",
                "Lower it, or raise --model.sampling.n or --data.batch_size.",
            )
        )
    yield from problems
    if not problems:
        yield green(
            "sampling",
            f"{sampling.n} answers a prompt of up to {sampling.max_new_tokens} tokens, temperature "
            f"{sampling.temperature:g} for student and teachers, {answers} answers a rollout.",
        )


def _greedy(case: Case) -> Iterator[Finding]:
    sampling = case.module.sampling
    if sampling.temperature > 0 or case.module.writer == "teacher":
        return
    if case.module.loss.kind == "sampled":
        yield red(
            "sampling",
            "--model.sampling.temperature 0 always takes the most probable token, and the sampled loss is an "
            "expectation over drawn ones.",
            "Set it to 1, or choose a loss over whole distributions by --model.loss.kind reverse_kl.",
        )
    elif sampling.n > 1:
        yield yellow(
            "sampling",
            f"At temperature 0 the {sampling.n} answers to a prompt are all the same.",
            "Set --model.sampling.n 1, or a temperature above 0.",
        )


def _groups(case: Case) -> Iterator[Finding]:
    """Whatever compares right and wrong answers to a prompt needs more than one."""
    if case.module.sampling.n > 1:
        return
    grouped = [type(callback).__name__ for callback in calibrations(case) if callback.scope == "group"]
    balance: Any = getattr(case.data, "online_balance", None)
    grouped += ["--data.online_balance"] if getattr(balance, "scope", None) == "group" else []
    grouped += ["--model.advantage.outcome_weight"] if case.module.advantage.outcome_weight else []
    if grouped:
        yield red(
            "sampling",
            f"With one answer a prompt, none has both right and wrong ones: {', '.join(grouped)} can do nothing.",
            "Raise --model.sampling.n (the paper has 16), or set the scope to global.",
        )


def calibrations(case: Case) -> list[Any]:
    """Callbacks that calibrate margins, recognised by their attributes: the core does not import callbacks."""
    callbacks: list[Any] = case.trainer.callbacks  # type: ignore[attr-defined]
    attributes = ("on_rollouts_scored", "scope", "delta")
    return [callback for callback in callbacks if all(hasattr(callback, name) for name in attributes)]


def _positions(case: Case) -> Iterator[Finding]:
    config = case.student.config.get_text_config(decoder=True)
    positions = getattr(config, "max_position_embeddings", None)
    if not positions or not case.train_prompts:
        return
    longest, new = case.module.longest_prompt(case.train_prompts), case.module.sampling.max_new_tokens
    if longest + new <= positions:
        return
    problem = f"Prompts of {longest} tokens with answers of {new} exceed the student's {positions} positions"
    remedy = (
        f"Lower --model.sampling.max_new_tokens to {max(1, positions - longest)}, or drop long prompts by "
        "--data.max_prompt_tokens."
    )
    if getattr(config, "rope_parameters", None):
        yield yellow("sampling", f"{problem}; rotary positions reach further, but it was not trained there.", remedy)
    else:
        yield red("sampling", f"{problem}, and its table of positions ends there.", remedy)
