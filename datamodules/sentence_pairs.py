"""Sentence pairs: training and validation data of SENTINEL."""

from dataclasses import dataclass, replace

from datamodules.columns import lookup
from datamodules.pair_sources import PairSourceArgs, PairTable, read_pairs
from datamodules.pair_weights import PairWeightArgs
from datamodules.preferences import PreferenceDataModule
from lit_uniopd.errors import UserError
from lit_uniopd.policy.chat_template import continued
from lit_uniopd.types import PreferencePair


@dataclass
class SentencePairSourceArgs(PairSourceArgs):
    """One table of sentence pairs, as ``callbacks.SentencePairWriter`` writes them.

    What the released pipeline writes (`*_data_pair.jsonl`) and its files for LLaVA-v1.5 (a picture's number and its
    pairs) are read with `format: sentinel`, those for LLaMA-Factory with `prompt_column: instruction`.
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

    def read(self, source: PairSourceArgs, flag: str) -> PairTable:
        """Pairs whose prompts end with their context.

        Raises:
            UserError: naming the file, the row or the column that is wrong.
        """
        assert isinstance(source, SentencePairSourceArgs)
        return read_sentence_pairs(source, flag)


def read_sentence_pairs(source: SentencePairSourceArgs, flag: str) -> PairTable:
    """Read a source; the prompts of its pairs end with the caption so far.

    Raises:
        UserError: naming the file, the row or the column that is wrong.
    """
    pairs = read_pairs(source, flag)
    with_contexts = PairTable(pairs, lambda pair: _with_context(pair, source, flag))
    with_contexts.unusable, with_contexts.scores = pairs.unusable, pairs.scores
    with_contexts.in_memory = pairs.in_memory
    for pair in pairs:
        _with_context(pair, source, flag)
    return with_contexts


def _with_context(pair: PreferencePair, source: SentencePairSourceArgs, flag: str) -> PreferencePair:
    name = source.context_column
    context = lookup(pair.prompt.row, name)
    if not isinstance(context, str):
        columns = ", ".join(pair.prompt.row) or "none"
        raise UserError(
            f"{source.path}, row {pair.prompt.id!r}: column {name!r} must hold the caption so far, a text that may "
            f"be empty; name it by {flag}.context_column (other columns: {columns})."
        )
    return replace(pair, prompt=continued(pair.prompt, context.strip()))
