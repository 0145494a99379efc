"""A policy as the writer of single sentences."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from lit_uniopd.hallucination.bootstrap import Candidate
from lit_uniopd.hallucination.sentences import sentence_end_ids
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.engines import sample
from lit_uniopd.types import Prompt
from lit_uniopd.utils.progress import follow, progress_bar
from lit_uniopd.utils.seeding import derive_seed


class PolicyWriter:
    """Samples continuations that end with the first sentence.

    A picture's candidates depend on the weights, the prompt with its context, and the seed, but not on the rest of the
    batch (as far as the model's logits do not change with it).

    Args:
        policy: the writer.
        sampling: ``n`` candidates, each of at most ``max_new_tokens``.
        seed: of the noise.
    """

    def __init__(self, policy: Policy, sampling: SamplingArgs, seed: int) -> None:
        self.policy, self.sampling, self.seed = policy, sampling, seed

    @cached_property
    def _ends(self) -> frozenset[int]:
        return self.policy.eos_ids | sentence_end_ids(self.policy.processor)

    def __call__(
        self, prompts: Sequence[Prompt], step: int, attempt: int, *, greedy: bool = False
    ) -> list[list[Candidate]]:
        """Candidates for each prompt's next sentence; an empty one where the policy ends its answer."""
        args = replace(self.sampling, n=1, temperature=0.0) if greedy else self.sampling
        encoded = [self.policy.encode(prompt) for prompt in prompts]
        rows = len(prompts) * args.n
        with self.policy.answering(), progress_bar(rows, f"sentence {step + 1}", unit="candidate") as bar:
            completions = sample(
                self.policy.model,
                [prompt.tokens for prompt in encoded],
                args,
                eos_ids=self._ends,
                pad_id=self.policy.pad_id,
                seed=derive_seed(self.seed, "sentence", step, attempt),
                keys=[int(prompt.key, 16) >> 1 for prompt in prompts],
                vision=[prompt.vision for prompt in encoded],
                unprocessed=[prompt.unprocessed for prompt in encoded],
                processor=self.policy.processor,
                on_progress=follow(bar),
                on_tokens=bar.add_tokens,
            )
        rows_and_masks = zip(completions.tokens_BT.cpu(), completions.mask_BT.cpu(), strict=True)
        ids = [row[mask].tolist() for row, mask in rows_and_masks]
        texts = self.policy.tokenizer.batch_decode(ids, skip_special_tokens=True)
        candidates = [
            Candidate(text.strip(), finish == "stop") for text, finish in zip(texts, completions.finish, strict=True)
        ]
        return [candidates[start : start + args.n] for start in range(0, rows, args.n)]
