"""Preference pairs: training and validation data of Omni-DPO and of the losses it is compared with."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.loaders import ResumableLoader, SourceDataModule, at_least_one, flagged
from datamodules.pair_sources import PairSourceArgs, read_pairs
from datamodules.pair_weights import FLAT, SATURATED, PairWeightArgs, ScoreScale, WeightReport, weigh
from datamodules.tables import prepare_table
from lit_uniopd.errors import UserError
from lit_uniopd.types import EncodedPair, PairBatch, PreferencePair, Prompt

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
    """Dropped: both answers are the same, or are so after the cut to ``max_length``."""
    empty: int
    """Dropped: an answer has no token."""
    cut: int
    """Answers that ``max_length`` cut."""
    only_end: int
    """Answers with no text: kept, all that is compared of them is their end."""
    weights: WeightReport | None
    """None: the pairs have no scores."""

    def __str__(self) -> str:
        notes = [f"{self.rows} rows"]
        notes += [f"{self.long_prompts} dropped for too long prompts"] if self.long_prompts else []
        notes += [f"{self.identical} dropped for identical answers"] if self.identical else []
        notes += [f"{self.empty} dropped for an empty answer"] if self.empty else []
        notes += [f"{self.cut} answers cut to max_length"] if self.cut else []
        notes += [f"{self.only_end} answers empty but for their end"] if self.only_end else []
        notes += [str(self.weights)] if self.weights else ["no scores"]
        return ", ".join(notes)


class PreferenceDataModule(SourceDataModule):
    """Preference pairs from JSONL, JSON and parquet files and the hub, weighted by their scores.

    Tables are in TRL's conventions: ``chosen`` and ``rejected`` as texts or chat messages, ``prompt`` as a column or as
    what both begin with, ``images`` if any; and, for quality weights, ``score_chosen`` and ``score_rejected``.

    Every answer is tokenised once, behind its prompt. Prompts are never cut. Training order and resuming are those of
    ``PromptDataModule``.

    Args:
        train: One source of pairs, or a list of them.
        val: The same for validation. Default: there is none.
        batch_size: Pairs per step and rank; use --trainer.accumulate_grad_batches for larger ones.
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
        batch_size: int = 8,
        val_batch_size: int | None = None,
        max_prompt_tokens: int | None = None,
        max_length: int | None = None,
        weighting: PairWeightArgs = PairWeightArgs(),  # noqa: B008  # never mutated
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.sources = {"train": flagged("train", train), "val": flagged("val", val)}
        at_least_one(
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            max_prompt_tokens=max_prompt_tokens,
            max_length=max_length,
        )
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.max_prompt_tokens = max_prompt_tokens
        self.max_length = max_length
        self.weighting = weighting
        self.shuffle = shuffle
        self.seed = seed
        self.train_pairs: list[EncodedPair] = []
        self.val_pairs: list[EncodedPair] = []
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
        train_pairs = [pair for pairs in pairs_of["train"] for pair in pairs]
        scale = ScoreScale(train_pairs, self.weighting.normalization) if all(scored) else None
        self.train_pairs, self._sizes = self._prepared("train", pairs_of["train"], scale)
        self.val_pairs, _ = self._prepared("val", pairs_of["val"], scale)
        if not self.sources["val"]:  # without the method Lightning skips validation
            self.val_dataloader = super().val_dataloader

    def read(self, source: PairSourceArgs, flag: str) -> list[PreferencePair]:
        """The pairs of one source; ``flag`` is the option that it came from."""
        return read_pairs(source, flag)

    def train_dataloader(self) -> ResumableLoader:
        """The training order; a resumed run goes on in it."""
        return self.training_loader(self.train_pairs, PairBatch, self._sizes)

    def val_dataloader(self) -> Any:
        """Each validation pair once."""
        return self.evaluation_loader(self.val_pairs, self.val_batch_size, PairBatch)

    def _prepared(
        self, split: str, sources: Sequence[list[PreferencePair]], scale: ScoreScale | None
    ) -> tuple[list[EncodedPair], list[int]]:
        """The weighted and tokenised pairs of a split, and how many of them are of each source."""
        prepared: list[EncodedPair] = []
        sizes: list[int] = []
        encoder = self._encoder()
        for (flag, source), pairs in zip(self.sources[split].items(), sources, strict=True):
            rows, weights = len(pairs), None
            if scale is not None:
                pairs, weights = weigh(pairs, self.weighting, scale, drop=split == "train")
            encoded, counts = self._encoded(pairs, encoder, source.path)
            report = PairReport(rows, *counts, weights)
            self.report[flag] = report
            rank_zero_info(f"{flag} {source.path}: {report}; {len(encoded)} pairs")
            if not encoded:
                raise UserError(
                    f"Nothing is left of {flag}.path {source.path} ({report}); raise --data.max_length or "
                    "max_prompt_tokens if they are too long, or give pairs whose answers differ."
                )
            if weights is not None and split == "train" and self.weighting.eta > 0 and weights.pairs > 1:
                _warn_of_flat_weights(weights, flag, self.weighting.eta)
            prepared += encoded
            sizes.append(len(encoded))
        return prepared, sizes

    def _encoded(
        self, pairs: Sequence[PreferencePair], encoder: EncodesAnswers, path: str
    ) -> tuple[list[EncodedPair], tuple[int, int, int, int, int]]:
        """Pairs that fit, and how many had too long prompts, identical or empty answers, answers cut, and only ends."""
        long_prompts = identical = empty = cut = only_end = 0
        encoded: list[EncodedPair] = []
        for pair in self.tracked(pairs, f"Tokenising {path}"):
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
                text_tokens = () if pair.prompt.images else tuple(prompt_tokens)
                encoded.append(EncodedPair(pair, text_tokens, tuple(chosen[:room]), tuple(rejected[:room])))
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


def _scored(pairs: Sequence[PreferencePair]) -> bool:
    """Whether a source has scores; its columns are there for all rows or for none."""
    return not math.isnan(pairs[0].score_chosen)


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
