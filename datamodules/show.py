"""``uniopd data show``: prompts and pairs as rows become them, with what their graders say of the gold answers."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

from datamodules.formats import PAIR_FORMATS
from datamodules.pair_sources import PairSourceArgs, PairTable, read_pairs
from datamodules.sentence_pairs import SentencePairSourceArgs, read_sentence_pairs
from datamodules.show_options import FLAG, Kind, ShowArgs, parse
from datamodules.sources import SourceArgs, read_prompts
from datamodules.tables import read_rows
from lit_uniopd.benchmarks.golds import GoldTrial, try_golds
from lit_uniopd.errors import UserError
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.policy.chat_template import answered_text, chat_text, render
from lit_uniopd.policy.loading import load_processor
from lit_uniopd.rewards import GraderPool
from lit_uniopd.types import PreferencePair, Prompt

SHOWN_CHARACTERS = 2000
"""Of a text; what is longer is cut in its middle."""


@dataclass(frozen=True, slots=True)
class Renderer:
    """How texts are shown.

    Args:
        processor: of the model that reads them; None: messages are shown as they are.
    """

    processor: Any = None

    def prompt(self, prompt: Prompt) -> str:
        """As the model reads it, or message by message."""
        if self.processor is not None:
            return chat_text(self.processor, prompt, {})
        return "\n".join(f"{message['role']}: {_plain(message['content'])}" for message in prompt.messages)

    def answer(self, prompt: Prompt, answer: str) -> str:
        """What stands behind the prompt."""
        if self.processor is None:
            return answer
        return answered_text(self.processor, prompt, answer, {}).removeprefix(self.prompt(prompt))

    def length(self, prompt: Prompt) -> int | None:
        """Tokens of its text; None: without a tokenizer."""
        return None if self.processor is None else len(render(self.processor, prompt, {}))


def main(argv: Sequence[str]) -> int:
    """Print what the rows of a table become.

    Args:
        argv: what stands behind ``uniopd data show``.

    Returns:
        0: all that is wrong with rows is a ``UserError``.
    """
    args = parse(argv)
    renderer = Renderer(load_processor(PolicyArgs(path=args.tokenizer), "tokenizer") if args.tokenizer else None)
    kind = args.kind or kind_of(args)
    source = args.source(kind)
    show = show_prompts if isinstance(source, SourceArgs) else show_pairs
    for line in show(source, args, renderer):  # type: ignore[operator]
        print(line)
    return 0


def kind_of(args: ShowArgs) -> Kind:
    """What rows are: pairs if they have a better and a worse answer, which continue a text if there is a context."""
    published = PAIR_FORMATS.get(args.options.get("format"))  # type: ignore[call-overload]
    if published is None and "chosen_column" not in args.options:
        rows = read_rows(args.source("prompts"), FLAG)
        if not {"chosen", "rejected"} <= set(rows.columns):
            return "prompts"
        return "sentence_pairs" if "context" in rows.columns else "pairs"
    sentences = args.options.get("format") == "sentinel" or "context_column" in args.options
    return "sentence_pairs" if sentences else "pairs"


def show_prompts(source: SourceArgs, args: ShowArgs, renderer: Renderer) -> Iterator[str]:
    """Lines about a table of prompts."""
    prompts = read_prompts(source, FLAG)
    yield _headline(source.path, len(prompts), prompts.unusable, "prompts")
    yield _counts("domains", Counter(prompt.domain for prompt in prompts))
    yield _counts("teachers", Counter(prompt.teacher_label or f"{prompt.domain} (by domain)" for prompt in prompts))
    yield _counts("graders", Counter(prompt.grader or "none" for prompt in prompts))
    yield _counts("pictures in a row", Counter(str(len(prompt.images)) for prompt in prompts))
    yield from _lengths(prompts, args, renderer)
    with GraderPool(workers=1) as graders:
        yield from _golds(prompts, prompts.without_answer, graders)
        for number, prompt in enumerate(islice(prompts, args.rows), start=1):
            yield f"\n--- {number} of {len(prompts)}: {prompt.id}"
            teacher = prompt.teacher_label or "by domain"
            yield f"domain {prompt.domain}, teacher {teacher}, grader {prompt.grader or 'none'}"
            yield from _prompt_lines(prompt, renderer)
            yield f"gold: {_cut(str(prompt.gold))}"
            yield f"  {_verdict(prompt, graders)}"
            yield from _other_columns(prompt.row)


def show_pairs(source: PairSourceArgs, args: ShowArgs, renderer: Renderer) -> Iterator[str]:
    """Lines about a table of pairs."""
    sentences = isinstance(source, SentencePairSourceArgs)
    pairs: PairTable = read_sentence_pairs(source, FLAG) if sentences else read_pairs(source, FLAG)
    yield _headline(source.path, len(pairs), pairs.unusable, "sentence pairs" if sentences else "pairs")
    yield _counts("domains", Counter(pair.prompt.domain for pair in pairs))
    yield _counts("pictures in a row", Counter(str(len(pair.prompt.images)) for pair in pairs))
    if identical := sum(pair.chosen == pair.rejected for pair in pairs):
        yield f"{identical} pairs have identical answers; a run drops them"
    yield _scores(pairs)
    yield from _lengths([pair.prompt for pair in pairs] if args.max_prompt_tokens else [], args, renderer)
    for number, pair in enumerate(islice(pairs, args.rows), start=1):
        yield f"\n--- {number} of {len(pairs)}: {pair.prompt.id}"
        yield f"domain {pair.prompt.domain}"
        yield from _prompt_lines(pair.prompt, renderer)
        for side, score in (("chosen", pair.score_chosen), ("rejected", pair.score_rejected)):
            yield f"{side}{'' if score != score else f' (score {score:g})'}:"
            yield _indented(renderer.answer(pair.prompt, getattr(pair, side)))
        yield from _other_columns(pair.prompt.row)


def _headline(path: str, kept: int, unusable: Mapping[str, int], what: str) -> str:
    dropped = [f"{count} dropped since {reason}" for reason, count in unusable.items()]
    return ", ".join([f"{path}: {kept + sum(unusable.values())} rows", *dropped]) + f"; {kept} {what}"


def _counts(what: str, counts: Mapping[str, int], most: int = 12) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    others = sum(count for _, count in ordered[most:])
    listed = [f"{name} {count}" for name, count in ordered[:most]] + ([f"others {others}"] if others else [])
    return f"{what}: {'; '.join(listed)}"


def _lengths(prompts: Sequence[Prompt], args: ShowArgs, renderer: Renderer) -> Iterator[str]:
    """How long prompts are, and how many a run would drop."""
    if args.max_prompt_tokens is None:
        return
    if renderer.processor is None:
        raise UserError("--max_prompt_tokens needs --tokenizer, the model or tokenizer whose tokens are meant.")
    lengths = [len(render(renderer.processor, prompt, {})) for prompt in prompts]
    dropped = sum(length > args.max_prompt_tokens for length in lengths)
    yield (
        f"tokens of a prompt, without pictures: median {median(lengths):g}, longest {max(lengths)}; {dropped} dropped "
        f"since they are longer than --max_prompt_tokens {args.max_prompt_tokens}"
    )


def _golds(prompts: Sequence[Prompt], without: int, graders: GraderPool) -> Iterator[str]:
    if without:
        yield f"{without} rows without a gold answer"
    judged = [prompt for prompt in prompts if prompt.grader is not None and prompt.gold is not None]
    try:
        for trial in try_golds(judged, graders):
            usable = trial.tried - len(trial.unusable)
            yield f"gold answers that {trial.grader} can use: {usable} of {trial.tried} tried"
            yield from (f"  not that of {row.id}: {_reason(trial, row)}" for row in trial.unusable[:3])
    except UserError as error:
        yield f"gold answers were not tried: {error}"


def _verdict(prompt: Prompt, graders: GraderPool) -> str:
    if prompt.gold is None or prompt.grader is None:
        return "not tried: there is no gold answer" if prompt.gold is None else "not tried: the row has no grader"
    try:
        (trial,) = try_golds([prompt], graders)
    except UserError as error:
        return f"not tried: {error}"
    return _reason(trial, prompt) if trial.unusable else f"{trial.grader} can use it"


def _reason(trial: GoldTrial, row: Any) -> str:
    return f"{trial.grader} cannot read it" if row in trial.unknown else f"{trial.grader} calls it wrong"


def _prompt_lines(prompt: Prompt, renderer: Renderer) -> Iterator[str]:
    length = renderer.length(prompt)
    yield "prompt:" if length is None else f"prompt ({length} tokens{', without pictures' if prompt.images else ''}):"
    yield _indented(renderer.prompt(prompt))
    for picture in prompt.images:
        yield f"picture: {picture if isinstance(picture, str) else f'embedded, {picture.size[0]} x {picture.size[1]}'}"


def _scores(pairs: Sequence[PreferencePair]) -> str:
    chosen = [pair.score_chosen for pair in pairs]
    gaps = [pair.score_chosen - pair.score_rejected for pair in pairs]
    if chosen[0] != chosen[0]:
        return "no scores"
    tied, turned = sum(gap == 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    return (
        f"scores: median of chosen {median(chosen):g}, median difference {median(gaps):g} (from {min(gaps):g} to "
        f"{max(gaps):g}), {tied} tied, {turned} in the wrong order"
    )


def _other_columns(row: Mapping[str, Any]) -> Iterator[str]:
    if row:
        yield f"other columns: {', '.join(row)}"


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join("<image>" if part["type"] == "image" else part["text"] for part in content)


def _indented(text: str) -> str:
    return textwrap.indent(_cut(text), "  ", lambda line: True)


def _cut(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} more characters ...\n{text[-half:]}"
