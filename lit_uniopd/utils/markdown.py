"""Model text inside Markdown tables."""

import html
import re
from collections.abc import Iterable, Sequence

from lit_uniopd.types import Prompt


def cell(text: str, max_chars: int = 1500) -> str:
    """Text that can neither break a table nor become markup; too long a text is cut in the middle."""
    if len(text) > max_chars:
        half = max_chars // 2
        text = f"{text[:half]} ... {len(text) - 2 * half} characters ... {text[-half:]}"
    return re.sub(r"[^\w\s.,:;=+/%()?'\"-]|_", lambda mark: f"&#{ord(mark[0])};", text).replace("\n", "<br>")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that ``cell`` has made safe."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def table_columns(markdown: str) -> dict[str, list[str]]:
    """Read a `table` back: title -> plain cells; a column without a title, or with one that is taken, is numbered."""
    header, _, *lines = (line.removeprefix("| ").removesuffix(" |").split(" | ") for line in markdown.splitlines())
    titles = [
        title if title.strip() and title not in header[:i] else f"{title}{i + 1}" for i, title in enumerate(header)
    ]
    rows = [[html.unescape(text.replace("<br>", "\n")) for text in line] for line in lines]
    return {title: column for title, *column in zip(titles, *rows, strict=True)}


def last_message_text(prompt: Prompt) -> str:
    """The text of the last message; pictures are named."""
    content = prompt.messages[-1]["content"]
    if isinstance(content, list):
        return "".join("[picture]" if part.get("type") == "image" else str(part.get("text", "")) for part in content)
    return str(content)
