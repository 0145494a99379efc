import pytest

from lit_uniopd.rewards import GRADERS
from lit_uniopd.rewards.exact import stated_answer
from lit_uniopd.rewards.text import last_box, strip_reasoning, strip_thinking


@pytest.mark.parametrize(
    ("response", "visible"),
    [
        ("a", "a"),
        ("<think>a</think>b", "b"),
        ("a<think>b</think>c<think>d</think>e", "ace"),
        ("a</think>b", "b"),  # opened by the prompt's template
        ("<think>a<think>b</think>c", "c"),  # quoted inside the block
        ("<think>a</think>b</think>c", "c"),
        ("<think>a", None),
        ("a<think>b</think>c<think>d", None),
        ("<thinking>a</thinking>", "<thinking>a</thinking>"),
    ],
)
def test_strip_thinking(response, visible):
    assert strip_thinking(response) == visible


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{a{b}c}d", "a{b}c"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),  # an escaped brace needs no partner
        (r"\boxed{a \\}", r"a \\"),  # a line break escapes nothing
        (r"\fbox{1} \boxed{2}", "2"),
        (r"\boxed{1} \fbox{2}", "2"),
        (r"\boxedx{1}", None),
        ("{1}", None),
        (r"\boxed{" + "{" * 3 + "1}}", None),
        ("\\boxed{1\n2}", "1\n2"),
    ],
)
def test_last_box(text, box):
    assert last_box(text) == box


@pytest.mark.parametrize(
    ("gold", "response", "correct", "reason"),
    [
        ("B", " B\n", True, "ok"),
        ("B", "b", False, "wrong"),
        ("B", "The answer is B", False, "wrong"),
        (" B ", "B", True, "ok"),
        (7, "7", True, "ok"),
        (25.0, "25", True, "ok"),  # missing values turn a column of integers into floats
        ("B", "<think>A</think>\nB", True, "ok"),
        ("B", "<think>B", False, "truncated"),
        ("B", "  ", False, "no_answer"),
        (None, "B", None, "no_gold"),
    ],
)
def test_exact(gold, response, correct, reason):
    grade = GRADERS["exact"](gold, response)
    assert (grade.correct, grade.reason) == (correct, reason)


@pytest.mark.parametrize(
    ("gold", "response", "robust", "protocol"),
    [
        ("Paris", "Paris", True, True),
        ("Paris", "Paris.", True, False),
        ("Paris", " **Paris** ", True, False),
        ("Paris", '"Paris"', True, False),
        ("Paris", "“Paris.”", True, False),
        ("Paris", "<answer>Paris</answer>", True, False),
        ("Paris", r"It is \boxed{Paris}", True, False),
        ("Paris.", "Paris", True, False),
        ("New York", "New  York", True, False),
        ("New York", "New\nYork", True, False),
        ("北京", "北京。", True, False),
        ("दिल्ली", "दिल्ली।", True, False),
        ("A1", "Ａ１", True, False),
        ("etc...", "etc", False, False),
        ("Paris", "paris", False, False),
        ("Paris", "Not Paris", False, False),
        ("Paris", "Paris, France", False, False),
        ("Paris", "Parıs", False, False),
        ("-5", "5", False, False),
        ("3.5", "3,5", False, False),
        ("Paris", "<thinking>Rome</thinking>Paris", True, False),
    ],
)
def test_exact_normalises_what_it_says(gold, response, robust, protocol):
    assert GRADERS["exact"](gold, response).correct is robust
    assert GRADERS["exact"](gold, response, extraction="protocol").correct is protocol


def test_exact_may_ignore_case():
    assert GRADERS["exact"]("Paris", "PARIS.", ignore_case=True).correct
    assert GRADERS["exact"]("Paris", "Rome", ignore_case=True).correct is False
    assert GRADERS["exact"]("Paris", ".").reason == "no_answer"


@pytest.mark.parametrize(
    ("response", "visible"),
    [
        ("<think>a</think>b", "b"),
        ("[THINK]a[/THINK]b", "b"),
        ("◁think▷a◁/think▷b", "b"),
        ("<seed:think>a</seed:think>b", "b"),
        ("<|channel>thought\na\n<channel|>b", "b"),
        ("<|channel>thought\n<channel|>b", "b"),
        ("a◁/think▷b", "b"),
        ("[THINK]a", None),
        ("◁think▷a", None),
        ("<seed:think>a", None),
        ("<|channel>thought\na", None),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>", "b"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", "b"),
        ("<|channel|>final<|message|>b", "b"),
        ("<|channel|>commentary to=f<|message|>a<|call|><|channel|>final<|message|>b", "b"),
        ("<|channel|>analysis<|message|>a", None),
        ("<|channel|>analysis<|message|>a<|end|>", None),
        ("analysisWe count.assistantfinalb", "b"),
        ("analysisWe count.", None),
        ("analysis of the figure: b", "analysis of the figure: b"),
        ("[think] b", "[think] b"),
        ("a <thinking>b</thinking>c", "a c"),
        ("<Reflection>b</Reflection>c", "c"),
        ("<thinking>b", None),
    ],
)
def test_strip_reasoning_knows_every_family(response, visible):
    assert strip_reasoning(response) == visible


def test_made_up_tags_inside_a_line_are_text_where_programs_are_read():
    code = "print('<analysis>')"
    assert strip_reasoning(code, inline=False) == code
    assert strip_reasoning("  <analysis>\na\n</analysis>b", inline=False) == "  b"
    assert strip_reasoning(code) is None


@pytest.mark.parametrize(
    "response", ["<|begin_of_box|>Canberra<|end_of_box|>", "[THINK]Sydney?[/THINK]Canberra", "<final>Canberra</final>"]
)
def test_exact_reads_the_markup_of_models(response):
    assert GRADERS["exact"]("Canberra", response).correct
    assert not GRADERS["exact"]("Canberra", response, extraction="protocol").correct


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Canberra", "Canberra"),
        ("It is not Sydney.\n\n**Final Answer:** Canberra", "Canberra"),
        ("Answer: Sydney\nWait.\nAnswer: Canberra", "Canberra"),
        ("So the answer is Canberra.", "Canberra."),
        ("答案：堪培拉", "堪培拉"),
        ("Answer: Sydney <answer>Canberra</answer>", "Canberra"),
        ("Every answer is welcome", "Every answer is welcome"),
        ("The answers are below", "The answers are below"),
    ],
)
def test_where_a_response_states_its_answer(text, answer):
    assert stated_answer(text) == answer
