"""SedarEval: questions and conversations with a rubric of their own, and perhaps with the judge's prompts."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_uniopd.benchmarks.adapters.base import Adapted, AdapterContext
from lit_uniopd.benchmarks.adapters.columns import example_of, question_chat, roles_of
from lit_uniopd.benchmarks.spec import BenchmarkSpec
from lit_uniopd.benchmarks.transcript import turns_of
from lit_uniopd.errors import UserError

_NUMBER = re.compile(r"\d+")


def sedareval(rows: Sequence[Mapping[str, Any]], spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """Category, right answer and rubric lie in ``meta``; a row may bring the judge's prompts as well.

    A question of the form ``Q1: ... Q2: ...`` is a conversation. What has neither rubric nor prompt is left out.

    Raises:
        UserError: if a row has no category, or a prompt for the judge cannot be read.
    """
    examples, left_out = [], Counter[str]()
    for number, row in enumerate(rows):
        values = roles_of(row, spec)
        meta, question = values["meta"], values["question"]
        if not meta.get("category"):
            raise UserError(
                f"Benchmark {spec.key}: meta of row {values['id']} has no 'category' (it has {', '.join(meta)}); take "
                "the rows of dataset/ in the authors' repository as they are."
            )
        rubric, own_prompts = _text(meta.get("score_standard")), _own_prompts(row.get("auto_prompt"), values["id"])
        if (meta.get("is_complete") or 0) < 0:
            left_out["marked as incomplete by the authors"] += 1
        elif not rubric and not own_prompts:
            left_out["no rubric"] += 1
        else:
            turns = turns_of(question)
            example = example_of(values, spec, number)
            examples.append(
                replace(
                    example,
                    messages=question_chat(spec.prompt, turns[0]) if turns else example.messages,
                    turns=tuple(turns),
                    gold=_text(meta.get("reference")),
                    row={
                        "kind": meta["category"][0],
                        "question": question,
                        "rubric": rubric,
                        "own_prompts": own_prompts,
                        "meta": meta,
                    },
                )
            )
    return Adapted(examples, dict(left_out))


def _own_prompts(cell: Any, row_id: str) -> list[dict[str, Any]]:
    """The judge's prompts in a row, one or several whose points are added; see ``judging.own_prompts.OwnPrompt``."""
    cells = cell if isinstance(cell, list) else [cell]
    prompts = [item if isinstance(item, Mapping) else {"prompt": item} for item in cells]
    try:
        # The authors' script formats the only prompt of a row, and where a list has one answer in a prompt.
        return [
            _own_prompt(prompt, has_doubled_braces=isinstance(cell, Mapping))
            for prompt in prompts
            if _text(prompt.get("prompt"))
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"The column auto_prompt of row {row_id} holds a prompt for the judge that cannot be read: {error}; take "
            "the rows of dataset/ in the authors' repository as they are."
        ) from None


def _own_prompt(cell: Mapping[str, Any], *, has_doubled_braces: bool) -> dict[str, Any]:
    meta = cell.get("meta") or {}
    # One key begins with a blank in the authors' own code.
    shown = {name.strip(): value for name, value in (meta.get("聊天记录依赖") or {}).items()}
    sums = meta.get("分数计算方式") or {}
    judged = _turn_numbers(meta.get("待评估模型答案信息"))
    return {
        "text": cell["prompt"],
        "shows_length": bool(cell.get("字数统计")),
        "history": _turn_numbers(shown.get("聊天记录依赖回合")),
        "judged": judged,
        "has_doubled_braces": has_doubled_braces or len(judged) == 1,
        "bonus": _number(sums.get("附加分"), empty=0.0),
        "counts_as_turn": not math.isnan(_number(sums.get("计算回合数"), empty=math.nan)),
    }


def _turn_numbers(cell: Any) -> list[int]:
    """The turns that a text names: one, or from one to another.

    Raises:
        ValueError: if it names none, or more than two.
    """
    text = _text(cell) or (str(cell) if isinstance(cell, int) else "")
    if not text:
        return []
    numbers = [int(number) for number in _NUMBER.findall(text)]
    if len(numbers) not in (1, 2):
        raise ValueError(f"{text!r} names no turn and no range of turns")
    return list(range(numbers[0], numbers[-1] + 1))


def _number(cell: Any, *, empty: float) -> float:
    number = float(cell) if isinstance(cell, int | float) else float(_text(cell) or empty)
    return empty if math.isnan(number) else number


def _text(cell: Any) -> str:
    """A cell, which may be NaN where it is empty."""
    return cell.strip() if isinstance(cell, str) else ""
