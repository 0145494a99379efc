"""Values of formulas, against arithmetic by hand."""

import math
from fractions import Fraction

import pytest

from lit_uniopd.rewards.expression import equal_values, evaluate
from lit_uniopd.rewards.notation import ascii_notation, exact_decimals, without_emphasis, without_stop
from lit_uniopd.rewards.units import canonical_unit, split_unit

VALUES = [
    ("7", Fraction(7)),
    ("-2 1/2", Fraction(-5, 2)),
    (r"2\frac{1}{2}", Fraction(5, 2)),
    (r"2\frac{3}{2}", Fraction(3)),  # no mixed number: a product
    (r"\frac12", Fraction(1, 2)),
    (r"\dfrac{2+1}{4}", Fraction(3, 4)),
    ("½", Fraction(1, 2)),
    ("3½", Fraction(7, 2)),
    ("10^{-3}", Fraction(1, 1000)),
    (r"1.5 \times 10^{6}", Fraction(1_500_000)),
    ("1e6", Fraction(1_000_000)),
    ("2³", Fraction(8)),
    ("(2+3)*4", Fraction(20)),
    ("2(3)", Fraction(6)),
    ("5!", Fraction(120)),
    ("20!/40!", Fraction(math.factorial(20), math.factorial(40))),
    (r"1-\frac{1}{2^{60}}", 1 - Fraction(1, 2**60)),
    (r"0.\overline{3}", Fraction(1, 3)),
    ("0.1(6)", Fraction(1, 6)),
    (r"0.\dot{1}4285\dot{7}", Fraction(1, 7)),
    ("0.333...", Fraction(1, 3)),
    ("0.1666…", Fraction(1, 6)),
    (r"\sqrt{16}", Fraction(4)),
    (r"\sqrt[3]{\frac{8}{27}}", Fraction(2, 3)),
    ("(-8)^{1/3}", Fraction(-2)),
    ("1,234,567", Fraction(1_234_567)),
    ("1 000", Fraction(1000)),
    ("1000,99", Fraction(100_099, 100)),
    (r"10{,}000", Fraction(10_000)),
    ("４２。", Fraction(42)),
    ("٤٢", Fraction(42)),
    ("−5", Fraction(-5)),
    (r"\$1,234.50", Fraction(123_450, 100)),
    ("x = 7", Fraction(7)),
    (r"\text{12}", Fraction(12)),
    (r"108^\circ", Fraction(108)),
    ("12 km per hour", Fraction(12)),
    (r"50\%", Fraction(50)),
    (r"2\pi", 2 * math.pi),
    ("√2", math.sqrt(2)),
    (r"2\sqrt{3}", 2 * math.sqrt(3)),
    (r"e^2", math.e**2),
]
NO_VALUES = [
    "",
    "x^2",
    "2x",
    "3t",
    "2 3",
    "1/0",
    "0^0",
    "9^9^9^9",
    "(400!)!",
    "3 apples and 4",
    "3 or 5",
    "1.2.3",
    "1:2",
]
NO_VALUES += [
    "m/s",
    "yes",
    "(((1",
    "-",
    "(" * 150 + "1" + ")" * 150,
    "2_3",
    r"\frac{1}",
    "(-1)^{1/2}",
    "1,2,3",
    "10^400000",
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_value(text, value):
    result = evaluate(text)
    assert type(result) is type(value)
    assert result == pytest.approx(value) if isinstance(value, float) else result == value


@pytest.mark.parametrize("text", NO_VALUES)
def test_what_is_no_number_has_no_value(text):
    assert evaluate(text) is None


def test_exact_numbers_are_compared_exactly_and_others_as_doubles():
    assert not equal_values(1 - Fraction(1, 2**60), 1 - Fraction(1, 2**61))
    assert equal_values(math.sqrt(2) / 2, 1 / math.sqrt(2))
    assert not equal_values(Fraction(10) ** 400, math.pi)


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("5 cm", "5", "cm"),
        (r"5\text{ cm}", "5", "cm"),
        ("5 centimetres", "5", "cm"),
        ("25 cm^2", "25", "cm^2"),
        ("25 square centimeters", "25", "cm^2"),
        ("40 km/h", "40", "h^-1 km"),
        ("40 kilometers per hour", "40", "h^-1 km"),
        ("5 mph", "5", "h^-1 mi"),
        (r"9.8\ \mathrm{m/s^2}".replace("\\ ", " "), "9.8", "m s^-2"),
        ("27 dollars", "27", "dollar"),
        ("12 red apples", "12", ""),
        ("5 米", "5", "m"),
        ("108^\\circ", "108", "degree"),
        ("30^\\circ C", "30", "c"),
        ("3t", "3t", None),
        ("2x", "2x", None),
        ("x", "x", None),
        ("3 or 5", "3 or 5", None),
    ],
)
def test_units(text, number, unit):
    assert split_unit(text) == (number, unit)


def test_units_of_one_name_are_equal_and_others_are_not():
    assert canonical_unit("m/s") == canonical_unit("meters per second") != canonical_unit("km/h")
    assert canonical_unit("cm") != canonical_unit("cm^2")
    assert canonical_unit("widgets") == ""


@pytest.mark.parametrize(
    ("text", "ascii_text"),
    [
        ("Ａ１", "A1"),
        ("x²", "x^{2}"),
        ("a₁", "a_{1}"),
        ("10⁻³", "10^{-3}"),
        ("–5", "-5"),
        ("５：３０", "5:30"),
        ("x≠3", r"x\neq 3"),
    ],
)
def test_one_notation(text, ascii_text):
    assert ascii_notation(text) == ascii_text


@pytest.mark.parametrize("text", ["42.", "42。", "42．", "42｡", "42।", "42،", "42 .", "42;", "42,"])
def test_full_stops_of_all_scripts(text):
    assert without_stop(text) == "42"


def test_what_is_no_full_stop_stays():
    assert without_stop(r"\left( 2 \right.") == r"\left( 2 \right."
    assert without_stop("0.33...") == "0.33..."
    assert without_stop("5!") == "5!"


@pytest.mark.parametrize("text", ["**12**", "*12*", "_12_", "`12`", r"\textbf{12}", r"\mathbf{\text{12}}", "***12***"])
def test_emphasis_around_everything(text):
    assert without_emphasis(text) == "12"


def test_decimals_that_do_not_repeat_stay_as_they_are():
    assert exact_decimals("3.14159...") == "3.14159..."
    assert exact_decimals("f(3)") == "f(3)"
