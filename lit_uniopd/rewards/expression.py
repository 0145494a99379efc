r"""The value of a number that is written as a formula: ``2\frac{1}{2}``, ``2\pi``, ``10^{-3}``, ``1.5 \times 10^6``.

A small grammar of its own: no text of a model is evaluated as a program, sizes are bounded, and no library has to be
loaded. What is not wholly a number (``x^2``, ``3 apples and 4``) has no value.
"""

import functools
import math
import re
from fractions import Fraction

from lit_uniopd.rewards.notation import ascii_notation, exact_decimals, without_emphasis, without_layout, without_stop
from lit_uniopd.rewards.units import split_unit

Value = Fraction | float
"""Exact where the number is rational, else the nearest double."""
MAX_CHARS = 300
_MAX_RELATIVE = 1e-3
_MAX_BITS = 4096
"""Of exact numbers; what is larger has no value."""
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,3}(?: \d{3})+(?! ?\d)|\d+)(?:\.\d*)?(?:[eE][-+]?\d{1,4})?"
    r"|\.\d+)"
    r"|(?P<name>\\(?:dfrac|tfrac|cfrac|frac|sqrt|pi|times|cdot|div|%|ln|exp|circ)(?![A-Za-z])|\bpi\b|\be\b|sqrt)"
    r"|(?P<sign>\*\*|[-+*/^!%(){}\[\]]))"
)
_COMMA_DECIMAL = re.compile(r"(-?\d{1,40}),(\d{1,2}|\d{4,40})")
_DIGITS = re.compile(r"\d+")
_PREFIX = re.compile(
    r"^(?:[A-Za-z](?:_\{?\w{1,8}\}?)?|\\text\{[^{}]{0,40}\})\s*(?:=|\\approx|:)\s*|^(?:=|\\approx|~)\s*"
)


@functools.lru_cache(maxsize=4096)
def evaluate(text: str) -> Value | None:
    r"""The value of a text that is one number, with or without a unit, a name (``x =``) and markup around it.

    Returns:
        None if it is anything else, undefined (1/0), or too large. A percentage is its face value: 50 for ``50\%``.
    """
    if len(text) > MAX_CHARS:
        return None
    formula = exact_decimals(without_layout(without_stop(without_emphasis(ascii_notation(text)))))
    formula = _PREFIX.sub("", formula.replace(r"\$", "").strip())
    if match := _COMMA_DECIMAL.fullmatch(formula):
        formula = f"{match[1]}.{match[2]}"
    value = _value(formula)
    if value is None:
        number, unit = split_unit(formula)
        value = _value(number) if unit is not None else None
    return value


def is_percentage(text: str) -> bool:
    """Whether a text is a number of per cent."""
    return re.search(r"(?:\\?[%％٪]|\bper\s?cent)\s*[$.。]?\s*$", text) is not None


def equal_values(first: Value, second: Value) -> bool:
    """Exactly equal if both are rational; else to within the rounding of doubles."""
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first == second
    return math.isclose(as_float(first), as_float(second), rel_tol=1e-12, abs_tol=1e-300)


def is_close(first: float, second: float, digits: int) -> bool:
    """Whether two numbers that agree to ``digits`` places are the same, also where both are rounded to nothing."""
    return abs(first - second) <= max(_MAX_RELATIVE, 10.0**-digits) * max(abs(first), abs(second))


