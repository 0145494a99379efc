"""Do the settings keep what the objective assumes?"""

from collections.abc import Iterator
from typing import Any

from lit_uniopd.doctor.dry_run import Case, complaints
from lit_uniopd.doctor.findings import Finding, green, red, yellow


def check_setup(case: Case) -> Iterator[Finding]:
    """What the module itself says when a run begins: everything that it would warn of or refuse."""
    with complaints("settings") as problems:
        case.module.setup(case.stage)
    yield from problems
    if not problems:
        yield green("settings", f"{type(case.module).__name__} has nothing to object.")


def check_sampling(case: Case) -> Iterator[Finding]:
    """How answers are drawn, against what the loss takes for granted."""
    if not case.on_policy:
        return
    module, sampling = case.module, case.module.sampling
    problems = [*_greedy(case), *_groups(case), *_positions(case)]
    answers = getattr(case.data, "batch_size", 1) * sampling.n
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
    """What compares right and wrong answers to one prompt needs more than one."""
    if case.module.sampling.n > 1:
        return
    grouped = [type(plug).__name__ for plug in calibrations(case) if plug.scope == "group"]
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
    """Callbacks that calibrate margins, told by what they have: this package does not know them."""
    plugs: list[Any] = case.trainer.callbacks  # type: ignore[attr-defined]
    return [p for p in plugs if hasattr(p, "on_rollouts_scored") and hasattr(p, "scope") and hasattr(p, "delta")]


def _positions(case: Case) -> Iterator[Finding]:
    config = case.student.config.get_text_config(decoder=True)
    positions = getattr(config, "max_position_embeddings", None)
    if not positions or not case.train_prompts:
        return
    longest, new = case.module.longest_prompt(case.train_prompts), case.module.sampling.max_new_tokens
    if longest + new <= positions:
        return
    found = f"Prompts of {longest} tokens with answers of {new} exceed the student's {positions} positions"
    remedy = (
        f"Lower --model.sampling.max_new_tokens to {max(1, positions - longest)}, or drop long prompts by "
        "--data.max_prompt_tokens."
    )
    if getattr(config, "rope_parameters", None):
        yield yellow("sampling", f"{found}; rotary positions reach further, but it was not trained there.", remedy)
    else:
        yield red("sampling", f"{found}, and its table of positions ends there.", remedy)
