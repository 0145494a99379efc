"""A veto on equal expressions: what differs in 150 digits is not equal, whatever 15 digits say. Imports sympy."""

from typing import Any

import sympy

from lit_uniopd.rewards.expression import is_close

_NOISE = sympy.Float(10) ** -150
"""Relative difference below which numbers are equal; sympy works with up to 400 digits to find it."""
_POINTS = (
    sympy.Rational(7, 13),
    sympy.Rational(31, 11),
    sympy.Rational(101, 17),
    sympy.Rational(-17, 23),
    sympy.Rational(3, 97),
)
"""Where expressions with variables are compared; a variable's place in the alphabet shifts them."""


def may_be_equal(first: Any, second: Any, digits: int) -> bool:
    """Whether nothing shows that two parsed answers differ.

    Args:
        first: what math-verify has parsed: expressions, sets, tuples, relations, text.
        second: likewise.
        digits: decimal places to which decimals are compared.

    Returns:
        False only for numbers, or expressions at common points, that differ; True where this cannot tell.
    """
    try:
        return _may_be_equal(first, second, digits)
    except (TypeError, ValueError, AttributeError, ArithmeticError, NotImplementedError):
        return True


def _may_be_equal(first: Any, second: Any, digits: int) -> bool:
    if isinstance(first, sympy.Eq) and not isinstance(second, sympy.Eq):
        first = first.rhs
    if isinstance(second, sympy.Eq) and not isinstance(first, sympy.Eq):
        second = second.rhs
    if isinstance(first, sympy.Interval) and isinstance(second, sympy.Interval):
        return _may_be_equal(first.start, second.start, digits) and _may_be_equal(first.end, second.end, digits)
    collections = (sympy.FiniteSet, sympy.Tuple)
    if isinstance(first, collections) and isinstance(second, collections):
        if len(first.args) != len(second.args):
            return True
        if isinstance(first, sympy.Tuple) and isinstance(second, sympy.Tuple):
            return all(_may_be_equal(a, b, digits) for a, b in zip(first.args, second.args, strict=True))
        return all(any(_may_be_equal(a, b, digits) for b in second.args) for a in first.args)
    if not isinstance(first, sympy.Expr) or not isinstance(second, sympy.Expr):
        return True
    rounded = first.has(sympy.Float) or second.has(sympy.Float)
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    if not symbols:
        return _same_number(_exact(first), _exact(second), digits if rounded else None)
    if len(first.free_symbols ^ second.free_symbols) and not (first - second).has(*symbols):
        return True
    compared = 0
    for shift in range(len(_POINTS)):
        values = {symbol: _POINTS[(place * 2 + shift) % len(_POINTS)] + place for place, symbol in enumerate(symbols)}
        a, b = _exact(first).subs(values), _exact(second).subs(values)
        if a.is_finite is False or b.is_finite is False or a.has(sympy.nan) or b.has(sympy.nan):
            continue
        compared += 1
        if not _same_number(a, b, digits if rounded else None):
            return False
    return True


def _exact(expression: Any) -> Any:
    return expression.doit()


def _same_number(first: Any, second: Any, digits: int | None) -> bool:
    if first == second:
        return True
    if isinstance(first, sympy.Rational) and isinstance(second, sympy.Rational):
        return _is_percentage_of(first, second)
    a, b = first.evalf(), second.evalf()
    if digits is not None:
        x, y = complex(a), complex(b)
        return is_close(x.real, y.real, digits) and abs(x.imag - y.imag) <= 1e-6
    difference, size = abs((first - second).evalf(15, maxn=400)), max(abs(a), abs(b))
    if not difference.is_number or difference.is_comparable is False:
        return True
    return bool(difference <= size * _NOISE)


def _is_percentage_of(first: Any, second: Any) -> bool:
    return first == second * 100 or second == first * 100
