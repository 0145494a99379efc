"""Chat messages of rows: one form from any file, what is refused, and how templates of both kinds read them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset
from PIL import Image
from pyarrow import parquet
from tiny import make_tokenizer

from datamodules import PairSourceArgs, SourceArgs
from datamodules.pair_sources import read_pairs
from datamodules.sources import read_prompts
from lit_uniopd.errors import UserError
from lit_uniopd.policy.chat_template import answered_text, chat_text
from lit_uniopd.types import Prompt

FLAG = "--data.train"
PARTS = (  # as Qwen-VL's: a part is a picture if it has the key, and a text is left out
    "{% for m in messages %}<bos>{{ m['role'][0] }}:{% for c in m['content'] %}"
    "{% if c['type'] == 'image' or 'image' in c or 'image_url' in c %}<img>{% elif 'text' in c %}{{ c['text'] }}{% endif %}"
    "{% endfor %}<end>{% endfor %}{% if add_generation_prompt %}<bos>a:{% endif %}"
)
TEXTS = (
    "{% for m in messages %}<bos>{{ m['role'][0] }}:{{ m['content'] | trim }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<bos>a:{% endif %}"
)
STRICT = TEXTS.replace("m['content'] | trim", "'' + m['content']")  # fails at a list
BOTH = (
    "{% for m in messages %}<bos>{{ m['role'][0] }}:{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{{ '<img>' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endif %}<end>"
    "{% endfor %}{% if add_generation_prompt %}<bos>a:{% endif %}"
)


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def user(content: Any, **keys: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **keys}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def first(tmp_path: Path, row: dict[str, Any]) -> Prompt:
    return read_prompts(SourceArgs(write(tmp_path / "t.jsonl", [row])), FLAG)[0]


ROWS = [
    {"prompt": [user([{"type": "image", "image": "a.png"}, text("what?")], name="ann")], "images": ["a.png"]},
    {"prompt": [user([text("two and "), text("two?")])], "images": []},
    {
        "prompt": [
            {"role": "system", "content": [text("be brief")]},
            user([text("which?"), {"type": "image_url", "image_url": {"url": "a.png"}}]),
        ],
        "images": ["a.png"],
    },
]
RENDERED = [
    "<bos>u:<img>what?<end><bos>a:",
    "<bos>u:two and two?<end><bos>a:",
    "<bos>s:be brief<end><bos>u:which?<img><end><bos>a:",
]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "hub"])
def test_keys_without_a_value_are_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    """Arrow gives every message and part all keys of its column, and templates ask whether a key is there."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    if kind == "hub":
        rows = [{**row, "images": [str(tmp_path / name) for name in row["images"]]} for row in ROWS]
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Dataset.from_list(rows))
        path = "owner/name"
    else:
        path = write(tmp_path / f"t.{kind}", ROWS)
    prompts = read_prompts(SourceArgs(path), FLAG)
    for template in (PARTS, BOTH):
        tokenizer = make_tokenizer(template, extra=("<img>",))
        assert [chat_text(tokenizer, prompt, {}) for prompt in prompts] == RENDERED
    assert prompts[1].messages == (user("two and two?"),)
    pictured = [{"type": "image"}, text("what?")]
    assert prompts[0].messages == ({"role": "user", "name": "ann", "content": pictured},)


def test_a_prompt_has_the_same_key_in_any_file(tmp_path: Path):
    plain = [{"prompt": [user("two?")]}, {"prompt": [{"content": "two?", "role": "user"}]}, {"prompt": "two?"}]
    parts = [{"prompt": [user([text("two?")], name=None)]}, {"prompt": [user([{"text": "two?"}])]}]
    files = [
        write(tmp_path / f"{name}.{kind}", rows)
        for name, rows, kind in [
            ("a", plain, "jsonl"),
            ("b", parts, "json"),
            ("c", parts, "parquet"),
            ("d", plain[:2], "parquet"),
        ]
    ]
    assert len({prompt.key for file in files for prompt in read_prompts(SourceArgs(file), FLAG)}) == 1


@pytest.mark.parametrize("template", [PARTS, TEXTS, STRICT, BOTH, None])
@pytest.mark.parametrize("content", ["two?", [text("two"), text("?")]])
def test_a_template_gets_the_form_that_it_reads(template: str | None, content: Any):
    """Also prompts that were made in Python, in either form."""
    tokenizer = make_tokenizer(template)
    prompt = Prompt("p", (user(content),))
    assert chat_text(tokenizer, prompt, {}) == ("<bos>u:two?<end><bos>a:" if template else "two?")
    if template:
        assert answered_text(tokenizer, prompt, "four", {}) == "<bos>u:two?<end><bos>a:four<end>"
        begun = Prompt("p", (user(content), {"role": "assistant", "content": content}))
        assert chat_text(tokenizer, begun, {}) == "<bos>u:two?<end><bos>a:two?"


