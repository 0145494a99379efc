"""SENTINEL's data: captions grown sentence by sentence, each step checked by detectors and mined for pairs."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.detectors import Detector
from lit_uniopd.hallucination.lexicon import singular
from lit_uniopd.hallucination.objects import ObjectExtractor
from lit_uniopd.hallucination.pairs import (
    Append,
    Choose,
    PairsPerStep,
    Positives,
    WhenNoFactual,
    append_pool,
    build_pairs,
)
from lit_uniopd.hallucination.sentences import (
    Label,
    LabelledSentence,
    is_unfinished,
    label_sentences,
    should_stop,
    unique_candidates,
)
from lit_uniopd.hallucination.verdicts import OutOfVocabulary, Uncertain, VerdictCache, cross_check, vote_of
from lit_uniopd.policy.chat_template import continued
from lit_uniopd.types import Prompt

RESAMPLES = 3
"""Times that a step without a factual candidate is sampled anew before the caption ends."""
Stopped = Literal["end", "no_factual", "max_sentences", "unreadable"]


@dataclass
class BootstrapArgs:
    """Choices on which SENTINEL's paper and its released code differ. The defaults are the paper's."""

    append: Append = "coherent_first"
    """Which sentence is appended to the context. paper: coherent_first; released_code: agnostic_first. `greedy` and
    `hallucinated` are the paper's ablations (table 4)."""
    when_no_factual: WhenNoFactual = "stop"
    """No candidate is factual: `stop` the caption, `resample` the step, append one that is `not_hallucinated` (as when
    captioning without training), or `any` (released_code)."""
    positives: Positives = "coherent"
    """Factual sentences that may be chosen: those that share an object with the context (both), see table 3."""
    pairs_per_step: PairsPerStep = "zip"
    """`one`, `zip` (released_code: no sentence twice) or `cross`."""
    stop_rule: Literal["empties", "empties_and_duplicates"] = "empties"
    """Candidates that count as the end: empty ones, or repeated ones too (released_code)."""
    stop_share: float = 0.5
    """The caption is over when a larger share of the candidates says so."""
    max_sentences: int = 12
    """Longest caption; neither paper nor code has a limit."""
    out_of_vocabulary: OutOfVocabulary = "abstain"
    """Vote of a detector on an object that is not in its closed vocabulary. released_code: accept."""
    uncertain: Uncertain = "ignore"
    """Verdict on an object on which the detectors disagree (table 9)."""
    ask_for: Literal["class", "word"] = "class"
    """Detectors look for an object's class (`person`), or for the caption's word (`woman`; released_code)."""
    keep_unfinished: bool = False
    """Keep candidates that were cut behind a number or an abbreviation, or that are too long (released_code)."""
    intervene_from: int = 0
    """Sentences before this one are continued as they were sampled and make no pairs (figures 2b and 9)."""

    def __post_init__(self) -> None:
        for name, good in (
            ("stop_share", 0 <= self.stop_share < 1),
            ("max_sentences", self.max_sentences >= 1),
            ("intervene_from", self.intervene_from >= 0),
        ):
            if not good:
                raise UserError(f"--model.bootstrap.{name} {getattr(self, name)} is out of range.")


