import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from datamodules import SourceArgs
from datamodules.sources import read_prompts
from lit_uniopd.errors import UserError
from lit_uniopd.rewards import get_grader
from lit_uniopd.types import Prompt

FLAG = "--data.train"


def write(path: Path, rows: list[Any]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (3, 2)).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_the_usual_columns_need_no_mapping(tmp_path: Path, kind: str):
    path = write(
        tmp_path / f"mine.{kind}",
        [
            {"prompt": "1 + 1?", "answer": "2", "domain": "math", "level": 3},
            {"prompt": "Print 1.", "answer": None, "domain": "code", "level": 4},
        ],
    )
    assert read_prompts(SourceArgs(path), FLAG) == [
        Prompt(f"mine.{kind}:1", ({"role": "user", "content": "1 + 1?"},), "2", domain="math", row={"level": 3}),
        Prompt(f"mine.{kind}:2", ({"role": "user", "content": "Print 1."},), None, domain="code", row={"level": 4}),
    ]


def test_columns_are_mapped_by_name(tmp_path: Path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    row = {"q": chat, "a": [1, 2], "key": 7, "topic": "logic", "expert": "big", "check": "choice", "answer": "unread"}
    names = {"prompt": "q", "answer": "a", "id": "key", "domain": "topic", "teacher": "expert", "grader": "check"}
    columns: dict[str, Any] = {f"{role}_column": name for role, name in names.items()}
    (prompt,) = read_prompts(SourceArgs(write(tmp_path / "t.jsonl", [row]), **columns), FLAG)
    assert prompt == Prompt("7", tuple(chat), [1, 2], "logic", "big", "choice", row={"answer": "unread"})


def test_the_source_fills_what_its_rows_leave_open(tmp_path: Path):
    row = {"id": 1, "prompt": "p", "domain": "d", "teacher": "t", "grader": "g"}
    path = write(tmp_path / "t.jsonl", [row, {"prompt": "q", "id": 2, "teacher": None, "grader": ""}])

    def routes(**options: Any) -> list[tuple]:
        return [(p.id, p.domain, p.teacher, p.grader) for p in read_prompts(SourceArgs(path, **options), FLAG)]

    assert routes() == [("1", "d", "t", "g"), ("2", "default", None, None)]
    constants = {"domain": "D", "teacher": "T", "grader": "G"}
    assert routes(**constants) == [("1", "d", "t", "g"), ("2", "D", "T", "G")]
    # An unread column leaves all its rows open; rows without an id are named by their place.
    unread = {f"{role}_column": None for role in constants} | {"id_column": ""}
    assert routes(**constants, **unread) == [("t.jsonl:1", "D", "T", "G"), ("t.jsonl:2", "D", "T", "G")]


def test_a_glob_reads_all_files_up_to_the_limit(tmp_path: Path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "t.jsonl", [{"prompt": folder}, {"prompt": folder * 2}])
    prompts = read_prompts(SourceArgs(f"{tmp_path}/*/t.jsonl", limit=3), FLAG)
    assert [prompt.id for prompt in prompts] == ["a/t.jsonl:1", "a/t.jsonl:2", "b/t.jsonl:1"]


def test_lines_end_at_newlines_only_and_blank_ones_are_no_rows(tmp_path: Path):
    file = tmp_path / "t.jsonl"
    file.write_bytes('\ufeff{"prompt": "a\u2028b"}\r\n\n{"prompt": "c"}'.encode())
    prompts = read_prompts(SourceArgs(str(file)), FLAG)
    assert [(p.id, p.messages[0]["content"]) for p in prompts] == [("t.jsonl:1", "a\u2028b"), ("t.jsonl:3", "c")]


@pytest.mark.parametrize(
    ("prompt", "images", "content"),
    [
        ("Which? <image> or <image>", 2, ["", "Which? ", "I", " or ", "I"]),
        ("Which?", 2, ["I", "I", "Which?"]),  # no place given: before the text
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}], 1, ["I", "Which?"]),
    ],
)
def test_images_take_their_places(tmp_path: Path, prompt: Any, images: int, content: list[str]):
    (tmp_path / "x.png").write_bytes(picture())
    path = write(tmp_path / "t.jsonl", [{"prompt": prompt, "images": ["x.png"] * images}])
    (read,) = read_prompts(SourceArgs(path), FLAG)
    assert read.images == (str(tmp_path / "x.png"),) * images
    (message,) = read.messages
    assert ["I" if part["type"] == "image" else part["text"] for part in message["content"]] == [
        c for c in content if c
    ]


