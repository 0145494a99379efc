"""Lengths that do not fit: beyond a model's positions, or validation that cuts answers which training lets end."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nlargest

from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.loading import model_config
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.engine_vllm_server import connect
from lit_uniopd.types import Prompt
from lit_uniopd.utils.objections import Objection

APART = 2
"""Factor by which the lengths of answers in training and validation must differ to be told of."""


def longest_prompt(prompts: Iterable[Prompt], length: Callable[[Prompt], int]) -> int:
    """Tokens of the longest prompt, as far as those of most characters tell; 0: there is none.

    Args:
        prompts: any number.
        length: measures one in tokens, which is slow.
    """
    candidates = nlargest(4, prompts, key=lambda prompt: len(str(prompt.messages)))
    return max(map(length, candidates), default=0)


def beyond_positions(
    args: PolicyArgs,
    flag: str,
    *,
    prompt: int,
    answer: int,
    option: str,
    shorter: str = "drop long prompts by --data.max_prompt_tokens",
) -> Iterator[Objection]:
    """What speaks against sequences of this length.

    Args:
        args: of the model, of which the config is read.
        flag: the option that ``args`` came from.
        prompt: tokens of the longest prompt.
        answer: tokens of the longest answer.
        option: what limits the answers, `--model.sampling.max_new_tokens`.
        shorter: how prompts get shorter.
    """
    config = model_config(args, flag).get_text_config(decoder=True)
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or prompt + answer <= positions:
        return
    rotary = bool(getattr(config, "rope_parameters", None))
    where = "rotary positions reach further, but it was not trained there" if rotary else "its table ends there"
    room = positions if option.endswith("max_length") else positions - prompt
    remedy = f"lower {option} to {room}, or {shorter}" if room > 0 else shorter
    yield Objection(
        "sampling" if option.endswith("max_new_tokens") else "settings",
        f"Prompts of {prompt} tokens with answers of {answer} exceed the {positions} positions of --{flag}.path, and "
        f"{where}; {remedy}.",
        refused=not rotary,
    )


def beyond_servers(sampling: SamplingArgs, prompt: int) -> Iterator[Objection]:
    """What speaks against answers of this length on the servers that write them.

    Args:
        sampling: with servers, which are asked.
        prompt: tokens of the longest prompt.
    """
    if sampling.server is not None:
        limit, answer = min(connect(sampling.server).limits, default=None), sampling.max_new_tokens
        if limit is not None and prompt + answer > limit:
            yield Objection(
                "sampling",
                f"Prompts of {prompt} tokens with answers of {answer} exceed the {limit} tokens of "
                f"sampling.server.urls; lower --model.sampling.max_new_tokens to {max(1, limit - prompt)}, or start "
                "the servers with a larger --max-model-len.",
                refused=True,
            )


def unlike_lengths(training: int, validation: int) -> Iterator[Objection]:
    """Scores of answers that are cut elsewhere than in training say little about it.

    Args:
        training: most tokens of an answer in training.
        validation: and of one to a held-out prompt.
    """
    if max(training, validation) >= APART * min(training, validation):
        effect = (
            "cuts answers that training lets end" if validation < training else "lets answers end that training cuts"
        )
        yield Objection(
            "validation",
            f"Validation writes up to {validation} tokens and training up to {training}, so it {effect}; set "
            "--model.val_sampling.max_new_tokens to that of --model.sampling.",
        )


def shortened_benchmarks(benchmarks: Sequence[Benchmark], training: int) -> Iterator[Objection]:
    """Benchmarks whose answers the profile cuts far before training does.

    Args:
        benchmarks: that are answered while it trains.
        training: most tokens of an answer in training.
    """
    short = [
        b for b in benchmarks if APART * b.generation.max_new_tokens <= min(training, b.spec.generation.max_new_tokens)
    ]
    if short:
        limits = ", ".join(f"{b.name} at {b.generation.max_new_tokens}" for b in short)
        yield Objection(
            "validation",
            f"Profile {short[0].profile} cuts the answers of {len(short)} benchmarks far before training's {training} "
            f"tokens ({limits}); take --trainer.callbacks.profile paper, or read these scores as those of short "
            "answers.",
        )
