"""Drawings for bundled rows, and adapters of benchmarks with pictures."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_uniopd.benchmarks.adapters import ADAPTERS, AdapterContext, images
from lit_uniopd.benchmarks.adapters.columns import chat, choices_of, fill_template, picture
from lit_uniopd.benchmarks.datasets import fixture_rows
from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.benchmarks.spec import PromptFormat
from lit_uniopd.benchmarks.synthetic_images import DRAWINGS, draw
from lit_uniopd.errors import UserError
from lit_uniopd.utils.images import open_image

EXAMPLES: dict[str, dict[str, Any]] = {
    "bar_chart": {"bars": {"a": 1, "b": 2}},
    "line_chart": {"points": {"a": 1, "b": 2}},
    "pie_chart": {"parts": {"a": 1, "b": 2}},
    "document": {"lines": ["one"]},
    "table": {"rows": [["a", "b"]]},
    "shapes": {"items": [["star", "red", 0.5, 0.5, 0.5]]},
    "geometry": {"corners": {"A": [0, 0], "B": [1, 0], "C": [0, 1]}, "lengths": {"AB": "3"}},
    "pattern": {"grid": [["circle", "?"]], "choices": ["circle", "star"]},
    "scene": {"objects": ["cat"]},
}


@pytest.mark.parametrize("kind", DRAWINGS)
def test_every_drawing_is_small_coloured_and_the_same_each_time(kind):
    first, second = (draw({"drawing": kind, **EXAMPLES[kind]}) for _ in range(2))
    assert first.mode == "RGB"
    assert max(first.size) <= 256
    assert np.array_equal(np.asarray(first), np.asarray(second))
    assert len(np.unique(np.asarray(first).reshape(-1, 3), axis=0)) > 1


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ({"drawing": "opera"}, "asks for the drawing 'opera'"),
        ({"drawing": "bar_chart"}, "cannot be made"),
        ({"drawing": "shapes", "items": [["blob", "red", 0.5, 0.5, 0.5]]}, "no shape 'blob'"),
        ({"drawing": "shapes", "items": [["star", "mauve", 0.5, 0.5, 0.5]]}, "mauve"),
    ],
)
def test_what_cannot_be_drawn_is_named(cell, sentence):
    with pytest.raises(UserError, match=sentence):
        draw(cell)


# --- rows to chats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        (["x", "y"], {"A": "x", "B": "y"}),
        ({"A": "x", "B": None}, {"A": "x"}),
        ("A. 3; B. 4 cm; C. No correct answer", {"A": "3", "B": "4 cm", "C": "No correct answer"}),
        ("(A) one (B) two", {"A": "one", "B": "two"}),
        ("A.1 B.2 C.3", {"A": "1", "B": "2", "C": "3"}),
        ("A. 3.5  B. 4\nC. 5  D. 6", {"A": "3.5", "B": "4", "C": "5", "D": "6"}),
        ("A. 你好；B. 再见", {"A": "你好", "B": "再见"}),
        ("（A）一 （B）二", {"A": "一", "B": "二"}),
        ("A、一；B．二", {}),  # marks of two styles
        ("A．一 B.二；C．三", {"A": "一", "B": "二", "C": "三"}),  # of the same, in two widths
        ("A. Vitamin A. B. Vitamin B. C. none", {"A": "Vitamin A.", "B": "Vitamin B.", "C": "none"}),
        ("A. It is D. B. It is E.", {"A": "It is D.", "B": "It is E."}),
        ("A. John B. Hu\nB. George C. Wu\nC. no", {"A": "John B. Hu", "B": "George C. Wu", "C": "no"}),
        ("A. see B. below; B. none", {"A": "see B. below", "B": "none"}),
        ("A. Vitamin B. B. Vitamin C. C. none", {}),  # in four ways
        ("A. one; B. Vitamin C. yes", {}),  # two options or three
        ("A. one\nB. two\nB. three", {}),
        ("A. one B. two C.", {}),
        ("B. one C. two", {}),
        ("A. Lincoln", {}),
        (None, {}),
        ("", {}),
        ([], {}),
    ],
)
def test_forms_of_options(options, choices):
    assert choices_of(options) == choices


def test_pictures_stand_at_their_marks_else_first():
    image, word = {"type": "image"}, {"type": "text", "text": "a b"}
    assert chat(PromptFormat(), "a b", 1)[0]["content"] == [image, word]
    assert chat(PromptFormat(image_first=False), "a b", 1)[0]["content"] == [word, image]
    content = chat(PromptFormat(), "a <image1> b <image> c", 2)[0]["content"]
    assert [part["type"] for part in content] == ["text", "image", "text", "image", "text"]
    assert chat(PromptFormat(system="s"), "a", 0)[0] == {"role": "system", "content": "s"}
    for user_text, words in (("stripped", "a <image> b"), ("as_is", " a <image> b\n")):
        content = chat(replace(PromptFormat(), user_text=user_text), " a <image> b\n", 1)[0]["content"]
        assert content == [image, {"type": "text", "text": words}]


def test_templates_leave_other_braces_alone():
    assert fill_template(r"{question} in \boxed{}, {unknown}", {"question": "{x}"}) == r"{x} in \boxed{}, {unknown}"


def test_cells_of_pictures():
    buffer = io.BytesIO()
    draw({"drawing": "scene", "objects": ["cat"]}).save(buffer, "PNG")
    assert open_image(picture({"bytes": buffer.getvalue(), "path": None})).size == (224, 224)
    with pytest.raises(UserError, match="embedded bytes cannot be read"):
        open_image(b"no picture")
    assert picture({"bytes": None, "path": "a.png"}) == "a.png"
    assert picture("a.png") == "a.png"
    with pytest.raises(UserError, match="picture is missing"):
        picture(3)


# --- adapters --------------------------------------------------------------------------------------------------------


def test_dynamath_groups_the_variants_of_a_question():
    examples = load_benchmark(find_spec("dynamath"), "fixture").examples
    assert [e.group for e in examples] == ["0", "1"] * 3
    assert len({e.id for e in examples}) == 6


def test_we_math_keeps_a_problem_together_and_two_of_the_same_number_apart():
    examples = load_benchmark(find_spec("we_math"), "fixture").examples
    assert {e.group for e in examples} == {"2steps/1", "3steps/2"}
    assert [e.breakdown["key"] for e in examples if e.group == "2steps/1"] == ["2steps_1", "2steps_2", "2steps_multi"]
    row = fixture_rows(find_spec("we_math"))[0]
    rows = [row, {**row, "key": "3steps_1"}]
    adapted = ADAPTERS["we_math"](rows, find_spec("we_math"), AdapterContext("paper", True, Path()))
    assert [e.group for e in adapted.examples] == ["2steps/1", "3steps/1"]


@pytest.mark.parametrize(("name", "behind"), [("mathvision", "E. none"), ("mathvision@direct", "directly.")])
def test_mathvision_speaks_of_choices_only_where_there_are_options(name, behind):
    examples = load_benchmark(find_spec(name), "fixture").examples
    texts = [e.messages[-1]["content"][-1]["text"] for e in examples]
    assert ["\nChoices: A. " in text for text in texts] == [False, True, False, True]
    assert ["hoices" in text or "directly" in text for text in texts] == [False, True, False, True]
    assert texts[3].endswith(behind)


def test_scienceqa_counts_what_has_no_picture():
    assert load_benchmark(find_spec("scienceqa"), "fixture").left_out == {"no picture": 1}


def test_pictures_in_an_archive_are_read_in_memory_and_never_become_paths(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    draw({"drawing": "scene", "objects": ["cat"]}).save(buffer, "PNG")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("images/1.png", buffer.getvalue())
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **options: str(tmp_path / "images.zip"))
    images._archive.cache_clear()
    spec = find_spec("visulogic")
    row = {"id": "1", "question": "q", "image_path": "1.png", "label": "A", "tag": "t"}
    context = AdapterContext("paper", False, tmp_path)
    (example,) = ADAPTERS["visulogic"]([row], spec, context).examples
    assert open_image(example.images[0]).size == (224, 224)
    with pytest.raises(UserError, match="has no picture"):
        ADAPTERS["visulogic"]([{**row, "image_path": "../../etc/passwd"}], spec, context)
    images._archive.cache_clear()