def test_embedded_pictures_are_opened(tmp_path: Path):
    rows = [{"prompt": "p", "image": {"bytes": picture(), "path": None}}]
    source = SourceArgs(write(tmp_path / "t.parquet", rows), images_column="image")
    (prompt,) = read_prompts(source, FLAG)
    assert prompt.images[0].size == (3, 2)
    assert prompt.row == {}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [{"question": "p"}],
            {},
            r"t.jsonl has no column 'prompt'; choose --data.train.prompt_column from question\.",
        ),
        (
            [{"prompt": "p", "gold": 1}],
            {"answer_column": "godl"},
            r"t.jsonl has no column 'godl' \(did you mean gold\?\); choose --data.train.answer_column from prompt, gold\.",
        ),
        (
            [{"prompt": "p"}],
            {"prompt_column": ""},
            r"t.jsonl has no column '' \(did you mean prompt\?\); choose --data.train.prompt_column from prompt",
        ),
        ([{"prompt": "p"}, {"prompt": ""}], {}, "t.jsonl:2 has no prompt: its column 'prompt' is empty"),
        ([{"prompt": "p"}, {"answer": "a"}], {}, "t.jsonl:2 has no prompt"),
        ([{"prompt": 3}], {}, "t.jsonl:1: column 'prompt' must hold a text or a list of messages"),
        ([{"prompt": [{"content": "p"}]}], {}, "t.jsonl:1: column 'prompt' must hold a text or a list of messages"),
        ([{"prompt": "p", "domain": ["d"]}], {}, "t.jsonl:1: column 'domain' must hold a text, not list"),
        ([{"prompt": "p", "id": 1.5}], {}, "t.jsonl:1: column 'id' must hold a text or a whole number"),
        (
            [{"prompt": "p", "id": 1}, {"prompt": "q", "id": 1}],
            {},
            "t.jsonl:2 has the same id '1' as .*t.jsonl:1; name a column of unique ids by --data.train.id_column",
        ),
        ([{"prompt": "p", "images": "no.png"}], {}, "t.jsonl:1: the picture .*no.png does not exist"),
        ([{"prompt": "p", "images": [3]}], {}, "t.jsonl:1: column 'images' must hold paths"),
        ([{"prompt": "<image> <image>", "images": "t.jsonl"}], {}, "t.jsonl:1 has 1 images for 2 places in its prompt"),
        (["p"], {}, "t.jsonl:1 is not a row"),
        ([], {}, "--data.train.path .*t.jsonl holds no rows"),
        ([{"prompt": "p"}], {"limit": 0}, "--data.train.limit must be at least 1, not 0"),
        ([{"prompt": "p"}], {"split": "test"}, "--data.train.split is for data sets on the hub, not for .*t.jsonl"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, rows: list, options: dict, message: str):
    path = write(tmp_path / "t.jsonl", rows)
    with pytest.raises(UserError, match=message):
        read_prompts(SourceArgs(path, **options), FLAG)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b'{"prompt": "p"}\n{"prompt": \n', "t.jsonl:2 is not valid JSON"),
        ("t.jsonl", b'{"prompt": "\xff"}\n', "t.jsonl cannot be read: .*utf-8"),
        ("t.jsonl", b'\n{"prompt": "say \\ud83d now"}\n', r"t.jsonl:2 has half of a surrogate pair .* in 'prompt'"),
        ("t.json", b'[{"prompt": "p"}, {"prompt": "\\ud83d"}]', r"t.json:2 has half of a surrogate pair"),
        ("t.jsonl", b'{"prompt": "p", "answer": 1, "answer": 2}', r"t.jsonl:1 has the key 'answer' more than once"),
        ("t.json", b'[{"prompt": "p", "prompt": "q"}]', r"t.json:1 has the key 'prompt' more than once"),
        ("t.json", b'[{"prompt": "p"}, {"prompt": ]', r"t.json is not valid JSON \(Expecting value: line 1 column 30"),
        ("t.json", b'[{"prompt": "p"} {"prompt": "q"}]', r"t.json is not valid JSON \(Expecting ',' delimiter"),
        ("t.json", b'[{"prompt": "p"}] more', r"t.json is not valid JSON \(Extra data"),
        ("t.json", b'{"prompt": "p"}', r"t.json must hold a list of rows.*\.jsonl"),
        ("t.parquet", b"no parquet at all", "t.parquet cannot be read as .parquet"),
        ("t.arrow", b"no arrow at all", "t.arrow cannot be read as .arrow"),
        ("t.jsonl.gz", b"not packed", "t.jsonl.gz cannot be read: Not a gzipped file"),
        ("t.jsonl.xz", b"not packed", "t.jsonl.xz cannot be read: Input format not supported"),
        ("t.txt", b"prompt\np\n", r"t.txt is of an unknown kind; give one of \.jsonl"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(SourceArgs(str(tmp_path / name)), FLAG)


def test_a_column_that_is_there_twice_is_named(tmp_path: Path):
    table = pa.table([["p"], ["1"], ["2"]], names=["prompt", "answer", "answer"])
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet has more than one column 'answer'; keep one of them"):
        read_prompts(SourceArgs(str(tmp_path / "t.parquet")), FLAG)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "--data.train.path is empty; give .jsonl"),
        ("missing.jsonl", r"--data.train.path missing.jsonl matches no file \(looked from "),
        ("data/*.jsonl", "matches no file"),
        (".", "--data.train.path . is a folder without rows; give one with .jsonl"),
        ("playground:test", "playground:test is unknown; the playground has playground:train and playground:heldout"),
    ],
)
def test_a_path_to_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        read_prompts(SourceArgs(path), FLAG)


