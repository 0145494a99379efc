"""Judging the recorded answers of a run: questions, cost, verdicts, scores."""

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lit_uniopd.benchmarks.judging.judged_rows import JudgedRow, JudgedScores
from lit_uniopd.benchmarks.judging.judges import Judge, Reply
from lit_uniopd.benchmarks.judging.protocols import BASELINE_FIRST, MODEL_FIRST, Protocol
from lit_uniopd.benchmarks.judging.templates import Messages, Template
from lit_uniopd.benchmarks.judging.verdicts import (
    Verdict,
    earlier_verdict_files,
    keep_verdicts,
    read_verdicts,
    verdict_file,
)
from lit_uniopd.benchmarks.records import content_hash
from lit_uniopd.benchmarks.report.summary import SUMMARY
from lit_uniopd.errors import UserError
from lit_uniopd.utils.progress import progress_bar
from lit_uniopd.utils.seeding import derive_seed
from lit_uniopd.utils.stop_request import poll
from lit_uniopd.utils.versions import versions
from lit_uniopd.utils.write_json import write_json

log = logging.getLogger(__name__)

Orders = Literal["both", "one"]


@dataclass(frozen=True, slots=True)
class Game:
    """One question to the judge, and what is known of it before it is asked."""

    row: JudgedRow
    messages: Messages
    blank: Verdict
    """Without the reply."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What is left to ask."""

    calls: int
    kept: int
    """Verdicts that are there already."""
    tokens_in: int
    estimated: bool
    """Whether tokens are estimated from characters."""
    most_tokens_out: int

    def sentence(self, title: str) -> str:
        """For people, before the first question."""
        about = "about " if self.estimated else ""
        how = " (an estimate: four characters a token)" if self.estimated else ""
        return (
            f"{title}: {self.calls:,} verdicts to ask for, {self.kept:,} kept from before · {about}{self.tokens_in:,} "
            f"tokens in{how}, at most {self.most_tokens_out:,} out"
        )


