"""Sentence pairs: training and validation data of SENTINEL."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from datamodules.pair_sources import PairSourceArgs, read_pairs
from datamodules.pair_weights import PairWeightArgs
from datamodules.preferences import PreferenceDataModule
from lit_uniopd.errors import UserError
from lit_uniopd.policy.chat_template import continued
from lit_uniopd.types import PreferencePair


@dataclass
class SentencePairSourceArgs(PairSourceArgs):
    """One table of sentence pairs, as ``callbacks.SentencePairWriter`` writes them.

    What the released pipeline writes (`*_data_pair.jsonl`) is read with `prompt_column: question`,
    `chosen_column: y_win`, `rejected_column: y_lose` and `images_column: image_path`.
    """

    context_column: str = "context"
    """Column of the caption so far, which both answers continue; it may be empty."""


SentencePairSources = SentencePairSourceArgs | list[SentencePairSourceArgs] | None


class SentencePairDataModule(PreferenceDataModule):
    """Pairs of next sentences, each behind its picture, its question and the caption so far.

    The context is the beginning of the answer's turn: it belongs to the prompt by its place, and is never searched for.

    Args:
        train: One source of pairs, or a list of them.
        val: The same for validation. Default: there is none.
        batch_size: Pairs that one pass takes on each rank; with global_batch_size, at most. Default: 8.
        global_batch_size: Pairs of an optimizer step over all ranks; what a pass leaves is accumulated. Default: a
            batch on each rank, times --trainer.accumulate_grad_batches.
        val_batch_size: Pairs per validation batch and rank. Default: batch_size.
        max_prompt_tokens: Pairs with longer prompts are dropped, counted and logged. Default: none are.
        max_length: Longest prompt with answer, in tokens. Default: nothing is cut.
        weighting: How scores become quality weights, if there are scores and the loss is Omni-DPO.
        shuffle: Draw the training order anew for every pass; false takes the sources one after the other.
        seed: Seed of the training order. Default: that of --seed_everything.
    """

    def __init__(
        self,
        train: SentencePairSources = None,
        val: SentencePairSources = None,
        batch_size: int | None = None,
        val_batch_size: int | None = None,
        max_prompt_tokens: int | None = None,
        max_length: int | None = None,
        weighting: PairWeightArgs = PairWeightArgs(),  # noqa: B008  # never mutated
        shuffle: bool = True,
        seed: int | None = None,
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            train,  # type: ignore[arg-type]  # lists are invariant
            val,  # type: ignore[arg-type]
            batch_size,
            val_batch_size,
            max_prompt_tokens,
            max_length,
            weighting,
            shuffle,
            seed,
            global_batch_size,
        )

    def read(self, source: PairSourceArgs, flag: str) -> list[PreferencePair]:
        """Pairs whose prompts end with their context.

        Raises:
            UserError: naming the file, the row or the column that is wrong.
        """
        assert isinstance(source, SentencePairSourceArgs)
        return _with_contexts(read_pairs(source, flag), source, flag)


def _with_contexts(pairs: Sequence[PreferencePair], source: SentencePairSourceArgs, flag: str) -> list[PreferencePair]:
    name = source.context_column
    with_contexts: list[PreferencePair] = []
    for pair in pairs:
        context = pair.prompt.row.get(name)
        if not isinstance(context, str):
            columns = ", ".join(pair.prompt.row) or "none"
            raise UserError(
                f"{source.path}, row {pair.prompt.id!r}: column {name!r} must hold the caption so far, a text that may "
                f"be empty; name it by {flag}.context_column (other columns: {columns})."
            )
        with_contexts.append(replace(pair, prompt=continued(pair.prompt, context.strip())))
    return with_contexts
