"""What one step asks of a device, in rows and tokens."""

from dataclasses import dataclass

from lit_uniopd.sampling.args import ColocateArgs, SamplingArgs
from lit_uniopd.sampling.engines import likely_engine


@dataclass(frozen=True)
class Workload:
    """What one step asks of a device, in rows and tokens."""

    train_tokens: int
    """Tokens of one forward and backward pass, padding included."""
    longest_row: int
    """Tokens of the longest prompt with its answer: no micro-batch can be smaller."""
    tokens_flag: str = ""
    """The option that makes ``train_tokens`` smaller, with `{tokens}` or `{rows}` in the place of its value."""
    score_tokens: int = 0
    """Tokens of one forward pass of a teacher or reference. 0: there is none."""
    rows: int = 0
    """Answers written at the same time. 0: none are written."""
    rows_flag: str = ""
    """The option that makes ``rows`` smaller."""
    prompts: int = 1
    """Prompts read at once before they are answered."""
    prompt_tokens: int = 0
    """Tokens of the longest prompt."""
    new_tokens: int = 0
    """Tokens of the longest answer."""
    colocated: ColocateArgs | None = None
    """vLLM's engine in the same process, which then writes the answers with weights of its own."""
    engine_flag: str = "model.sampling.colocate"
    """The options of that engine."""
    answers: int = 0
    """Of a rollout, on this device."""
    top_k: int = 0
    """Tokens that a teacher on a server names for each one of an answer. 0: it says that one's log-prob only."""

    @classmethod
    def of_rollouts(
        cls,
        sampling: SamplingArgs,
        *,
        answers: int,
        longest_prompt: int,
        micro_batch_tokens: int,
        here: bool,
        cuda: bool,
        top_k: int = 0,
        longest_read: int = 0,
    ) -> "Workload":
        """Of on-policy distillation.

        Args:
            sampling: how answers are written.
            answers: of a rollout.
            longest_prompt: in tokens.
            micro_batch_tokens: budget of a forward pass of student or teacher.
            here: whether the student's weights on this device write the answers.
            cuda: whether the device is a GPU.
            top_k: tokens that a teacher on a server names for each one of an answer.
            longest_read: tokens of the longest prompt of a teacher that reads another than the student.
        """
        engine = likely_engine(sampling, cuda=cuda)
        row = longest_prompt + sampling.max_new_tokens
        read_row = max(longest_prompt, longest_read) + sampling.max_new_tokens
        tokens = min(max(micro_batch_tokens, row), answers * row)
        rows = min(sampling.max_rows, answers)
        return cls(
            train_tokens=tokens,
            longest_row=row,
            tokens_flag="--model.micro_batch_tokens {tokens}",
            score_tokens=min(max(micro_batch_tokens, read_row), answers * read_row),
            rows=rows if here else 0,
            rows_flag="model.sampling.max_rows",
            prompts=max(1, rows // sampling.n),
            prompt_tokens=longest_prompt,
            new_tokens=sampling.max_new_tokens,
            colocated=sampling.colocate if here and engine == "vllm" else None,
            answers=answers,
            top_k=top_k,
        )
