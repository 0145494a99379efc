"""Preference pairs: training and validation data of Omni-DPO and of the losses it is compared with."""

import math
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.loaders import ResumableLoader, SourceDataModule, at_least_one, flagged
from datamodules.pair_sources import PairSourceArgs, PairTable, read_pairs
from datamodules.pair_weights import (
    FLAT,
    SATURATED,
    PairWeightArgs,
    ScoreScale,
    WeighedScores,
    WeightReport,
    weigh,
)
from datamodules.rows import Chained, View
from datamodules.tables import prepare_table
from datamodules.token_store import TokenStore
from lit_uniopd.errors import UserError
from lit_uniopd.types import EncodedPair, PairBatch, Prompt

SHORT = 8
"""Tokens up to which an answer is looked at for whether it is more than its end."""
PairSources = PairSourceArgs | list[PairSourceArgs] | None


@runtime_checkable
class EncodesAnswers(Protocol):
    """A module that can tokenise, before its model is loaded, a prompt and an answer as its policy reads them."""

    def prompt_length(self, prompt: Prompt) -> int:
        """Tokens of the prompt, its pictures' included."""
        ...

    def encode_answer(self, prompt: Prompt, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt without its pictures, and of the answer."""
        ...


@dataclass(frozen=True, slots=True)
class PairReport:
    """What became of the rows of a split."""

    rows: int
    long_prompts: int
    """Dropped: the prompt is longer than ``max_prompt_tokens``, or leaves no room for an answer in ``max_length``."""
    identical: int
    """Dropped: both answers are the same tokens, or are so after the cut to ``max_length``."""
    empty: int
    """Dropped: an answer has no token."""
    cut: int
    """Answers that ``max_length`` cut."""
    only_end: int
    """Answers with no text: kept, all that is compared of them is their end."""
    weights: WeightReport | None
    """None: the pairs have no scores."""
    unusable: Mapping[str, int] = field(default_factory=dict)
    """Dropped of a published format: why -> how many."""

    def __str__(self) -> str:
        notes = [f"{self.rows} rows"]
        notes += [f"{count} dropped since {reason}" for reason, count in self.unusable.items()]
        notes += [f"{self.long_prompts} dropped for too long prompts"] if self.long_prompts else []
        notes += [f"{self.identical} dropped for answers of the same tokens"] if self.identical else []
        notes += [f"{self.empty} dropped for an empty answer"] if self.empty else []
        notes += [f"{self.cut} answers cut to max_length"] if self.cut else []
        notes += [f"{self.only_end} answers empty but for their end"] if self.only_end else []
        notes += [str(self.weights)] if self.weights else ["no scores"]
        return ", ".join(notes)


class EncodedPairs(View[EncodedPair]):
    """The pairs of a source as the policy reads them, put together when they are asked for.

    Args:
        pairs: of the source.
        chosen: numbers of those that are left.
        weighed: the scores of all; None: there are none.
        tokens: prompt, chosen and rejected answer of each that is left.
    """

    def __init__(
        self, pairs: PairTable, chosen: "array[int]", weighed: WeighedScores | None, tokens: TokenStore
    ) -> None:
        self.pairs, self.chosen, self.weighed, self.tokens = pairs, chosen, weighed, tokens

    def __len__(self) -> int:
        return len(self.chosen)

    def item(self, index: int) -> EncodedPair:
        number = self.chosen[index]
        pair = self.pairs[number]
        if self.weighed is not None:
            pair = replace(
                pair,
                score_chosen=float(self.weighed.chosen_P[number]),
                score_rejected=float(self.weighed.rejected_P[number]),
                quality=float(self.weighed.quality_P[number]),
            )
        return EncodedPair(pair, *self.tokens[index])


class PreferenceDataModule(SourceDataModule):
    """Preference pairs from files of many kinds and the hub, weighted by their scores; rows are read where they stand.

    Tables are in TRL's conventions: ``chosen`` and ``rejected`` as texts or chat messages, ``prompt`` as a column or as
    what both begin with, ``images`` if any; and, for quality weights, ``score_chosen`` and ``score_rejected``.

    Every answer is tokenised once, behind its prompt. Prompts are never cut. Training order and resuming are those of
    ``PromptDataModule``.

    Args:
        train: One source of pairs, or a list of them.
        val: The same for validation. Default: there is none.
        batch_size: Pairs that one pass takes on each rank; with global_batch_size, at most. Default: 8.
        global_batch_size: Pairs of an optimizer step over all ranks; what a pass leaves is accumulated. Default: a
            batch on each rank, times --trainer.accumulate_grad_batches.
        val_batch_size: Pairs per validation batch and rank. Default: batch_size.
        max_prompt_tokens: Pairs with longer prompts are dropped, counted and logged. Default: none are.
        max_length: Longest prompt with answer, in tokens: answers are cut to it, and pairs of which nothing is left are
            dropped; both are counted. Default: nothing is cut.
        weighting: How scores become quality weights.
        shuffle: Draw the training order anew for every pass; false takes the sources one after the other.
        seed: Seed of the training order. Default: that of --seed_everything.

    Attributes:
        train_pairs: after ``setup``, all training pairs, source after source.
        val_pairs: the same for validation.
        report: by the option that a source came from, what became of its rows.
        answers: the tokeniser of answers, for use without a trainer; with one, its module is taken.
    """

    def __init__(
        self,
        train: PairSources = None,
        val: PairSources = None,
        batch_size: int | None = None,
        val_batch_size: int | None = None,
        max_prompt_tokens: int | None = None,
        max_length: int | None = None,
        weighting: PairWeightArgs = PairWeightArgs(),  # noqa: B008  # never mutated
        shuffle: bool = True,
        seed: int | None = None,
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.sources = {"train": flagged("train", train), "val": flagged("val", val)}
        at_least_one(
            val_batch_size=val_batch_size,
            max_prompt_tokens=max_prompt_tokens,
            max_length=max_length,
        )
        self.set_batch_size(batch_size, global_batch_size)
        self.val_batch_size = val_batch_size or self.batch_size
        self.max_prompt_tokens = max_prompt_tokens
        self.max_length = max_length
        self.weighting = weighting
        self.shuffle = shuffle
        self.seed = seed
        self.train_pairs: Sequence[EncodedPair] = []
        self.val_pairs: Sequence[EncodedPair] = []
        self.report: dict[str, PairReport] = {}
        self.answers: EncodesAnswers | None = None
        self._sizes: list[int] = []

    def prepare_data(self) -> None:
        """Download hub data sets, once for all processes."""
        for sources in self.sources.values():
            for flag, source in sources.items():
                prepare_table(source, flag)

    def setup(self, stage: str | None = None) -> None:
        """Read, weigh and tokenise the pairs.

        Raises:
            UserError: naming the flag, the file, the row or the column that is wrong.
        """
        if not self.sources["train"]:
            raise UserError("There are no pairs; name a file or data set by --data.train.path.")
        self.divide_step()
        self._order = None
        pairs_of = {
            split: [self.read(source, flag) for flag, source in sources.items()]
            for split, sources in self.sources.items()
        }
        scored = [_scored(pairs) for pairs in (*pairs_of["train"], *pairs_of["val"])]
        if any(scored) != all(scored):
            raise UserError(
                "Only some sources of pairs have scores; give all of --data.train and val columns of scores."
            )
        scores = torch.cat([_scores(pairs) for pairs in pairs_of["train"]])
        scale = ScoreScale(scores, self.weighting.normalization) if all(scored) else None
        self.train_pairs, self._sizes = self._prepared("train", pairs_of["train"], scale)
        self.val_pairs, _ = self._prepared("val", pairs_of["val"], scale)
        if not self.sources["val"]:  # without the method Lightning skips validation
            self.val_dataloader = super().val_dataloader

    def read(self, source: PairSourceArgs, flag: str) -> PairTable:
        """The pairs of one source; ``flag`` is the option that it came from."""
        return read_pairs(source, flag)

    def train_dataloader(self) -> ResumableLoader:
        """The training order; a resumed run goes on in it."""
        return self.training_loader(self.train_pairs, PairBatch, self._sizes)

    def val_dataloader(self) -> Any:
        """Each validation pair once."""
        return self.evaluation_loader(self.val_pairs, self.val_batch_size, PairBatch)

    def _prepared(
        self, split: str, sources: Sequence[PairTable], scale: ScoreScale | None
    ) -> tuple[Sequence[EncodedPair], list[int]]:
        """The weighted and tokenised pairs of a split, and how many of them are of each source."""
        prepared: list[Sequence[EncodedPair]] = []
        sizes: list[int] = []
        encoder = self._encoder()
        for (flag, source), pairs in zip(self.sources[split].items(), sources, strict=True):
            weighed = weights = None
            if scale is not None:
                weighed = weigh(_scores(pairs), self.weighting, scale, drop=split == "train")
                weights = weighed.report
            encoded, counts = self._encoded(pairs, weighed, encoder, source.path)
            rows = len(pairs) + sum(pairs.unusable.values())
            report = PairReport(rows, *counts, weights, pairs.unusable)
            self.report[flag] = report
            rank_zero_info(f"{flag} {source.path}: {report}; {len(encoded)} pairs")
            if not encoded:
                raise UserError(
                    f"Nothing is left of {flag}.path {source.path} ({report}); raise --data.max_length or "
                    "max_prompt_tokens if they are too long, or give pairs whose answers differ."
                )
            if weights is not None and split == "train" and self.weighting.eta > 0 and weights.pairs > 1:
                _warn_of_flat_weights(weights, flag, self.weighting.eta)
            prepared.append(list(encoded) if pairs.in_memory else encoded)
            sizes.append(len(encoded))
        return Chained(prepared), sizes

    def _encoded(
        self, pairs: PairTable, weighed: WeighedScores | None, encoder: EncodesAnswers, path: str
    ) -> tuple[EncodedPairs, tuple[int, int, int, int, int]]:
        """Pairs that fit, and how many had too long prompts, identical or empty answers, answers cut, and only ends."""
        long_prompts = identical = empty = cut = only_end = 0
        chosen_rows, tokens = array("q"), TokenStore(columns=3)
        for number, pair in enumerate(self.tracked(pairs, f"Tokenising {path}")):
            if weighed is not None and not weighed.keep_P[number]:
                continue
            # The length first: it reads the pictures, and a model that cannot do so says so here.
            length = encoder.prompt_length(pair.prompt)
            (prompt_tokens, chosen), (_, rejected) = (
                encoder.encode_answer(pair.prompt, answer) for answer in (pair.chosen, pair.rejected)
            )
            room = sys.maxsize if self.max_length is None else self.max_length - length
            if room < 1 or (self.max_prompt_tokens is not None and length > self.max_prompt_tokens):
                long_prompts += 1
            elif chosen[:room] == rejected[:room]:
                identical += 1
            elif not chosen or not rejected:  # its mean log-prob would be 0 / 0
                empty += 1
            else:
                cut += (len(chosen) > room) + (len(rejected) > room)
                if len(chosen) <= SHORT or len(rejected) <= SHORT:
                    blank = encoder.encode_answer(pair.prompt, "")[1]
                    only_end += (chosen == blank) + (rejected == blank)
                chosen_rows.append(number)
                tokens.append(() if pair.prompt.images else prompt_tokens, chosen[:room], rejected[:room])
        encoded = EncodedPairs(pairs, chosen_rows, weighed, tokens)
        return encoded, (long_prompts, identical, empty, cut, only_end)

    def _encoder(self) -> EncodesAnswers:
        if self.answers is not None:
            return self.answers
        module = None if self.trainer is None else self.trainer.lightning_module
        if not isinstance(module, EncodesAnswers):
            raise UserError(
                "Preference pairs need the policy's tokenizer: use a module that has encode_answer, such as "
                "lit_uniopd.modules.OmniDPO, or set `answers` of the datamodule to one."
            )
        return module


def _scored(pairs: PairTable) -> bool:
    """Whether a source has scores; its columns are there for all rows or for none."""
    return not math.isnan(pairs.scores[0])


def _scores(pairs: PairTable) -> torch.Tensor:
    """Of both sides of each pair, in float64."""
    return torch.from_numpy(np.frombuffer(pairs.scores, dtype=np.float64).copy()).view(-1, 2)


def _warn_of_flat_weights(weights: WeightReport, flag: str, eta: float) -> None:
    """Warn if the quality weights treat all pairs alike."""
    alike = f"All quality weights of {flag} are about {weights.mean:.3f}: "
    if weights.only_gap is not None:
        rank_zero_warn(
            f"{alike}the scores of every pair differ by {weights.only_gap:g}; give finer scores than a verdict, or set "
            "--model.loss.use_quality false."
        )
    elif weights.spread < FLAT and weights.mean > SATURATED:
        rank_zero_warn(
            f"{alike}its scores differ by far more than 1 / --data.weighting.eta {eta}; lower eta, or set "
            "normalization to zscore."
        )
    elif weights.spread < FLAT:
        rank_zero_warn(
            f"{alike}its scores hardly differ at --data.weighting.eta {eta}; raise eta, or set normalization to zscore."
        )
