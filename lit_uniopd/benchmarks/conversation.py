"""Answers to questions, and to conversations in which each question follows the answer to the one before."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from lit_uniopd.benchmarks.fingerprint import noise_key
from lit_uniopd.benchmarks.spec import Benchmark, Example
from lit_uniopd.benchmarks.transcript import transcript
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.types import Prompt


@dataclass(slots=True)
class _Talk:
    """One answer to an example on its way: of a conversation, the answers so far."""

    example: Example
    prompt: Prompt
    sample: int
    """Which of the ``n`` answers to the example."""
    answers: list[str] = field(default_factory=list)
    tokens: int = 0
    was_cut: bool = False

    @property
    def goes_on(self) -> bool:
        return len(self.answers) < len(self.example.turns)

    def add(self, text: str, tokens: int, finish: str) -> None:
        self.answers.append(text)
        self.tokens += tokens
        self.was_cut |= finish == "length"

    @property
    def next_prompt(self) -> Prompt:
        """The conversation so far, and its next question."""
        answered: list[dict[str, str]] = []
        for answer, question in zip(self.answers, self.example.turns[1:], strict=False):
            answered += [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
        return replace(self.prompt, messages=(*self.prompt.messages, *answered))

    @property
    def result(self) -> tuple[str, int, str]:
        text = transcript(self.answers) if self.example.turns else self.answers[0]
        return text, self.tokens, "length" if self.was_cut else "stop"


def write_conversations(
    policy: Policy, benchmark: Benchmark, examples: Sequence[Example], sampling: SamplingArgs, *, seed: int
) -> list[tuple[str, int, str]]:
    """Let the policy answer, in conversations one turn after the other.

    Args:
        policy: renders prompts as the benchmark's protocol says.
        benchmark: of the examples.
        examples: at least one.
        sampling: ``n`` answers to each.
        seed: of the sampling noise.

    Returns:
        Text, tokens and end (``length`` if any turn was cut) of ``n`` answers to each example, side by side.
    """
    stop = benchmark.generation.stop
    prompts = [benchmark.prompt(example) for example in examples]
    keys = [noise_key(benchmark.spec.id, example.id) for example in examples]
    written = write_answers(policy, prompts, sampling, seed=seed, keys=keys)
    talks = [_Talk(*pair, sample=k) for pair in zip(examples, prompts, strict=True) for k in range(sampling.n)]
    open_talks = talks
    while True:
        lengths = written.lengths_B.tolist()
        for talk, text, tokens, finish in zip(open_talks, written.text, lengths, written.finish, strict=True):
            talk.add(cut_at(text, stop), tokens, finish)
        open_talks = [talk for talk in open_talks if talk.goes_on]
        if not open_talks:
            return [talk.result for talk in talks]
        written = write_answers(
            policy,
            [talk.next_prompt for talk in open_talks],
            replace(sampling, n=1),
            seed=seed,
            keys=[noise_key(benchmark.spec.id, _turn_name(talk)) for talk in open_talks],
        )


def last_prompts(benchmark: Benchmark) -> Iterator[Prompt]:
    """The last prompt of each example, with empty answers in the place of those that will be written."""
    for example in benchmark.examples:
        yield _Talk(example, benchmark.prompt(example), 0, [""] * max(0, len(example.turns) - 1)).next_prompt


def most_turns(examples: Sequence[Example]) -> int:
    """Answers that the longest conversation among examples takes."""
    return max((len(example.turns) for example in examples), default=1) or 1


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [end for string in stop if (end := text.find(string)) >= 0]
    return text[: min(ends)] if ends else text


def _turn_name(talk: _Talk) -> str:
    return f"{talk.example.id}/{talk.sample}/{len(talk.answers)}"
