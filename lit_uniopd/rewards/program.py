"""Finding the program in a response.

The last python block is the program, or the last that defines the function which the task asks for. Fences follow
CommonMark (backticks or tildes, closed by at least as many), with allowances for what models write: a fence may begin
behind text on its line, code may stand on the line of its fence, and a tagged fence inside an open one shows that the
open one was never closed, so it begins a new block.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from lit_uniopd.rewards.definitions import MAX_CHARACTERS, defining_program, error_line
from lit_uniopd.rewards.text import strip_reasoning

_FENCE = re.compile(r"(`{3,}|~{3,})[ \t]*([^`\r\n]*)\r?$")
_PYTHON = re.compile(r"\{?[ .]*(?:python|py)[0-9.]*\b.*", re.IGNORECASE)
_PYTHON_ALONE = re.compile(r"(?:python|py)[0-9.]*", re.IGNORECASE)
_MARKDOWN = re.compile(r"(?:markdown|md)\b.*", re.IGNORECASE)
_CODE_STARTS = re.compile(r"^(?:def |async def |class |import |from |@)", re.MULTILINE)
_ONE_LINE = re.compile(r"```((?:python|py)[0-9.]*(?=[ \t]))?([^`\n]+)```")
_CODE_ON_FENCE = re.compile(
    r"(?:python|py)?[0-9.]*[ \t]*((?:(?:def|async def|class|import|from) +\w|@\w)[^\n]*)", re.IGNORECASE
)
_OPENING_TAG = re.compile(r"^[ \t]*(?:\[(?:PYTHON|BEGIN|CODE)\]|<(?:code|python)>)[ \t]*\n?", re.MULTILINE)
_CLOSING_TAG = re.compile(r"\[(?:/PYTHON|/CODE|/BEGIN|DONE|END)\]|</(?:code|python)>")
_STUCK_FENCE = re.compile(r"[^\s`~](?:`{3,}|~{3,})[ \t]*\r?$", re.MULTILINE)
_MAX_PARSES = 20
"""Attempts at unfenced code: each costs time in proportion to the response."""


@dataclass(frozen=True, slots=True)
class _Block:
    tag: str
    code: str
    closed: bool


def extract_program(response: str, entry_point: str | None = None) -> str | None:
    """The program that a response presents.

    Without an entry point, in this order, blank blocks aside:

    1. the last closed block that is tagged as python;
    2. an unclosed block at the end that is tagged as python and can be parsed;
    3. the last closed block without a tag, then an unclosed one that can be parsed;
    4. the last closed block with any other tag, then an unclosed one that can be parsed;
    5. without any block, the longest end of the response that begins a line with ``def``, ``class``, ``import``,
       ``from`` or ``@`` and can be parsed.

    So a block of output, text or shell commands after the program is not mistaken for it, and a block that was cut
    together with the response counts only if it parses. With an entry point, `defining_program` chooses among the
    blocks of each kind first, and among the pieces of unfenced code between prose; where none defines it, the order
    above holds. ``[PYTHON]``, ``[BEGIN]``, ``[CODE]`` and ``<code>`` at the start of a line fence too. Takes time in
    proportion to the response.

    Args:
        response: what a model wrote.
        entry_point: the function that the task asks for, or a method of a class ``Solution``.

    Returns:
        None without a program, or if the thinking never ends.
    """
    visible = strip_reasoning(response, inline=False)
    if visible is None:
        return None
    blocks = _nonblank(visible) or _nonblank(_CLOSING_TAG.sub("\n```\n", _OPENING_TAG.sub("```python\n", visible)))
    kinds = [[block for block in blocks if is_kind(block)] for is_kind in (_is_python, _is_untagged, _is_other)]
    if entry_point is not None:
        for codes in map(_last_codes, kinds) if blocks else [_pieces(visible)]:
            program = defining_program(codes, entry_point)
            if program is not None:
                return program
    for kind in kinds:
        for closed in (True, False):
            candidates = [block for block in kind if block.closed is closed]
            if candidates and (closed or _parses(candidates[-1].code)):
                return candidates[-1].code
    return None if blocks else _unfenced(visible)


def _nonblank(text: str) -> list[_Block]:
    return [block for block in _blocks(text) if block.code.strip()]


def _last_codes(blocks: list[_Block]) -> list[str]:
    """The last blocks, as many as are worth being parsed."""
    lengths = accumulate(len(block.code) for block in reversed(blocks[-_MAX_PARSES:]))
    count = sum(length <= MAX_CHARACTERS for length in lengths)
    return [block.code for block in blocks[len(blocks) - count :]]


def _is_python(block: _Block) -> bool:
    return _PYTHON.fullmatch(block.tag) is not None


def _is_untagged(block: _Block) -> bool:
    return not block.tag


def _is_other(block: _Block) -> bool:
    return bool(block.tag) and not _is_python(block)


def _blocks(text: str, inside_markdown: bool = False) -> Iterator[_Block]:
    """The fenced blocks in order; those inside a block of Markdown stand for it."""
    for block in _fenced(text):
        wraps = _MARKDOWN.fullmatch(block.tag) or (not block.tag and block.code.lstrip().startswith(("```", "~~~")))
        if wraps and not inside_markdown:
            yield from _blocks(block.code, inside_markdown=True)
        else:
            yield block


def _fenced(text: str) -> Iterator[_Block]:
    fence, tag, indent = "", "", 0
    lines: list[str] = []
    for line in text.split("\n"):
        mark = _fence(line)
        if fence and not (mark and _matches(fence, indent, mark[0], line)):
            lines.append(line)
        elif fence and mark and not mark[1]:
            yield _Block(tag, _joined(lines, indent), closed=True)
            fence, lines = "", []
        elif fence and mark and not _PYTHON.fullmatch(mark[1]):
            lines.append(line)
        elif mark:
            if fence:
                yield _Block(tag, _joined(lines, indent), closed=False)
            fence, tag, indent, lines = *mark, _indent(line), []
            code = _CODE_ON_FENCE.fullmatch(tag)
            if code is not None:
                tag, lines = "python", [" " * indent + code[1]]
        elif (one := _ONE_LINE.search(line)) and (one[1] or _CODE_STARTS.match(one[2].strip())):
            yield _Block("python", one[2].strip() + "\n", closed=True)
    if fence:
        yield _unclosed(tag, _joined(lines, indent))


def _fence(line: str) -> tuple[str, str] | None:
    """The fence with which a line ends, and its tag."""
    # From the right: a line of many backticks must not be scanned once for each of them.
    start = max(line.rfind("```"), line.rfind("~~~"))
    if start < 0:
        return None
    while start > 0 and line[start - 1] == line[start]:
        start -= 1
    match = _FENCE.match(line, start)
    if match is None or (line[:start].strip() and not _PYTHON_ALONE.fullmatch(match[2].strip())):
        return None  # a sentence that mentions a fence
    return match[1], match[2].strip()


def _matches(fence: str, indent: int, other: str, line: str) -> bool:
    """Whether a fence can close or interrupt an open one. One that is indented deeper belongs to a docstring."""
    position = _indent(line)
    return other.startswith(fence) and position <= indent + 3 and line.startswith(other, position)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _joined(lines: list[str], indent: int) -> str:
    # A fence inside a list is indented, and its code with it.
    code_lines = [line[min(indent, _indent(line)) :].removesuffix("\r") for line in lines]
    return "\n".join(code_lines) + "\n" if code_lines else ""


def _unclosed(tag: str, code: str) -> _Block:
    """The last block, whose closing fence may stand behind code."""
    stuck = _STUCK_FENCE.search(code)
    if stuck is None:
        return _Block(tag, code.rstrip() + "\n", closed=False)
    return _Block(tag, code[: stuck.start() + 1] + "\n", closed=True)


def _unfenced(text: str) -> str | None:
    """The first piece of code that goes on to the end."""
    return next((f"{code}\n" for code, error in _candidates(text) if error is None), None)


def _pieces(text: str) -> list[str]:
    """The pieces of unfenced code that can be parsed; prose between them is where the parser stops."""
    pieces: list[str] = []
    for code, error in _candidates(text):
        piece = code[:error]
        if piece.strip() and (error is None or _parses(piece)):
            pieces.append(piece.rstrip() + "\n")
    return pieces


def _candidates(text: str) -> Iterator[tuple[str, int | None]]:
    """Text from each place on where code may begin, and where its first syntax error is; the last one has none."""
    # A fence at the very end closes one that stood in the prompt.
    text = text.replace("\r\n", "\n").rstrip().rstrip("`~").rstrip()[-MAX_CHARACTERS:]
    position = 0
    for _ in range(_MAX_PARSES):
        start = _CODE_STARTS.search(text, position)
        if start is None:
            return
        code = text[start.start() :]
        line = error_line(code)
        error = None if line is None else _offset(code, line)
        yield code, error
        if error is None:
            return
        # Every start above the syntax error would run into it again.
        position = max(start.end(), start.start() + error)


def _offset(text: str, line: int) -> int:
    """Offset of the start of a line; lines count from 1."""
    position = 0
    for _ in range(line - 1):
        position = text.find("\n", position) + 1
        if position == 0:
            return len(text)
    return position


def _parses(code: str) -> bool:
    return len(code) <= MAX_CHARACTERS and error_line(code) is None