RELEASED_CODE = BootstrapArgs(
    append="agnostic_first",
    when_no_factual="any",
    stop_rule="empties_and_duplicates",
    out_of_vocabulary="accept",
    ask_for="word",
    keep_unfinished=True,
)
PRESETS = {"paper": BootstrapArgs(), "released_code": RELEASED_CODE}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sampled continuation of one sentence."""

    text: str
    """Without space at both ends; empty: the model ended its answer."""
    finished: bool = True
    """Whether it ended by itself rather than at the limit of tokens."""


class Writer(Protocol):
    """Samples one-sentence continuations."""

    def __call__(self, prompts: Sequence[Prompt], step: int, attempt: int, *, greedy: bool) -> list[list[Candidate]]:
        """Several candidates for each prompt, which ends with the caption so far; one if ``greedy``."""
        ...


@dataclass(frozen=True, slots=True)
class SentencePair:
    """A factual and a hallucinated continuation of one context."""

    context: str
    chosen: LabelledSentence
    rejected: LabelledSentence
    sentence: int
    """Index of the sentence in the caption, from 0."""
    context_factual: bool
    """Whether every sentence of the context was labelled factual."""


@dataclass(slots=True)
class Caption:
    """The state of one picture's bootstrapping."""

    prompt: Prompt
    verdict_cache: VerdictCache
    sentences: list[LabelledSentence] = field(default_factory=list)
    pairs: list[SentencePair] = field(default_factory=list)
    steps: list[dict[Label, int]] = field(default_factory=list)
    """For each step, the number of candidates by label."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Candidates that were neither labelled nor empty, by reason."""
    stopped: Stopped | None = None
    attempt: int = 0

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences)

    @property
    def context_objects(self) -> set[str]:
        """Classes named so far, whatever their verdict."""
        return {self.verdict_cache.canonical(word) for sentence in self.sentences for word in sentence.objects}


