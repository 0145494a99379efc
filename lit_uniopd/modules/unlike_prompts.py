"""Prompts that validation puts otherwise than training: with another system prompt, or another thinking mode."""

from collections.abc import Iterator, Sequence
from typing import Any

from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.template_options import reads
from lit_uniopd.types import Prompt
from lit_uniopd.utils.objections import Objection


def unlike_system_prompts(training: Sequence[Prompt], heldout: Sequence[Prompt]) -> Iterator[Objection]:
    """Whether all prompts of one split have a system prompt that none of the other has."""
    trained, validated = ({_system(prompt) for prompt in prompts} for prompts in (training, heldout))
    if trained and validated and not trained & validated:
        yield Objection(
            "validation",
            f"Training prompts have {_named(trained)} and held-out prompts {_named(validated)}: scores are those of "
            "other prompts; give the rows of --data.train and --data.val the same system message.",
        )


def _system(prompt: Prompt) -> str | None:
    first = prompt.messages[0]
    return str(first["content"]) if first["role"] == "system" else None


def _named(systems: set[str | None]) -> str:
    texts = sorted(text for text in systems if text is not None)
    if not texts:
        return "no system prompt"
    return f"the system prompt {texts[0][:40]!r}" if len(systems) == 1 else f"{len(systems)} other system prompts"


def unlike_benchmark_prompts(
    benchmarks: Sequence[Benchmark], args: PolicyArgs, flag: str, processor: Any
) -> Iterator[Objection]:
    """Options of the chat template that benchmarks set and training leaves to the template.

    Args:
        benchmarks: that are answered while it trains.
        args: of the policy; what it sets itself holds for both.
        flag: the option that ``args`` came from.
        processor: of the policy.
    """
    options = {name: value for benchmark in benchmarks for name, value in benchmark.spec.prompt.chat.items()}
    for name, value in options.items():
        if name not in args.chat_template_kwargs and reads(processor, name):
            yield Objection(
                "validation",
                f"Benchmarks are answered with {name} {str(value).lower()}, and training leaves it to the chat "
                f"template; write it out by --{flag}.chat_template_kwargs.{name}.",
            )
