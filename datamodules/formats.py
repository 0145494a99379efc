"""Rows as other projects publish them, where naming columns is not enough."""

import json
import logging
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from datamodules.columns import lookup, stated_columns
from datamodules.rows import Row, Rows, View
from lit_uniopd.errors import UserError
from lit_uniopd.rewards.code_labels import code_task
from lit_uniopd.utils.progress import track

log = logging.getLogger(__name__)

PromptFormat = Literal["verl", "prime"]
PairFormat = Literal["ultrafeedback", "armorm", "chatml", "sentinel", "swift", "sharegpt"]

_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\s*|\Z)", re.DOTALL)
_SPEAKERS = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


class Unusable(Exception):
    """Why nothing can be made of a row; such rows are dropped and counted."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a project writes its rows."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Role -> its column, unless the source names another or the rows have one of the role's own name."""
    convert: Callable[[dict[str, Any], Mapping[str, str]], dict[str, Any]] | None = None
    """From the cells of a row, and the names of columns by role, to cells in our form; raises `Unusable`."""
    keyed: Callable[[Mapping[str, Any]], "list[dict[str, Any]] | None"] | None = None
    """From a file that is one JSON object to its rows; None: it is not of this format."""

    def beside(self, rows: Rows, source: Any, flag: str) -> "Format":
        """The format for these rows: a column of a role's own name, which may have been named, goes before its own.

        Args:
            rows: as published.
            source: has ``path`` and a ``<role>_column`` for each role.
            flag: the option that ``source`` came from, for messages.
        """
        there = {role: name for role, name in self.columns.items() if role in rows.columns}
        for role, name in there.items():
            if getattr(source, f"{role}_column") == role:
                log.warning(
                    "%s has a column %r, which is read in the place of the format's %s; %s.%s_column %s reads that.",
                    *(source.path, role, name, flag, role, name),
                )
        return replace(self, columns={role: name for role, name in self.columns.items() if role not in there})

    def names(self, source: Any, roles: Sequence[str]) -> dict[str, str]:
        """Role -> its column: that of the format, where the source keeps the default name."""
        return {role: name for role, name in stated_columns(source, roles, self.columns).items() if name}


class ConvertedRows(View[Row]):
    """The rows of a published format in our form, without those of which nothing can be made.

    Args:
        rows: as published.
        convert: from the cells of a row to cells in our form; raises `Unusable`.
        path: of the table, for messages.

    Attributes:
        dropped: why rows are left out -> how many are.

    Raises:
        UserError: if all are left out.
    """

    def __init__(self, rows: Rows, convert: Callable[[dict[str, Any]], dict[str, Any]], path: str) -> None:
        self.rows, self.convert, self.nbytes = rows, convert, rows.nbytes
        self.dropped: Counter[str] = Counter()
        self._kept = array("q")
        columns, first = dict.fromkeys(rows.columns), dict[str, str]()
        for index, row in enumerate(track(rows, f"Converting {path}")):
            try:
                columns |= dict.fromkeys(convert(row.values))
                self._kept.append(index)
            except Unusable as error:
                self.dropped[str(error)] += 1
                first.setdefault(str(error), row.where)
        self.columns = list(columns)
        for why, count in self.dropped.items():
            log.warning("%s: %d of %d rows are dropped since %s, %s for one.", path, count, len(rows), why, first[why])
        if not self._kept:
            reason = self.dropped.most_common(1)[0][0]
            raise UserError(
                f"{path}: none of {len(rows)} rows can be used, the first since {reason}; name the format that they "
                "are written in, or their columns without a format."
            )

    def __len__(self) -> int:
        return len(self._kept)

    def item(self, index: int) -> Row:
        return self._converted(self.rows[self._kept[index]])

    def __iter__(self) -> Iterator[Row]:
        if self.dropped:
            return super().__iter__()
        return map(self._converted, self.rows)

    def _converted(self, row: Row) -> Row:
        return replace(row, values=self.convert(row.values))


def in_our_form(rows: Rows, published: Format | None, source: Any, roles: Sequence[str]) -> "Rows | ConvertedRows":
    """Rows as they are, or converted from a published format.

    Args:
        rows: of the source.
        published: the format; None: they are in our form.
        source: has ``path`` and a ``<role>_column`` for each role.
        roles: what columns can hold.

    Raises:
        UserError: if nothing can be made of any row.
    """
    if published is None or published.convert is None:
        return rows
    convert, names = published.convert, published.names(source, roles)
    return ConvertedRows(rows, lambda values: convert(values, names), source.path)


