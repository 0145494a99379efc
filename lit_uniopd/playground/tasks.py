"""Two procedural domains whose answers can be checked: arithmetic modulo 5, and programs that rearrange letters.

    math   M3-4+1%=     ->  3-4=4,4+1=0        one step per operation, results modulo 5
    code   CRS:abcd=    ->  R=dcba,S=acbd...   one step per letter of the program

A prompt has one to four steps, is answered step by step, and graded on the last result only.
"""

import hashlib
import random
from collections.abc import Callable
from typing import Literal

Domain = Literal["math", "code"]
Split = Literal["train", "stopping", "heldout"]

DOMAINS: tuple[Domain, ...] = ("math", "code")
MODULUS = 5
LETTERS = "abcdefgh"
PROGRAM: dict[str, tuple[int, ...]] = {"R": (3, 2, 1, 0), "L": (1, 2, 3, 0), "S": (3, 1, 2, 0)}
"""Reverse, rotate left, swap the ends: where each letter of the result comes from."""
CONFUSED = {"-": "+", "S": "R", "L": "R"}
"""What a careless solver does instead."""

Careless = Callable[[], bool]
"""Decides, step by step, whether the solver confuses the operator."""


def never() -> bool:
    """The careful solver."""
    return False


def split_of(prompt: str) -> Split:
    """Training, stopping and held-out prompts are disjoint by the hash of their text: 6/8, 1/8, 1/8 of all prompts."""
    eighth = hashlib.blake2b(prompt.encode(), digest_size=4).digest()[0] % 8
    return "heldout" if eighth == 0 else "stopping" if eighth == 1 else "train"


def draw_prompt(rng: random.Random, domain: Domain, steps: int, split: Split) -> str:
    """A prompt of one split."""
    while True:
        if domain == "math":
            # Subtraction, the operator that can be confused, comes twice as often; never of 0, which confuses nothing.
            terms = "".join(rng.choice("+--") + str(rng.randrange(1, MODULUS)) for _ in range(steps))
            prompt = f"M{rng.randrange(MODULUS)}{terms}%="
        else:
            program = "".join(rng.choice("RLS") for _ in range(steps))
            prompt = f"C{program}:{''.join(rng.sample(LETTERS, 4))}="
        if split_of(prompt) == split:
            return prompt


def distinct_prompts(
    seed: int | str, domain: Domain, split: Split, count: int, steps: tuple[int, int] = (1, 4)
) -> list[str]:
    """``count`` different prompts of ``steps`` (fewest, most) steps, spread evenly as far as there are short ones."""
    rng, prompts = random.Random(f"{seed} {domain} {split}"), dict[str, None]()
    fewest, most = steps
    sizes = most - fewest + 1
    for attempt in range(1000 * count):
        if len(prompts) == count:
            break
        length = fewest + attempt % sizes if attempt < sizes * count else rng.randint(most - 1, most)
        prompts[draw_prompt(rng, domain, length, split)] = None
    return list(prompts)


def solve(prompt: str, careless: Careless = never) -> str:
    """The answer, step by step.

    Args:
        prompt: of either domain.
        careless: asked at each step whether to confuse the operator (``CONFUSED``).
    """
    return ",".join(step for step, _ in _steps(prompt, careless))


def result(prompt: str) -> str:
    """The last result: what an answer is graded on."""
    *_, (_, value) = _steps(prompt, never)
    return value


def last_result(answer: str) -> str:
    """What stands behind the last step of an answer."""
    return answer.rpartition("=")[2]


def _steps(prompt: str, careless: Careless) -> list[tuple[str, str]]:
    """(text, result) of every step."""
    steps: list[tuple[str, str]] = []
    for operator, operand, value in _operations(prompt):
        before = steps[-1][1] if steps else value
        applied = CONFUSED.get(operator, operator) if careless() else operator
        after = _apply(applied, before, operand)
        steps.append((f"{before}{operator}{operand}={after}" if operand else f"{operator}={after}", after))
    return steps


def _operations(prompt: str) -> list[tuple[str, str, str]]:
    """(operator, operand, first value); programs have no operands."""
    if prompt.startswith("M"):
        body = prompt[1:-2]
        return [(body[i], body[i + 1], body[0]) for i in range(1, len(body), 2)]
    program, letters = prompt[1:-1].split(":")
    return [(operator, "", letters) for operator in program]


def _apply(operator: str, value: str, operand: str) -> str:
    if operator in PROGRAM:
        return "".join(value[i] for i in PROGRAM[operator])
    sign = 1 if operator == "+" else -1
    return str((int(value) + sign * int(operand)) % MODULUS)


def follows_a_rule(prompt: str, answer: str) -> bool:
    """Whether every step is right, or confused exactly as ``CONFUSED`` says: the student's initial skill."""
    steps = answer.split(",")
    operations = _operations(prompt)
    if len(steps) != len(operations):
        return False
    before = operations[0][2]
    for step, (operator, operand, _) in zip(steps, operations, strict=True):
        allowed = {_apply(applied, before, operand) for applied in {operator, CONFUSED.get(operator, operator)}}
        head, _, after = step.rpartition("=")
        if head != (f"{before}{operator}{operand}" if operand else operator) or after not in allowed:
            return False
        before = after
    return True
