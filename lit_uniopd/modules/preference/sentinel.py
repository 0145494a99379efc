"""SENTINEL: fewer hallucinated objects, by preferring a factual to a hallucinated next sentence."""

from typing import Any

from lit_uniopd.modules.preference.base import PreferenceModule
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.chat_template import encode_continuation
from lit_uniopd.types import Prompt


class Sentinel(PreferenceModule):
    """Context-aware DPO (C-DPO) on the sentence pairs of ``SentencePairDataModule``.

    The loss is DPO's on summed log-probs (SENTINEL, equation 2); picture, question and the sentences so far are the
    prompt, which is computed once for both sentences. No token ends a sentence, since the caption goes on. Omni-DPO's
    weights apply to these pairs like to any others: set ``loss.kind`` to ``omni_dpo`` and give the pairs scores.

    Args:
        policy: the model to train; as it is before training, it is the reference.
        loss: C-DPO; ``loss.chosen_nll`` keeps the winner likely, which the paper does without.
        end_without_context: a sentence that nothing stands before is taught its end too, as in the released loaders.
            Pairs of our bootstrapping always have a context.
        options: those of ``PreferenceModule``.
    """

    def __init__(
        self,
        policy: PolicyArgs,
        loss: PairLossArgs = PairLossArgs(kind="dpo", beta=0.1),  # noqa: B008  # never mutated
        end_without_context: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(policy, loss, **options)
        self.end_without_context = end_without_context

    def encode_answer(self, prompt: Prompt, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt with its context, pictures left out, and of the sentence, without an end."""
        if self.end_without_context and prompt.messages[-1]["role"] != "assistant":
            return super().encode_answer(prompt, answer)
        return encode_continuation(self._processor, prompt, answer, self.policy_args.chat_template_kwargs)
