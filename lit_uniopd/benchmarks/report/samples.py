"""The same rows at every evaluation: tables, and pictures with question, gold and answer below them."""

import hashlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.spec import Benchmark, Example
from lit_uniopd.utils.images import open_image
from lit_uniopd.utils.markdown import cell, table

SHOWN = 6
"""Rows shown of each benchmark."""
CELL = 700
"""Characters of a cell."""
PICTURE = 360
"""Width of a shown picture in pixels."""
VERDICTS = {True: "right", False: "wrong", None: "unknown"}


def shown_examples(benchmark: Benchmark, count: int = SHOWN) -> list[Example]:
    """The same rows every time, whatever their order: the first by the hash of their names."""
    return sorted(benchmark.examples, key=lambda row: hashlib.sha256(row.id.encode()).digest())[:count]


def sample_table(benchmark: Benchmark, records: Sequence[Record], before: Mapping[tuple[str, int], Record]) -> str:
    """Markdown: the shown rows, then what has become right or wrong since the previous evaluation.

    Args:
        benchmark: of the records.
        records: of this evaluation.
        before: (row, number of the answer) -> record of the previous evaluation; empty for the first.
    """
    examples = {example.id: example for example in benchmark.examples}
    first = {record.sample_id: record for record in records if record.sample_idx == 0}
    rows = [_cells(example, first[example.id]) for example in shown_examples(benchmark) if example.id in first]
    sections = [table(["row", "verdict", "question", "gold", "found", "answer"], rows)]
    for title, became in (("Newly right", True), ("Newly wrong", False)):
        changed = [r for r in records if bool(r.correct) is became and _was_right(before, r) is (not became)]
        if changed:
            changed_rows = [_cells(examples[r.sample_id], r) for r in changed[:SHOWN] if r.sample_id in examples]
            sections += [
                f"**{title}: {len(changed)}**",
                table(["row", "verdict", "question", "gold", "found", "answer"], changed_rows),
            ]
    return "\n\n".join(sections)


def _was_right(before: Mapping[tuple[str, int], Record], record: Record) -> bool | None:
    old = before.get((record.sample_id, record.sample_idx))
    return None if old is None else bool(old.correct)


def _cells(example: Example, record: Record) -> list[str]:
    verdict = f"{VERDICTS[record.correct]} ({record.reason})"
    texts = [
        record.sample_id,
        verdict,
        shown_question(example),
        str(record.gold),
        str(record.extracted),
        record.response,
    ]
    return [cell(text, CELL) for text in texts]


def shown_question(example: Example) -> str:
    """Text of the last turn, or of all in a conversation that is answered turn by turn."""
    if example.turns:
        return "\n".join(example.turns)
    content = example.messages[-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part.get("type") == "text" else "[picture]" for part in content)


def sample_images(benchmark: Benchmark, records: Iterable[Record], count: int = 3) -> list[Any]:
    """RGB arrays ``[height, width, 3]`` of the shown rows that have a picture."""
    first = {record.sample_id: record for record in records if record.sample_idx == 0}
    rows = [row for row in shown_examples(benchmark) if row.images and row.id in first]
    return [_captioned(row, first[row.id]) for row in rows[:count]]


def _captioned(example: Example, record: Record) -> Any:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    picture = open_image(example.images[0])
    picture = picture.resize((PICTURE, max(1, round(picture.height * PICTURE / picture.width))))
    lines = [
        *_wrapped("question", shown_question(example)),
        *_wrapped("gold", str(record.gold)),
        *_wrapped(f"answer, {VERDICTS[record.correct]}", record.response),
    ]
    canvas = Image.new("RGB", (PICTURE, picture.height + 14 * len(lines) + 8), "white")
    canvas.paste(picture, (0, 0))
    font = ImageFont.load_default(11)
    for i, line in enumerate(lines):
        ImageDraw.Draw(canvas).text((4, picture.height + 4 + 14 * i), line, fill="black", font=font)
    return np.asarray(canvas)


def _wrapped(label: str, text: str) -> list[str]:
    excerpt = text if len(text) <= 240 else f"{text[:120]} ... {text[-120:]}"
    return textwrap.wrap(f"{label}: {excerpt}", 58)
