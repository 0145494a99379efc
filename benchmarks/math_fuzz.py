r"""Equal and unequal pairs of expressions, judged by the grader of mathematics and by sympy.

    python benchmarks/math_fuzz.py --pairs 3000 --seed 0

Each pair is drawn as sympy expressions and written as LaTeX in several notations. The unequal ones are slips: a sign, a
coefficient, an exponent, a factorial, a digit far behind the point, a letter that could be a unit. Which pairs are
equal is decided by sympy (exact difference, else 80 digits at three points), not by how they were made. A false
positive (an unequal pair graded right) ends the script with status 1.
"""

import argparse
import random
from collections import Counter
from typing import Any

import sympy

from lit_uniopd.rewards import GradeItem, GraderPool

X, Y, T, M, C = sympy.symbols("x y t m c")
POINTS = ((3, 7), (5, 11), (13, 17))


def number(rng: random.Random) -> Any:
    """A rational, a root, a power or a multiple of pi."""
    small, large = rng.randint(1, 12), rng.randint(2, 40)
    return rng.choice(
        [
            sympy.Integer(small * rng.choice([-1, 1])),
            sympy.Rational(small, large),
            sympy.sqrt(large) * small,
            sympy.pi * sympy.Rational(small, 3),
            sympy.Integer(large) ** small,
            1 - sympy.Rational(1, 2 ** (large + 30)),
            sympy.Rational(sympy.factorial(small), sympy.factorial(large)),
            sympy.E**small,
            sympy.log(large),
            sympy.sqrt(2) + sympy.Rational(1, 10 ** (large + 10)),
            sympy.binomial(large, min(small, large)),
        ]
    )


def polynomial(rng: random.Random) -> Any:
    """A polynomial or a quotient in up to two letters, some of which name units."""
    first, second = rng.sample([X, Y, T, M, C], 2)
    a, b, n = rng.randint(1, 9), rng.randint(1, 9), rng.randint(2, 4)
    return rng.choice(
        [
            a * first + b * second,
            (first + a) * (first - b),
            (first + second) ** n,
            a * first**n + number(rng),
            (first + a) / (second + b),
            sympy.sqrt(first**2 + a) * b,
            sympy.sin(first) * a + sympy.cos(second),
            a * first,
        ]
    )


def slip(expression: Any, rng: random.Random) -> Any:
    """Almost the same expression."""
    tiny = sympy.Rational(1, 10 ** rng.randint(8, 40))
    letter = rng.choice([X, Y, T, M, C])
    return rng.choice(
        [
            -expression,
            expression + 1,
            expression + tiny,
            expression * (1 + tiny),
            expression * 2,
            expression**2,
            expression * letter,
            expression / 3,
            expression.subs(X, Y) + rng.choice([0, 1]),
            expression.xreplace({T: C, M: T}),
        ]
    )


def rewritten(expression: Any, rng: random.Random) -> Any:
    """The same expression in another form."""
    form = rng.choice([sympy.expand, sympy.factor, sympy.together, sympy.simplify, lambda e: e, sympy.nsimplify])
    try:
        return form(expression)
    except (NotImplementedError, TypeError, ValueError):
        return expression


def latex(expression: Any, rng: random.Random) -> str:
    """One of the notations in which models write."""
    text = sympy.latex(expression, fold_short_frac=rng.random() < 0.2, mul_symbol=rng.choice([None, "dot", "times"]))
    if rng.random() < 0.2:
        text = text.replace(r"\frac", r"\dfrac")
    if rng.random() < 0.1:
        text = text.replace("-", "\u2212")
    if rng.random() < 0.1 and not text.endswith("!"):
        text += "."
    return text


def truly_equal(first: Any, second: Any) -> bool | None:
    """What sympy says; None if it cannot tell."""
    difference = first - second
    symbols = sorted(difference.free_symbols, key=str)
    if isinstance(difference, sympy.Rational):
        return bool(difference == 0)
    for point in POINTS:
        values = {symbol: sympy.Rational(point[0] + place, point[1]) for place, symbol in enumerate(symbols)}
        value = difference.subs(values)
        digits = value.evalf(80, maxn=400)
        if not digits.is_number or digits.has(sympy.nan, sympy.zoo):
            return None
        if abs(digits) > sympy.Float(10) ** -60:
            return False
    return True


def pairs(count: int, seed: int) -> list[tuple[str, str, bool]]:
    """Gold, answer, and whether they are equal; half of each kind by their making."""
    rng = random.Random(seed)
    result: list[tuple[str, str, bool]] = []
    while len(result) < count:
        gold = (number if rng.random() < 0.5 else polynomial)(rng)
        answer = rewritten(gold, rng) if rng.random() < 0.5 else slip(gold, rng)
        equal = truly_equal(gold, answer)
        texts = latex(gold, rng), latex(answer, rng)
        if equal is not None and max(map(len, texts)) <= 200:
            result.append((*texts, equal))
    return result


def main() -> None:
    """Print the confusion matrix and every false positive."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--time-limit", type=float, default=30.0)
    arguments = parser.parse_args()
    cases = pairs(arguments.pairs, arguments.seed)
    with GraderPool(arguments.workers, arguments.time_limit) as pool:
        grades = pool.grade([GradeItem("math", gold, rf"\boxed{{{answer}}}") for gold, answer, _ in cases])
    table: Counter[tuple[str, str]] = Counter()
    wrong = []
    for (gold, answer, equal), grade in zip(cases, grades, strict=True):
        table[("equal" if equal else "unequal", grade.reason)] += 1
        if grade.correct and not equal:
            wrong.append((gold, answer))
    print(f"{len(cases)} pairs, seed {arguments.seed}")
    for (kind, reason), count in sorted(table.items()):
        print(f"{kind:8} graded {reason:10} {count}")
    print(f"false positives: {len(wrong)}")
    for gold, answer in wrong:
        print(f"  {gold}   {answer}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