def test_pictures_are_not_printed_into_a_text():
    prompt = Prompt("p", (user([{"type": "image"}, text("what?")]),))
    for template in (TEXTS, STRICT, None):
        with pytest.raises(UserError, match="has no place for the pictures of a prompt; choose an image-text model"):
            chat_text(make_tokenizer(template), prompt, {})


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (
            [user("hi"), {"role": "assistant", "content": None, "tool_calls": [CALL]}],
            "t.jsonl:1: message 2 of 'prompt' has 'tool_calls', and calls of tools are not read; write calls and results",
        ),
        ([user("hi"), {"role": "assistant", "tool_calls": [CALL]}], "message 2 of 'prompt' has 'tool_calls'"),
        ([user("hi"), {"role": "assistant", "content": "", "tool_calls": [CALL]}], "has 'tool_calls'"),
        ([user("hi"), {"role": "assistant", "content": None, "function_call": {"name": "f"}}], "has 'function_call'"),
        ([user("hi"), {"role": "tool", "content": "3"}], "message 2 of 'prompt' has the role 'tool'"),
        ([user("hi"), user("3", tool_call_id="x")], "has 'tool_call_id'"),
        (
            [user("hi"), {"role": "assistant", "content": "3", "thinking": "1 + 2"}, user("why?")],
            "message 2 of 'prompt' has 'thinking', which is not read; write the reasoning into 'content'",
        ),
        ([user("hi"), {"role": "assistant", "content": "3", "reasoning_content": "x"}], "has 'reasoning_content'"),
        ([user(None)], "message 1 of 'prompt' has nothing as 'content'; give a text or a list of parts"),
        ([{"role": "user"}], "message 1 of 'prompt' has nothing as 'content'"),
        ([user(3)], "has int as 'content'"),
        ([user([{"type": "video", "video": "a.mp4"}])], "has a part .*video.*; each must be a text"),
        ([user([{"type": "text"}])], "has a part .*; each must be a text"),
        ([user([{"type": "text", "text": "hi", "image": "a.png"}])], "has a part .*; each must be a text"),
        ([user([{"type": "image", "text": "hi"}])], "has a part .*; each must be a text"),
        ([user(["hi"])], "has a part 'hi'; each must be a text"),
        ([user([{"type": "image"}])], "has 0 images for 1 places in its prompt; give the pictures in the column"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path: Path, messages: list[Any], message: str):
    with pytest.raises(UserError, match=message):
        first(tmp_path, {"prompt": messages})
    answers = ({"role": "assistant", "content": side} for side in ("yes", "no"))
    row: dict[str, Any] = dict(zip(("chosen", "rejected"), ([*messages, answer] for answer in answers), strict=True))
    path = write(tmp_path / "t.jsonl", [row])
    with pytest.raises(UserError, match=message.replace("prompt'", "chosen'")):
        read_pairs(PairSourceArgs(path), FLAG)


def test_keys_that_hold_nothing_are_not_refused(tmp_path: Path):
    nothing = user("hi", tool_calls=None, tool_call_id="", thinking=None, reasoning_content="")
    assert first(tmp_path, {"prompt": [nothing | {"tool_calls": []}], "tools": []}).messages == (user("hi"),)


def test_the_reasoning_of_an_answer_is_not_lost(tmp_path: Path):
    answers = [{"role": "assistant", "content": side, "thinking": "hm"} for side in ("yes", "no")]
    row = {"prompt": "hi", "chosen": answers[:1], "rejected": answers[1:]}
    with pytest.raises(UserError, match=r"t\.jsonl:1: message 1 of 'chosen' has 'thinking'"):
        read_pairs(PairSourceArgs(write(tmp_path / "t.jsonl", [row])), FLAG)


@pytest.mark.parametrize("tools", [[CALL], json.dumps([CALL])])
def test_a_column_of_tools_is_refused(tmp_path: Path, tools: Any):
    row = {"prompt": "hi", "chosen": "yes", "rejected": "no", "tools": tools}
    message = "t.jsonl:1 has 'tools', and prompts with tools are not read; .* or rename it"
    with pytest.raises(UserError, match=message):
        first(tmp_path, row)
    with pytest.raises(UserError, match=message):
        read_pairs(PairSourceArgs(str(tmp_path / "t.jsonl")), FLAG)
    assert read_prompts(SourceArgs(str(tmp_path / "t.jsonl"), answer_column="tools"), FLAG)[0].gold == tools