def hub(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    monkeypatch.setattr("datasets.load_dataset", load)


def test_a_hub_data_set_is_read_by_its_split(monkeypatch: pytest.MonkeyPatch):
    import datasets

    calls: list[tuple] = []
    features = datasets.Features({"prompt": datasets.Value("string"), "images": datasets.List(datasets.Image())})
    rows = [{"prompt": f"p{i}", "images": [{"bytes": picture(), "path": None}]} for i in range(3)]

    def load(*args: Any, **kwargs: Any) -> datasets.Dataset:
        calls.append((args, kwargs))
        return datasets.Dataset.from_list(rows, features=features)

    hub(monkeypatch, load)
    source = SourceArgs("owner/name", split="test", name="main", revision="v1", limit=2)
    prompts = read_prompts(source, FLAG)
    assert calls == [(("owner/name", "main"), {"split": "test", "revision": "v1"})]
    assert [p.id for p in prompts] == ["owner/name/test:1", "owner/name/test:2"]
    assert prompts[0].images[0].size == (3, 2)


def test_a_refusal_of_the_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    from datasets.exceptions import DatasetNotFoundError

    def load(*args: Any, **kwargs: Any) -> None:
        raise DatasetNotFoundError("Dataset 'owner/nmae' doesn't exist on the Hub or cannot be accessed.")

    hub(monkeypatch, load)
    with pytest.raises(
        UserError, match=r"--data.train.path owner/nmae is no file here.*\(split train\).*doesn't exist"
    ):
        read_prompts(SourceArgs("owner/nmae"), FLAG)


def test_a_grader_of_the_user_s_sees_the_whole_row(tmp_path):
    rows = [
        {"question": "1+1", "solution": "2", "level": 1, "grader": "my_graders.right"},
        {"question": "1+2", "solution": "3", "level": 2, "grader": "exact"},
    ]
    columns: Any = {"prompt_column": "question", "answer_column": "solution"}
    first, second = read_prompts(SourceArgs(write(tmp_path / "t.jsonl", rows), **columns), FLAG)
    assert (first.grader, first.gold, first.row) == ("my_graders.right", "2", rows[0])
    assert (second.grader, second.row) == ("exact", {"level": 2})


def test_a_function_is_a_grader(tmp_path):
    def right(text, gold):
        return text == gold

    source = SourceArgs(write(tmp_path / "t.jsonl", [{"prompt": "1+1", "answer": "2"}]), grader=right)
    (prompt,) = read_prompts(source, FLAG)
    assert source.grader == prompt.grader
    assert isinstance(prompt.grader, str)
    assert [get_grader(prompt.grader)("2", text).correct for text in "23"] == [True, False]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_rows_say_what_their_teacher_reads(tmp_path: Path, kind: str):
    """In the forms of the prompt; other rows, and cells without a value, leave it to the student's."""
    (tmp_path / "whole.png").write_bytes(picture())
    (tmp_path / "crop.png").write_bytes(picture())
    chat = [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "So"}]
    rows = [
        {"prompt": "1 + 1?", "teacher_prompt": "1 + 1? It is 2.", "teacher_system": "s", "answer": "2"},
        {"prompt": "2?", "teacher_prompt": None, "teacher_system": "", "answer": "2"},
    ]
    one, two = read_prompts(SourceArgs(write(tmp_path / f"a.{kind}", rows)), FLAG)
    assert one.messages == ({"role": "user", "content": "1 + 1?"},)
    assert one.teacher_messages == ({"role": "user", "content": "1 + 1? It is 2."},)
    assert (one.teacher_system, one.teacher_images, one.row) == ("s", None, {})
    assert (two.teacher_messages, two.teacher_system, two.teacher_images, two.row) == (None, None, None, {})
    rows = [{"prompt": "2?", "hint": chat, "teacher_prompt": "not read"}]
    (mapped,) = read_prompts(SourceArgs(write(tmp_path / f"b.{kind}", rows), teacher_prompt_column="hint"), FLAG)
    assert (mapped.teacher_messages, mapped.row) == (tuple(chat), {"teacher_prompt": "not read"})

    rows = [
        {"prompt": "what?", "images": ["whole.png"], "teacher_images": ["crop.png", "crop.png"]},
        {"prompt": "what?", "images": ["whole.png"], "teacher_images": []},
        {"prompt": "what?", "images": ["whole.png"], "teacher_images": None},
    ]
    path = write(tmp_path / f"c.{kind}", rows)
    assert [
        prompt.teacher_images and len(prompt.teacher_images) for prompt in read_prompts(SourceArgs(path), FLAG)
    ] == [
        2,
        (),
        None,
    ]
    rows = [{"prompt": "what?", "images": ["whole.png"], "teacher_prompt": "left <image>, right <image>?"}]
    rows[0]["teacher_images"] = ["crop.png"] * 2
    (seen,) = read_prompts(SourceArgs(write(tmp_path / f"d.{kind}", rows)), FLAG)
    assert seen.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "what?"}]
    assert seen.teacher_messages is not None
    assert [part["type"] for part in seen.teacher_messages[0]["content"]] == ["text", "image", "text", "image", "text"]
    assert seen.teacher_images == (str(tmp_path / "crop.png"),) * 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"teacher_prompt": 3}, "column 'teacher_prompt' must hold a text or a list of messages"),
        ({"teacher_prompt": [{"role": "user", "content": "a", "tool_calls": [1]}]}, "has 'tool_calls'"),
        ({"teacher_system": ["s"]}, "column 'teacher_system' must hold a text, not list"),
        ({"teacher_images": "none.png"}, r"none\.png does not exist; mend column 'teacher_images'"),
        ({"teacher_prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "has 0 images for 1 places"),
    ],
)
def test_what_no_teacher_can_read_names_row_and_column(tmp_path: Path, row: dict[str, Any], message: str):
    path = write(tmp_path / "t.jsonl", [{"prompt": "p"} | row])
    with pytest.raises(UserError, match=message):
        read_prompts(SourceArgs(path), FLAG)
    with pytest.raises(UserError, match=r"has no column 'hint'; choose --data\.train\.teacher_prompt_column"):
        read_prompts(SourceArgs(path, teacher_prompt_column="hint"), FLAG)
