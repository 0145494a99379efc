import time

import pytest

from lit_uniopd.rewards.definitions import before_definition
from lit_uniopd.rewards.program import extract_program

DRAFT, FINAL = "x = 'draft'\n", "def f(x):\n    return x\n"


def block(code, tag="python", fence="```"):
    return f"{fence}{tag}\n{code}{fence}\n"


@pytest.mark.parametrize(
    "response",
    [
        block(FINAL),
        block(FINAL, tag=""),
        block(FINAL, tag="Python"),
        block(FINAL, tag="python3"),
        block(FINAL, tag="py"),
        block(FINAL, tag=" python "),
        block(FINAL, tag='python title="a.py"'),
        block(FINAL, tag="{.python}"),
        block(FINAL, tag="text"),
        block(FINAL, fence="~~~"),
        block(FINAL, fence="````"),
        block(FINAL, fence="~~~~~"),
        f"Thinking.\n\n{block(FINAL)}\nThat is all.",
        block(DRAFT) + "No, better:\n" + block(FINAL),
        block(FINAL) + block("pip install x\n", "bash"),
        block(FINAL) + block("5\n", "output") + "done",
        block(FINAL) + block("5\n", ""),
        block("5\n", "") + block(FINAL),
        block(DRAFT, "") + block(FINAL, "") + block("5\n", "text"),
        block(FINAL) + block("  \n"),
        block(DRAFT) + block(FINAL) + "```python\nx = (",
        "```python\n" + FINAL,
        block(FINAL, "text") + block("", "python"),
        block("1 2 3\n", "text") + "```python\n" + FINAL,
        "```python\n" + DRAFT + "\nWait, no.\n\n" + block(FINAL),
        "Here it is: ```python\n" + FINAL + "```",
        "```python\n" + FINAL[:-1] + "```",
        "1. First:\n\n   ```python\n   def f(x):\n       return x\n   ```\n",
        block(FINAL).replace("\n", "\r\n"),
        block(block(FINAL), "markdown", "````"),
        block(block(FINAL), "", "````"),
        "\t```python\n\tdef f(x):\n\t    return x\n\t```\n",
        f"<think>\n{block(DRAFT)}</think>\n{block(FINAL)}",
        f"{block(DRAFT)}</think>{block(FINAL)}",
        f"<think>{block(DRAFT)}</think>{FINAL}",
        FINAL,
        FINAL + "```",
        "The solution:\n\n" + FINAL,
        "from the start, we see that\nimport is not needed.\n" + FINAL,
        "def f(x):\n    return\nWait, that is wrong.\n\n" + FINAL,
    ],
)
def test_the_program_is_found(response):
    assert extract_program(response) == FINAL


@pytest.mark.parametrize(
    "start",
    [
        "def f():\n    pass",
        "class A:\n    pass",
        "import os",
        "from os import path",
        "@f\ndef g():\n    pass",
        "async def f():\n    pass",
    ],
)
def test_unfenced_code_begins_with_a_definition_or_an_import(start):
    assert extract_program(f"It is:\n{start}\nx = 1\n\n") == f"{start}\nx = 1\n"


@pytest.mark.parametrize(
    "response",
    [
        "",
        "   \n",
        "I cannot do that.",
        "print(1)",
        "Use def f(x): to begin.",
        "def f(x) returns x",
        "def f(x):\n    return x\nThat is all there is to it.",
        "```python\n```",
        "```python\ndef f(x",
        "```\n\n```",
        "`x = 1`",
        "<think>\n" + block(FINAL),
        "Use ```x``` here",
    ],
)
def test_there_is_no_program(response):
    assert extract_program(response) is None