class Bootstrapper:
    """Iterative contextual bootstrapping of many pictures at once.

    Args:
        write: samples sentences.
        detectors: they vote; a single one decides alone (table 8).
        extract: finds the objects that sentences name.
        args: see `BootstrapArgs`; None: the paper's choices.
        seed: of the choice among equally good candidates.
        choose: picks one of these, instead of a seeded draw.
    """

    def __init__(
        self,
        write: Writer,
        detectors: Sequence[Detector],
        extract: ObjectExtractor,
        args: BootstrapArgs | None = None,
        *,
        seed: int = 0,
        choose: Choose | None = None,
    ) -> None:
        if not detectors:
            raise ValueError("detectors must hold at least one")
        self.write, self.detectors, self.extract = write, list(detectors), extract
        self.args = args or BootstrapArgs()
        self.seed, self.choose = seed, choose

    def run(self, prompts: Sequence[Prompt], on_finished: Callable[[Caption], None] | None = None) -> list[Caption]:
        """Write a whole caption for each prompt.

        Args:
            prompts: each with one picture.
            on_finished: called with each caption as soon as it ends.
        """
        captions = [Caption(prompt, VerdictCache(self.extract.canonical)) for prompt in prompts]
        growing = list(captions)
        while growing:
            self.step(growing)
            for caption in growing:
                if caption.stopped is not None and on_finished is not None:
                    on_finished(caption)
            growing = [caption for caption in growing if caption.stopped is None]
        return captions

    def step(self, captions: Sequence[Caption]) -> None:
        """Add one sentence to each caption, and the pairs of this step."""
        for number in sorted({len(caption.sentences) for caption in captions}):
            for attempt in sorted({c.attempt for c in captions if len(c.sentences) == number}):
                self._step([c for c in captions if (len(c.sentences), c.attempt) == (number, attempt)], number, attempt)

    def _step(self, captions: Sequence[Caption], number: int, attempt: int) -> None:
        prompts = [continued(caption.prompt, caption.text) for caption in captions]
        sampled = self.write(prompts, number, attempt, greedy=False)
        greedy: list[list[Candidate]] = [[] for _ in captions]
        if self.args.append == "greedy":
            greedy = self.write(prompts, number, attempt, greedy=True)
        texts = [
            unique_candidates(self._usable(candidates, caption))
            for candidates, caption in zip(sampled, captions, strict=True)
        ]
        natural = [[c.text for c in row if c.text] for row in greedy]
        candidate_texts = [list(dict.fromkeys([*row, *extra])) for row, extra in zip(texts, natural, strict=True)]
        labelled = self._labelled(captions, candidate_texts)
        for caption, candidates, row, extra, sentences in zip(captions, sampled, texts, natural, labelled, strict=True):
            by_text = {sentence.text: sentence for sentence in sentences}
            self._grow(
                caption,
                [by_text[text] for text in row],
                [by_text[text] for text in extra],
                over=should_stop([c.text for c in candidates], rule=self.args.stop_rule, share=self.args.stop_share),
            )

    def _usable(self, candidates: Sequence[Candidate], caption: Caption) -> list[str]:
        """Texts of complete sentences; the others are counted in ``dropped``."""
        usable: list[str] = []
        for candidate in candidates:
            if candidate.text and not self.args.keep_unfinished:
                if not candidate.finished:
                    caption.dropped["too_long"] += 1
                    continue
                # A model that ends its answer without a full stop has completed it.
                if is_unfinished(candidate.text) and candidate.text.rstrip().endswith("."):
                    caption.dropped["cut_at_number_or_abbreviation"] += 1
                    continue
            usable.append(candidate.text)
        return usable

    def _labelled(self, captions: Sequence[Caption], texts: Sequence[Sequence[str]]) -> list[list[LabelledSentence]]:
        """All candidates of all captions: objects, votes on new ones, verdicts, labels."""
        extracted = iter(self.extract([text for row in texts for text in row]))
        objects = [[self._names(next(extracted)) for _ in row] for row in texts]
        new = [
            caption.verdict_cache.unknown([word for words in row for word in words])
            for caption, row in zip(captions, objects, strict=True)
        ]
        rows = [row for row, words in enumerate(new) if words]
        if rows:
            images = [captions[row].prompt.images[0] for row in rows]
            words = [new[row] for row in rows]
            outputs = [detector.detect(images, words, self._class_in_singular) for detector in self.detectors]
            for place, row in enumerate(rows):
                detections = [output[place] for output in outputs]
                votes = [{word: vote_of(detection) for word, detection in row.items()} for row in detections]
                verdicts = cross_check(
                    votes, out_of_vocabulary=self.args.out_of_vocabulary, uncertain=self.args.uncertain
                )
                captions[row].verdict_cache.add(verdicts, detections)
        return [
            label_sentences(
                row, words, caption.verdict_cache.__getitem__, caption.context_objects, canonical=self.extract.canonical
            )
            for caption, row, words in zip(captions, texts, objects, strict=True)
        ]

    def _class_in_singular(self, word: str) -> str:
        """The class that a word's votes are for.

        As in the released code "skis" is looked for as "ski", although the closed vocabulary lacks that label.
        """
        name = self.extract.canonical(word)
        if self.args.ask_for == "class":
            return name
        *head, last = name.split() or [""]
        return " ".join([*head, singular(last)])

    def _names(self, words: Sequence[str]) -> list[str]:
        if self.args.ask_for == "word":
            return list(words)
        return list(dict.fromkeys(self.extract.canonical(word) for word in words))

    def _grow(
        self, caption: Caption, candidates: list[LabelledSentence], greedy: list[LabelledSentence], *, over: bool
    ) -> None:
        """Add the step's pairs, and append a sentence or end the caption."""
        args, number = self.args, len(caption.sentences)
        intervenes = number >= args.intervene_from
        caption.steps.append(dict(Counter(sentence.label for sentence in candidates)))
        if intervenes:
            factual = all(sentence.factual for sentence in caption.sentences)
            pairs = build_pairs(candidates, positives=args.positives, per_step=args.pairs_per_step)
            caption.pairs += [SentencePair(caption.text, *pair, number, factual) for pair in pairs]
        if not intervenes:
            pool = candidates[:1]
        elif args.append == "greedy":
            pool = greedy
        else:
            pool = append_pool(candidates, append=args.append, when_no_factual=args.when_no_factual)
        if pool:
            caption.sentences.append(self._choose(pool, caption))
            caption.attempt = 0
        if over:
            caption.stopped = "end"
        elif not pool and args.when_no_factual == "resample" and caption.attempt < RESAMPLES:
            caption.attempt += 1
        elif not pool:
            caption.stopped = "no_factual"
        elif len(caption.sentences) >= args.max_sentences:
            caption.stopped = "max_sentences"

    def _choose(self, pool: Sequence[LabelledSentence], caption: Caption) -> LabelledSentence:
        if self.choose is not None:
            return self.choose(pool)
        return random.Random(f"{self.seed} {caption.prompt.id} {len(caption.sentences)}").choice(list(pool))