class JudgedBenchmark:
    """The answers to one benchmark before a judge.

    Args:
        key: of the benchmark.
        rows: answers with what they are compared with.
        protocol: what is asked and how scores are made.
        template: wording of the questions.
        judge: answers them.
        directory: of the run, which keeps the verdicts.
        baseline: name of the other model; empty: there is none.
        orders: both: each pair is judged twice, with either answer first; one: once, in an order drawn for each row.
    """

    def __init__(
        self,
        key: str,
        rows: Sequence[JudgedRow],
        protocol: Protocol,
        template: Template,
        judge: Judge,
        directory: Path,
        baseline: str = "",
        orders: Orders = "both",
    ) -> None:
        protocol.check(rows)
        self.key, self.rows, self.protocol, self.template, self.judge = key, rows, protocol, template, judge
        self.baseline, self.orders = baseline, orders
        self.file = verdict_file(directory, key)
        self.letters = protocol.letters(template)
        mode = {"verdict": "text" if self.letters is None else "logprobs"}
        self.judge_identity = judge.identity | mode
        self.games = [game for row in rows for game in self._games_of(row)]
        self.verdicts = read_verdicts(self.file)
        self.adopted = self._earlier_verdicts(directory)
        self.verdicts |= self.adopted
        self.refusals: Counter[str] = Counter()

    def _earlier_verdicts(self, directory: Path) -> dict[tuple[Any, ...], Verdict]:
        """What a run that was killed has kept, and this one needs."""
        missing = {game.blank.key for game in self.missing}
        files = earlier_verdict_files(directory, self.key) if missing else []
        return {key: verdict for file in files for key, verdict in read_verdicts(file).items() if key in missing}

    def _games_of(self, row: JudgedRow) -> list[Game]:
        if self.protocol.skips(row):
            return []
        if not self.protocol.pairwise:
            values = {"question": row.question, "answer": row.answer, "reference": row.other, "rubric": row.rubric}
            if "own_prompt" not in self.template.fields:
                return [self._game(row, "", values)]
            numbers = range(1, len(row.filled_prompts) + 1) if len(row.filled_prompts) > 1 else ("",)
            return [
                self._game(row, str(number), values | {"own_prompt": str(text)})
                for number, text in zip(numbers, row.filled_prompts, strict=True)
            ]
        orders = [MODEL_FIRST, BASELINE_FIRST]
        if self.orders == "one":
            orders = [orders[derive_seed(0, "order", self.key, row.sample_id, row.sample_idx) % 2]]
        pair = {MODEL_FIRST: (row.answer, row.other), BASELINE_FIRST: (row.other, row.answer)}
        return [
            self._game(row, order, {"question": row.question, "answer_a": pair[order][0], "answer_b": pair[order][1]})
            for order in orders
        ]

    def _game(self, row: JudgedRow, order: str, values: Mapping[str, str]) -> Game:
        messages = self.template.fill(values)
        blank = Verdict(
            benchmark=self.key,
            sample_id=row.sample_id,
            sample_idx=row.sample_idx,
            order=order,
            asked=content_hash(messages),
            judge=self.judge_identity,
            template=self.template.identity,
            value=None,
            baseline=self.baseline,
            versions=versions(("lit-uniopd",)),
        )
        return Game(row, messages, blank)

    @property
    def missing(self) -> list[Game]:
        """Questions without a verdict."""
        return [game for game in self.games if game.blank.key not in self.verdicts]

    def cost(self) -> Cost:
        """What asking the missing questions takes."""
        missing = self.missing
        counts = [self.judge.count_tokens(game.messages) for game in missing]
        return Cost(
            calls=len(missing),
            kept=len(self.games) - len(missing),
            tokens_in=sum(tokens for tokens, _ in counts),
            estimated=any(estimated for _, estimated in counts),
            most_tokens_out=len(missing) * self.judge.max_tokens,
        )

    def ask(self) -> None:
        """Ask what is missing; each verdict is kept as soon as it is there.

        Raises:
            UserError: if the judge cannot be asked.
        """
        if self.adopted:  # a run's own files hold all that is behind its scores
            keep_verdicts(self.file, self.adopted.values())
            self.adopted = {}
        missing = self.missing
        questions = [game.messages for game in missing]
        with progress_bar(len(missing), f"judging {self.key}", unit="verdict", announce=True) as bar:
            for i, reply in self.judge.ask(questions, self.letters):
                if reply.refusal:  # not kept, so that another try asks again
                    self.refusals[reply.refusal] += 1
                else:
                    self._keep(missing[i], reply)
                bar.update(1)
                poll()  # a signal may have come

    def _keep(self, game: Game, reply: Reply) -> None:
        value, weight, label = self.protocol.read(reply, game.blank.order, self.template)
        verdict = replace(
            game.blank,
            value=value,
            weight=weight,
            label=label,
            reply=reply.text,
            finish=reply.finish,
            served_model=reply.served_model,
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            time=round(time.time(), 3),
        )
        keep_verdicts(self.file, [verdict])
        self.verdicts[verdict.key] = verdict

    def result(self) -> dict[str, Any]:
        """Scores, counts and origin; plain data."""
        verdicts = [self.verdicts.get(game.blank.key) for game in self.games]
        by_row: dict[tuple[str, int], list[Verdict]] = {}
        for game, verdict in zip(self.games, verdicts, strict=True):
            row_id = (game.row.sample_id, game.row.sample_idx)
            by_row.setdefault(row_id, []).append(game.blank if verdict is None else verdict)
        rows = [replace(row, verdicts=tuple(by_row.get((row.sample_id, row.sample_idx), ()))) for row in self.rows]
        judged = sum(bool(row.values) for row in rows)
        scored = self.protocol.score(rows) if judged else JudgedScores({})
        there = [verdict for verdict in verdicts if verdict is not None]
        unread = [verdict for verdict in there if verdict.value is None]
        return {
            "judge": self.judge_identity,
            "template": self.template.identity,
            "baseline": self.baseline,
            "orders": self.orders if self.protocol.pairwise else None,
            "scores": scored.scores,
            "interval": scored.interval if len({row.sample_id for row in rows}) > 1 else {},
            "breakdown": scored.breakdown,
            "details": scored.details,
            "answers": len(rows),
            "skipped": sum(self.protocol.skips(row) for row in rows),
            "judged_answers": judged,
            "verdicts": len(there),
            "unreadable": len(unread),
            "cut": sum(verdict.finish == "length" for verdict in unread),
            "refused": sum(self.refusals.values()),
            "served_models": sorted({verdict.served_model for verdict in there if verdict.served_model}),
            "versions": versions(("lit-uniopd",)),
        }

    def log_counts(self, result: Mapping[str, Any]) -> None:
        """Say what is not in the scores."""
        if result["unreadable"]:
            log.warning(
                "%s: %d of %d verdicts cannot be read (%d of them cut at %d tokens) and %d of %d answers are left out "
                "of the scores; the replies are in %s.",
                self.key,
                result["unreadable"],
                result["verdicts"],
                result["cut"],
                self.judge.max_tokens,
                result["answers"] - result["judged_answers"],
                result["answers"],
                self.file,
            )
        for refusal, count in self.refusals.items():
            log.warning("%s: the judge's server refused %d question(s): it %s.", self.key, count, refusal)

    def refuse_no_score(self, result: Mapping[str, Any]) -> None:
        """Refuse a result without a score.

        Raises:
            UserError: with what the replies were.
        """
        if result["skipped"] == result["answers"]:
            raise UserError(
                f"All {result['answers']} answers to {self.key} are empty, so there is nothing to judge; look at the "
                "run's records, and evaluate again with a model or a prompt that brings answers."
            )
        if not result["scores"]:
            raise UserError(
                f"No answer to {self.key} could be judged ({result['unreadable']} of {result['verdicts']} replies "
                f"cannot be read, {result['refused']} questions were refused); look at {self.file}, and take another "
                "--judge, --template or a higher --max_tokens."
            )


def run_summary(directory: Path, key: str) -> dict[str, Any]:
    """The run's ``summary.json``, where judged scores go.

    Raises:
        UserError: if the run has none with this benchmark.
    """
    path = directory / SUMMARY
    summary = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"benchmarks": {}}
    if key not in summary["benchmarks"]:
        raise UserError(
            f"{directory} has no {SUMMARY} with {key}: the run has not ended; give its command again, which goes on."
        )
    return summary


def write_result(directory: Path, key: str, result: Mapping[str, Any]) -> None:
    """Put a judged score into the run's summary, in the place of an earlier one of the same origin.

    Raises:
        UserError: if the run has no summary with this benchmark.
    """
    summary = run_summary(directory, key)

    def origin(judged: Mapping[str, Any]) -> str:
        return content_hash([judged[name] for name in ("judge", "template", "baseline", "orders")])

    others = [entry for entry in summary["benchmarks"][key].get("judged", []) if origin(entry) != origin(result)]
    summary["benchmarks"][key]["judged"] = [*others, dict(result)]
    write_json(directory / SUMMARY, summary)
