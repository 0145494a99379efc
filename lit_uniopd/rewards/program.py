"""Finding the program in a response.

The last python block is the program. Fences follow CommonMark (backticks or tildes, closed by at least as many), with
two allowances for what models write: a fence may begin behind text on its line, and a tagged fence inside an open one
shows that the open one was never closed, so it begins a new block.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lit_uniopd.rewards.text import strip_thinking

_FENCE = re.compile(r"(`{3,}|~{3,})[ \t]*([^`\r\n]*)\r?$")
_PYTHON = re.compile(r"\{?[ .]*(?:python|py)[0-9.]*\b.*", re.IGNORECASE)
_PYTHON_ALONE = re.compile(r"(?:python|py)[0-9.]*", re.IGNORECASE)
_MARKDOWN = re.compile(r"(?:markdown|md)\b.*", re.IGNORECASE)
_CODE_STARTS = re.compile(r"^(?:def |async def |class |import |from |@)", re.MULTILINE)
_STUCK_FENCE = re.compile(r"[^\s`~](?:`{3,}|~{3,})[ \t]*\r?$", re.MULTILINE)
_MAX_PARSES = 20
"""Attempts at unfenced code: each costs time in proportion to the response."""


@dataclass(frozen=True, slots=True)
class _Block:
    tag: str
    code: str
    closed: bool


def extract_program(response: str) -> str | None:
    """The program that a response presents.

    In this order, blank blocks aside:

    1. the last closed block that is tagged as python;
    2. an unclosed block at the end that is tagged as python and can be parsed;
    3. the last closed block without a tag, then an unclosed one that can be parsed;
    4. the last closed block with any other tag, then an unclosed one that can be parsed;
    5. without any block, the longest end of the response that begins a line with ``def``, ``class``, ``import``,
       ``from`` or ``@`` and can be parsed.

    So a block of output, text or shell commands after the program is not mistaken for it, and a block that was cut
    together with the response counts only if it parses. Takes time in proportion to the response.

    Returns:
        None without a program, or if the thinking never ends.
    """
    visible = strip_thinking(response)
    if visible is None:
        return None
    blocks = [block for block in _blocks(visible) if block.code.strip()]
    for is_kind in (_is_python, _is_untagged, _is_other):
        for closed in (True, False):
            candidates = [block for block in blocks if is_kind(block) and block.closed is closed]
            if candidates and (closed or _parses(candidates[-1].code)):
                return candidates[-1].code
    return None if blocks else _unfenced(visible)


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
    # A fence at the very end closes one that stood in the prompt.
    text = text.replace("\r\n", "\n").rstrip().rstrip("`~").rstrip()
    position = 0
    for _ in range(_MAX_PARSES):
        start = _CODE_STARTS.search(text, position)
        if start is None:
            return None
        code = text[start.start() :]
        error_line = _error_line(code)
        if error_line is None:
            return code + "\n"
        # Every start above the syntax error would run into it again.
        position = max(start.end(), start.start() + _offset(code, error_line))
    return None


def _offset(text: str, line: int) -> int:
    """Offset of the start of a line; lines count from 1."""
    position = 0
    for _ in range(line - 1):
        position = text.find("\n", position) + 1
        if position == 0:
            return len(text)
    return position


def _parses(code: str) -> bool:
    return _error_line(code) is None


def _error_line(code: str) -> int | None:
    """Line of the first syntax error, counted from 1; None without one."""
    try:
        # The parser warns of escapes such as "\d"; what they stand for does not matter here.
        ast.parse(re.sub(r"\\[^\n]", "xx", code))
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, MemoryError, RecursionError):  # null bytes, nesting
        return code.count("\n") + 1
    return None