@pytest.mark.parametrize(
    "response",
    [
        block(FINAL) + block("print(f(1))\n"),
        block(FINAL) + block("from solution import f\nassert f(1) == 1\n"),
        block(FINAL) + block("result = f(2)\nf = f(3)\n"),
        block(DRAFT.replace("x", "f")) + block(FINAL) + block("f(1)\n", ""),
        block(FINAL, "") + block("print(f(1))\n"),
        block("def f(x):\n    return -x\n") + block(FINAL),
        block(FINAL + "assert f(2) == 3\nprint(f(int(input())))\n"),
        "```python " + FINAL + "```",
        f"[PYTHON]\n{FINAL}[/PYTHON]",
        f"[BEGIN]\n{FINAL}[DONE]",
        f"<code>\n{FINAL}</code>",
        f"<answer>\n{FINAL}</answer>",
        f"Sure:\n\n{FINAL}\nThat is all. It's done.",
        f"{FINAL}\n**Explanation**: 1. It returns x.\n\nExample:\n>>> f(1)\n1",
    ],
)
def test_the_block_that_defines_the_function_is_the_program(response):
    program = extract_program(response, "f")
    assert program is not None
    assert program.strip() == FINAL.strip()


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("```python def f(x): return x ```", "def f(x): return x\n"),
        ("It is ```def f(x): return x```.", "def f(x): return x\n"),
        ("[BEGIN] def f(x): return x [DONE]", "def f(x): return x \n"),
        (block("def g(x):\n    return x\n") + block("def f(x):\n    return g(x)\n"), "def g(x):\n    return x\ndef f(x):\n    return g(x)\n"),
        (
            block("from __future__ import annotations\ndef f(x: List):\n    return x\n") + block("from typing import List\n"),
            "from __future__ import annotations\nfrom typing import List\n\ndef f(x: List):\n    return x\n",
        ),
        (block("from math import *\n") + block("def f(x):\n    return gcd(x, 2)\n"), "from math import *\ndef f(x):\n    return gcd(x, 2)\n"),
        (block("class Solution:\n    def f(self, x):\n        return x\nprint(Solution().f(1))\n"), "class Solution:\n    def f(self, x):\n        return x\n"),
        (block("def g(x):\n    return x\n"), "def g(x):\n    return x\n"),
        (block("f = lambda x: x\nprint(f(1)); import os\n"), "f = lambda x: x\nprint(f(1)); import os\n"),
        ("Use ```x``` here", None),
    ],
)  # fmt: skip
def test_programs_of_several_pieces(response, program):
    assert extract_program(response, "f") == program


def test_what_the_prompt_gives_stands_before_its_function():
    prompt = "import math\n\ndef poly(x):\n    return x\n\n@cache\ndef f(x):\n    pass\n"
    assert before_definition(prompt, "f") == "import math\n\ndef poly(x):\n    return x"
    assert before_definition(prompt, "g") == before_definition("def f(", "f") == ""


@pytest.mark.parametrize(
    "unit",
    [
        "a=b\n",
        "f=a\n",
        "a0=a1;a1=a2\n",
        "def f(): a\n",
        "f(a)\n",
        "```\n```python\n",
        "```python x```",
        "[BEGIN]\n",
        "f\n.\n",
    ],
)
@pytest.mark.thinned(3)
def test_hostile_programs_are_searched_in_linear_time(unit):
    start = time.perf_counter()
    extract_program("```python\ndef f(x):\n    return a\n" + unit * (40_000 // len(unit)), "f")
    extract_program("def f(x):\n    return a\n" + unit * (40_000 // len(unit)), "f")
    extract_program("```python\ndef f(x):\n    return a\n" + unit * (1_000_000 // len(unit)), "f")
    assert time.perf_counter() - start < 60.0  # quadratic time would take hours


def test_fences_inside_a_program_stay():
    code = 'def f(x):\n    """Doubles.\n\n    ```\n    f(1)\n    ```\n    """\n    return 2 * x\n'
    assert extract_program(block(code)) == code
    code = 's = """\n```\n"""\n'
    assert extract_program(block(code, fence="````")) == code
    assert extract_program(block(code, fence="~~~")) == code


@pytest.mark.parametrize("before", ["", "def f():\n    return ", "```python\n", "import x\n", "def f():\n    '''"])
@pytest.mark.parametrize(
    "unit",
    ["-", "not ", "lambda:", "a.", "1+", "1**", "(", "[", "{", "f(", "x if x else ", "x=", "'a'", "if x:\n", "@a\n",
     "def f(:\n", "import a\n?\n", "class A:\n x=(\n", '"""\n', "f'{", "\\", "{'a':", "``` ", "```\n", "`", "~", "```python\n",
     "x```", "\n", " ", "```markdown\n", "\x00", "\ud800", "<think>", "</think>", "def f():\n    '\\d'\n"],
)  # fmt: skip
@pytest.mark.thinned(3)
def test_hostile_text_takes_linear_time(before, unit):
    start = time.perf_counter()
    extract_program(before + unit * (100_000 // len(unit)))
    assert time.perf_counter() - start < 5.0


@pytest.mark.parametrize(
    "response",
    [
        "<thinking>\n```python\nx = 0\n```\n</thinking>\n```python\nx = 1\n```",
        "```python\nx = 1\n```\n<reflection>\n```python\nx = 0\n```\n</reflection>",
        "[THINK]```python\nx = 0\n```[/THINK]```python\nx = 1\n```",
        "<|channel|>analysis<|message|>```python\nx = 0\n```<|end|><|start|>assistant<|channel|>final<|message|>"
        "```python\nx = 1\n```<|return|>",
    ],
)
def test_programs_in_reasoning_are_drafts(response):
    assert extract_program(response) == "x = 1\n"


def test_tags_in_a_program_are_its_own():
    code = "import re\nf = lambda s: re.sub('<thought>.*', '', s)\n"
    assert extract_program(f"```python\n{code}```") == code