def _code_label(values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Rows whose gold answer holds tests are for the grader `code`; a gold answer in a list of its own leaves it."""
    if "answer" not in columns:
        return values
    gold = lookup(values, columns["answer"])
    if isinstance(gold, list) and len(gold) == 1:
        return {**values, columns["answer"]: gold[0]}  # a name with dots goes first when it is looked up
    if not _holds_tests(gold):
        return values
    try:
        code_task(gold)
    except (ValueError, TypeError) as error:
        raise Unusable("its tests cannot be run") from error
    return {**values, "grader": values.get("grader") or "code"}


def _holds_tests(gold: Any) -> bool:
    if isinstance(gold, str):
        if not gold.lstrip().startswith("{"):
            return False
        try:
            gold = json.loads(gold)
        except ValueError:
            return False  # a set in LaTeX
    return isinstance(gold, Mapping) and not {"inputs", "outputs"}.isdisjoint(gold)


def _best_and_worst(values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """UltraFeedback: the answers with the highest and with the lowest overall score, the first ones of each."""
    completions = [c for c in values.get("completions") or () if isinstance(c, Mapping)]
    scored = [c for c in completions if isinstance(c.get("overall_score"), int | float) and c.get("response")]
    if len(scored) < 2:
        raise Unusable("it has fewer than two scored answers")
    best, worst = (choose(scored, key=lambda c: c["overall_score"]) for choose in (max, min))
    if best["overall_score"] == worst["overall_score"]:
        raise Unusable("all its answers have the same score")
    sides = {"chosen": best, "rejected": worst}
    others = {name: value for name, value in values.items() if name != "completions"}
    return {
        **others,
        **{side: completion["response"] for side, completion in sides.items()},
        **{f"score_{side}": completion["overall_score"] for side, completion in sides.items()},
    }


def _extreme_scores(values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """ArmoRM's annotations: the scores of all answers are in one list, of which the best and the worst are a pair."""
    scores = values.get("all_rm_scores")
    if not isinstance(scores, list) or not scores or not all(isinstance(score, int | float) for score in scores):
        raise Unusable("it has no list of scores in 'all_rm_scores'")
    return {**values, "score_chosen": max(scores), "score_rejected": min(scores)}


def _from_chatml(values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Prompts that are chats already, rendered in ChatML: rendered once more they would be another prompt."""
    rendered = lookup(values, columns.get("prompt", "prompt"))
    turns = _TURN.findall(rendered) if isinstance(rendered, str) else []
    if not turns or not rendered.lstrip().startswith("<|im_start|>"):
        raise Unusable("its prompt is no chat in ChatML")
    role, begun = turns[-1]
    if role == "assistant" and not begun.strip():
        turns = turns[:-1]  # the header that the answer stands behind
    messages = [{"role": role, "content": content} for role, content in turns]
    texts = {side: lookup(values, columns.get(side, side)) for side in ("chosen", "rejected")}
    answers = {
        columns.get(side, side): text.rstrip().removesuffix("<|im_end|>")
        for side, text in texts.items()
        if isinstance(text, str) and text.rstrip().endswith("<|im_end|>")
    }
    return {**values, **answers, columns.get("prompt", "prompt"): messages}


def _named_picture(values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """SENTINEL: the picture by its path, else by its number."""
    picture = values.get("image_path") or values.get("image_id")
    return values if picture is None or "image" in values else {**values, "image": str(picture)}


def _by_picture(content: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """SENTINEL's files for LLaVA-v1.5: the number of a picture -> its pairs."""
    if not all(isinstance(pairs, list) and all(isinstance(pair, dict) for pair in pairs) for pairs in content.values()):
        return None
    return [{"image_id": number, **pair} for number, pairs in content.items() for pair in pairs]


def _other_end(values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """ms-swift: a chat that ends with the preferred answer, and another answer to it."""
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Unusable("it has no 'messages'")
    if isinstance(values.get("rejected_messages"), list):
        rejected = values["rejected_messages"]
    elif isinstance(values.get("rejected_response"), str):
        rejected = [*messages[:-1], {"role": "assistant", "content": values["rejected_response"]}]
    else:
        raise Unusable("it has no 'rejected_response'")
    others = {name: value for name, value in values.items() if name != "messages"}
    return {**others, "chosen": messages, "rejected": rejected}


def _from_sharegpt(values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """LLaMA-Factory's chats: each turn has `from` and `value`."""
    turns = values.get("conversations")
    answers: dict[str, Any] = {side: values.get(side) for side in ("chosen", "rejected")}
    if not isinstance(turns, list) or not all(isinstance(answer, Mapping) for answer in answers.values()):
        raise Unusable("it has no 'conversations' with a chosen and a rejected turn")
    system = [{"role": "system", "content": values["system"]}] if values.get("system") else []
    prompt = [
        {"role": _SPEAKERS.get(turn.get("from"), turn.get("from")), "content": turn.get("value")} for turn in turns
    ]
    return {**values, "prompt": system + prompt, **{side: answer["value"] for side, answer in answers.items()}}


PROMPT_FORMATS: Mapping[PromptFormat, Format] = {
    "verl": Format({"answer": "reward_model.ground_truth", "domain": "data_source"}, _code_label),
    "prime": Format({"answer": "reward_model.ground_truth", "domain": "ability"}, _code_label),
}
PAIR_FORMATS: Mapping[PairFormat, Format] = {
    "ultrafeedback": Format({"prompt": "instruction"}, _best_and_worst),
    "armorm": Format({}, _extreme_scores),
    "chatml": Format({}, _from_chatml),
    "sentinel": Format(
        {"prompt": "question", "chosen": "y_win", "rejected": "y_lose", "images": "image"}, _named_picture, _by_picture
    ),
    "swift": Format({}, _other_end),
    "sharegpt": Format({}, _from_sharegpt),
}