def _value(formula: str) -> Value | None:
    tokens = _tokens(formula)
    if not tokens:
        return None
    parser = _Parser(tokens)
    try:
        value = parser.sum()
    except (_NoNumber, ArithmeticError, ValueError, RecursionError):
        return None
    if parser.token() is not None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def as_float(value: Value) -> float:
    """The nearest double; an infinity for exact numbers beyond all of them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _tokens(formula: str) -> list[tuple[str, int]] | None:
    """Tokens and where they begin; None if something else stands between them."""
    tokens, position = [], 0
    formula = formula.rstrip()
    while position < len(formula):
        match = _TOKEN.match(formula, position)
        if match is None:
            return None
        tokens.append((match[match.lastgroup or 0], match.start(match.lastgroup or 0)))
        position = match.end()
    return tokens


class _NoNumber(Exception):
    """The text is not a number."""


class _Parser:
    """Recursive descent over tokens: sums of products of signed powers; numbers side by side are no product."""

    def __init__(self, tokens: list[tuple[str, int]]) -> None:
        self.tokens, self.position, self.depth = tokens, 0, 0

    def token(self, ahead: int = 0) -> str | None:
        place = self.position + ahead
        return self.tokens[place][0] if place < len(self.tokens) else None

    def take(self, *expected: str) -> str | None:
        token = self.token()
        if token is None or token not in expected:
            return None
        self.position += 1
        return token

    def need(self, expected: str) -> None:
        if self.take(expected) is None:
            raise _NoNumber(expected)

    def sum(self) -> Value:
        self.depth += 1
        if self.depth > 40:
            raise _NoNumber("too deep")
        value = self.product()
        while sign := self.take("+", "-"):
            other = self.product()
            value = _small(value + other if sign == "+" else value - other)
        self.depth -= 1
        return value

    def product(self) -> Value:
        value = self.signed()
        while True:
            if self.take("*", r"\times", r"\cdot"):
                value = _small(value * self.signed())
            elif self.take("/", r"\div"):
                value = _small(_quotient(value, self.signed()))
            elif (token := self.token()) is not None and (token in _OPENING or _is_number(token)):
                if _is_number(token):  # "2 3" is no number, and no product
                    raise _NoNumber(token)
                value = _small(value * self.power())
            else:
                return value

    def signed(self) -> Value:
        if sign := self.take("+", "-"):
            value = self.signed()
            return -value if sign == "-" else value
        return self.power()

    def power(self) -> Value:
        value = self.mixed()
        while self.take("!"):
            value = _factorial(value)
        if self.take("^", "**"):
            self.depth += 1
            if self.depth > 40:
                raise _NoNumber("too deep")
            exponent = self.signed()
            self.depth -= 1
            value = _small(_power(value, exponent))
        while self.take(r"\%", "%"):
            pass
        return value

    def mixed(self) -> Value:
        r"""An atom, or a whole number with a fraction right behind it: ``2\frac{1}{2}``, ``2 1/2``."""
        token = self.token() or ""
        if _DIGITS.fullmatch(token):
            if self.token(1) in _FRACTIONS:
                self.position += 1
                start = self.position
                fraction = self.atom()
                plain = all(
                    t in "{}" or t in _FRACTIONS or _DIGITS.fullmatch(t) for t, _ in self.tokens[start : self.position]
                )
                if plain and 0 < fraction < 1:
                    return Fraction(token) + fraction
                return _small(Fraction(token) * fraction)
            numbers = [self.token(1) or "", self.token(2) or "", self.token(3) or ""]
            if numbers[1] == "/" and _DIGITS.fullmatch(numbers[0]) and _DIGITS.fullmatch(numbers[2]):
                if not 0 < int(numbers[0]) < int(numbers[2]):
                    raise _NoNumber("two numbers")
                self.position += 4
                return Fraction(token) + Fraction(int(numbers[0]), int(numbers[2]))
        return self.atom()

    def atom(self) -> Value:
        token = self.token()
        if token is None:
            raise _NoNumber("the end")
        self.position += 1
        if _is_number(token):
            return _number(token)
        if token in (r"\pi", "pi"):
            return math.pi
        if token == "e":
            return math.e
        if token in _FRACTIONS:
            top, bottom = self.argument(), self.argument()
            return _quotient(top, bottom)
        if token in (r"\sqrt", "sqrt"):
            return self.root()
        if token == r"\ln":
            return math.log(self.atom())
        if token in _CLOSING:
            value = self.sum()
            self.need(_CLOSING[token])
            return value
        raise _NoNumber(token)

    def argument(self) -> Value:
        r"""A group, or one digit: ``\frac12``."""
        token = self.token() or ""
        if _DIGITS.fullmatch(token) and len(token) > 1:
            text, start = self.tokens[self.position]
            self.tokens[self.position : self.position + 1] = [(text[0], start), (text[1:], start + 1)]
        return self.atom()

    def root(self) -> Value:
        index = Fraction(2)
        if self.take("["):
            degree = self.sum()
            self.need("]")
            if not isinstance(degree, Fraction) or degree.denominator != 1 or not 1 < degree <= 100:
                raise _NoNumber("a root")
            index = degree
        return _power(self.argument(), 1 / index)


_FRACTIONS = frozenset({r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"})
_CLOSING = {"(": ")", "{": "}", "[": "]"}
_OPENING = frozenset({"(", "{", "[", r"\pi", "pi", "e", r"\sqrt", "sqrt", r"\ln", *_FRACTIONS})


def _is_number(token: str) -> bool:
    return token[0].isdigit() or (token[0] == "." and len(token) > 1)


def _number(token: str) -> Fraction:
    digits = token.replace(",", "").replace(" ", "")
    mantissa, _, exponent = digits.lower().partition("e")
    if exponent and abs(int(exponent)) > 400:
        raise _NoNumber(token)
    return Fraction(mantissa.rstrip(".") or "0") * Fraction(10) ** int(exponent or "0")


def _small(value: Value) -> Value:
    if isinstance(value, Fraction) and max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise _NoNumber("too large")
    return value


def _quotient(first: Value, second: Value) -> Value:
    if second == 0:
        raise _NoNumber("a division by zero")
    return first / second


def _factorial(value: Value) -> Fraction:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 400:
        raise _NoNumber("a factorial")
    return _small(Fraction(math.factorial(int(value))))  # type: ignore[return-value]


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits * abs(exponent) > _MAX_BITS or (base == 0 and exponent <= 0):
                raise _NoNumber("too large")
            return base ** int(exponent)
        if base >= 0 and exponent.denominator <= 100 and abs(exponent.numerator) <= 100:
            root = _exact_root(base, exponent.denominator)
            if root is not None:
                return _power(root, Fraction(exponent.numerator))
        elif base < 0 and exponent.denominator % 2:
            return -_power(-base, exponent) if exponent.numerator % 2 else _power(-base, exponent)
    result = float(base) ** float(exponent)
    if isinstance(result, complex):
        raise _NoNumber("no real number")
    return result


def _exact_root(base: Fraction, degree: int) -> Fraction | None:
    roots = []
    for part in (base.numerator, base.denominator):
        if part.bit_length() > 1000:
            return None
        guess = round(part ** (1 / degree))
        roots.append(guess)
        if guess**degree != part:
            return None
    return Fraction(roots[0], roots[1])
