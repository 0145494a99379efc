"""From a cell of a table to a conversation: chat messages, their parts, and the places of pictures.

Every reader sees one form, whatever the file: a message has no key without a value (Arrow gives every message and part
all keys of its column), a content of texts alone is one text, and the part of a picture is ``{"type": "image"}``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from datamodules.rows import Row
from lit_uniopd.errors import UserError
from lit_uniopd.types import Message

IMAGE_MARK = "<image>"

_TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id", "tools")
_TOOL_ROLES = ("tool", "function")
_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_IMAGE_TYPES = ("image", "image_url")


def messages_of(cell: Any, row: Row, column: str) -> tuple[Message, ...]:
    """A conversation from a text or a list of chat messages.

    Raises:
        UserError: naming the row and the column.
    """
    if cell is None or cell == []:
        raise UserError(f"{row.where} has no prompt: its column {column!r} is empty; give one or remove the row.")
    if isinstance(cell, str):
        return ({"role": "user", "content": cell},)
    if not (isinstance(cell, list) and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in cell)):
        raise UserError(
            f"{row.where}: column {column!r} must hold a text or a list of messages, "
            '[{"role": "user", "content": "..."}].'
        )
    return tuple(_message(m, f"{row.where}: message {number} of {column!r}") for number, m in enumerate(cell, start=1))


def refuse_tools(row: Row, columns: Mapping[str, str]) -> None:
    """Refuse a row with TRL's column of tools, which its prompt would miss.

    Raises:
        UserError: naming the row.
    """
    if row.values.get("tools") and "tools" not in columns.values():
        raise UserError(
            f"{row.where} has 'tools', and prompts with tools are not read; write them into the system message and "
            "remove the column, or rename it if it is for the grader."
        )


def has_images(messages: Sequence[Message]) -> bool:
    """Whether a message has an image part."""
    return any(not isinstance(message["content"], str) for message in messages)


def place_images(messages: tuple[Message, ...], number: int, where: str) -> tuple[Message, ...]:
    """Turn the ``<image>`` marks of the texts into image parts; without any, the images open the first user turn.

    Raises:
        UserError: if there are more or fewer places than images.
    """
    contents = [_content_parts(message["content"]) for message in messages]
    placed = sum(part["type"] == "image" for content in contents for part in content)
    if placed == 0:
        first = next((i for i, message in enumerate(messages) if message["role"] == "user"), 0)
        contents[first] = [{"type": "image"}] * number + contents[first]
    elif placed != number:
        remedy = f"give one {IMAGE_MARK} for each" if number else "give the pictures in the column of images"
        raise UserError(f"{where} has {number} images for {placed} places in its prompt; {remedy}.")
    return tuple({**message, "content": content} for message, content in zip(messages, contents, strict=True))


def _message(message: Mapping[str, Any], where: str) -> Message:
    """A message without the keys that hold nothing."""
    kept = {key: value for key, value in message.items() if key == "content" or value not in (None, "", [], {})}
    tools = [key for key in _TOOL_KEYS if key in kept]
    if tools or kept.get("role") in _TOOL_ROLES:
        what = repr(tools[0]) if tools else f"the role {kept['role']!r}"
        raise UserError(
            f"{where} has {what}, and calls of tools are not read; write calls and results into the content of "
            "assistant and user, or remove the row."
        )
    if reasoning := [key for key in _REASONING_KEYS if key in kept]:
        raise UserError(
            f"{where} has {reasoning[0]!r}, which is not read; write the reasoning into 'content' as the model does "
            "(<think>...</think>), or remove the key."
        )
    content = kept.get("content")
    if not isinstance(content, str | list):
        kind = "nothing" if content is None else type(content).__name__
        raise UserError(f"{where} has {kind} as 'content'; give a text or a list of parts, or remove the row.")
    text_or_parts = content if isinstance(content, str) else _content(content, where)
    return {"role": kept.pop("role"), **kept, "content": text_or_parts}


def _content(parts: Sequence[Any], where: str) -> str | list[Mapping[str, Any]]:
    """Parts as one text, or as a list if a picture is among them."""
    read = [_part(part, where) for part in parts]
    return "".join(part["text"] for part in read) if all(part["type"] == "text" for part in read) else read


def _part(part: Any, where: str) -> Mapping[str, Any]:
    """A text or image part; Qwen's need no type. A picture itself is in the column of images."""
    kept = {key: value for key, value in part.items() if value is not None} if isinstance(part, Mapping) else {}
    pictures = [key for key in _IMAGE_TYPES if key in kept]
    kind = kept.get("type") or next(iter(pictures), "text")
    if kind == "text" and isinstance(kept.get("text"), str) and not pictures:
        return {"type": "text", "text": kept["text"]}
    if kind in _IMAGE_TYPES and not kept.get("text"):
        return {"type": "image"}
    raise UserError(
        f"{where} has a part {str(part)[:80]!r}; each must be a text, "
        '{"type": "text", "text": "..."}, or the place of a picture, {"type": "image"}.'
    )


def _content_parts(content: str | list[Any]) -> list[Any]:
    """Content as a list of text and image parts, in the form of chat templates."""
    if not isinstance(content, str):
        return content
    parts: list[Any] = []
    for i, text in enumerate(content.split(IMAGE_MARK)):
        parts += [{"type": "image"}] if i else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts
