"""The prompts for the judge that SedarEval's rows bring: filled with answers, and their points added."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from lit_uniopd.benchmarks.transcript import turns_of


@dataclass(frozen=True, slots=True)
class OwnPrompt:
    """One prompt for the judge."""

    text: str
    """With ``{response}``, and in conversations perhaps ``{history_chat1}``, ``{history_ans1}`` or ``{response1}``."""
    shows_length: bool = False
    """Whether the judge is told how long the answer is."""
    history: tuple[int, ...] = ()
    """Turns that are shown, from 1."""
    judged: tuple[int, ...] = ()
    """Turns whose answers are judged; empty: all that the model has said."""
    has_doubled_braces: bool = False
    """Whether two braces mean one, as Python's ``str.format`` reads them."""
    bonus: float = 0.0
    """Points that are added whatever the judge says."""
    counts_as_turn: bool = True
    """False: its points are added to those of the next one first, and the sum is raised to 0."""

    def fill(self, questions: Sequence[str], response: str) -> str | None:
        """What the judge is asked; None if an answer that it should judge is empty.

        Args:
            questions: the turns of a conversation.
            response: the answer, or the transcript of all answers.
        """
        answers, text = [turn.strip() for turn in turns_of(response)], self.text
        for turn in self.history:
            text = text.replace(f"{{history_chat{turn}}}", _turn(questions, turn).strip())
            text = text.replace(f"{{history_ans{turn}}}", _turn(answers, turn))
        judged = [_turn(answers, turn) for turn in self.judged] or [response]
        if not all(answer.strip() for answer in judged):
            return None
        if len(judged) > 1:
            for number, answer in enumerate(judged, 1):
                text = text.replace(f"{{response{number}}}", answer)
            return text
        shown = f"[字数\uff1a{len(judged[0])}]\n{judged[0]}" if self.shows_length else judged[0]
        if self.has_doubled_braces and _fields(text) == {"response"}:  # elsewhere `format` would fail, and braces stay
            return text.format(response=shown)
        return text.replace("{response}", shown)


def own_prompts(row: Mapping[str, Any]) -> tuple[OwnPrompt, ...]:
    """Those of a row of SedarEval, as its adapter keeps them."""
    return tuple(
        OwnPrompt(**prompt | {name: tuple(prompt[name]) for name in ("history", "judged")})
        for prompt in row.get("own_prompts", ())
    )


def total_points(prompts: Sequence[OwnPrompt], points: Iterable[float], most: float) -> float:
    """The points of an answer, of what the judge gives to each of its prompts.

    Args:
        prompts: of the row.
        points: of each prompt.
        most: that an answer gets.
    """
    total = 0.0
    for i, (prompt, given) in enumerate(zip(prompts, points, strict=True)):
        total += prompt.bonus + given
        if not prompt.counts_as_turn and i + 1 < len(prompts) and prompts[i + 1].counts_as_turn:
            total = max(0.0, total)
    return min(most, total)


def _turn(texts: Sequence[str], turn: int) -> str:
    return texts[turn - 1] if 0 < turn <= len(texts) else ""


def _fields(text: str) -> set[str]:
    try:
        return {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError:
        return set()
