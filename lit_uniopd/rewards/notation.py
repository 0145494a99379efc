r"""One notation for what models write in many: signs and digits of other scripts, LaTeX layout, repeating decimals.

Only the writing changes, never the meaning: ``４２`` is 42, ``x²`` is x^{2}, ``0.\overline{3}`` is \frac{1}{3}.
"""

import re
import unicodedata
from fractions import Fraction

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–—‒‑﹣－", "-"),
        **dict.fromkeys("＋﹢", "+"),
        "⁄": "/",
        "∕": "/",
        "÷": "/",
        "％": "%",
        "٪": "%",
        "٫": ".",
        "，": ",",
        "：": ":",
        "；": ";",
        "（": "(",
        "）": ")",
        "［": "[",
        "］": "]",
        "｛": "{",
        "｝": "}",
        "＝": "=",
        "＜": "<",
        "＞": ">",
        "＄": "$",
        "　": " ",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
        "≠": r"\neq ",
        "≤": r"\leq ",
        "≥": r"\geq ",
        "⩽": r"\leq ",
        "⩾": r"\geq ",
        "∞": r"\infty ",
        "π": r"\pi ",
        "∅": r"\emptyset ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "±": r"\pm ",
        "≈": r"\approx ",
        "°": r"^\circ ",
        "√": r"\sqrt ",
        "ℝ": r"\mathbb{R}",
        "∖": r"\setminus ",
    }
)
_SUPERSCRIPTS = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SUBSCRIPTS = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_RADICAND = re.compile(r"\\sqrt\s+(\d+(?:\.\d+)?)(?![\d{])")
_VULGAR = re.compile("[¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_LAYOUT = re.compile(r"\\(?:displaystyle|textstyle|limits|left(?![a-z])|right(?![a-z])|big|Big|bigg|Bigg|[!,;:> ])|~")
_STOPS = "。．｡。।۔،、，；： ."
"""Full stops, and what else ends a clause, in the scripts that models write; without ``!``, a factorial."""
_EMPHASIS = re.compile(r"^(\*{1,3}|_{1,3}|`{1,3})(?=\S)(.*?\S)\1$", re.DOTALL)
_STYLE = re.compile(
    r"\\(?:textbf|textit|textrm|textsf|mathbf|mathrm|mathsf|boldsymbol|bm|text|mbox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_REPEATING = re.compile(
    r"(?<![\d.])(\d{1,12})\.(\d{0,12})"
    r"(?:\\(?:overline|bar)\s*\{(\d{1,12})\}|\\bar\s*(\d)|\\dot\s*\{?(\d)\}?(?:(\d{0,10})\\dot\s*\{?(\d)\}?)?|\((\d{1,12})\))"
)
_ELLIPSIS = re.compile(r"(?<![\d.])(\d{1,12})\.(\d{0,6}?)(\d{1,6})\3{2,}(?:\.\.\.|…|\\[lc]?dots)")


def ascii_notation(text: str) -> str:
    """A text with signs, digits, powers and fractions of Unicode written in ASCII and LaTeX."""
    text = _VULGAR.sub(_vulgar, text)
    text = _SUPERSCRIPTS.sub(lambda match: "^{" + unicodedata.normalize("NFKC", match[0]).translate(_SIGNS) + "}", text)
    text = _SUBSCRIPTS.sub(lambda match: "_{" + unicodedata.normalize("NFKC", match[0]) + "}", text)
    text = text.translate(_SIGNS)
    if not text.isascii():
        text = "".join(map(_ascii_letter, text))
    return _RADICAND.sub(r"\\sqrt{\1}", text)


def _vulgar(match: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", match[0]).split("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _ascii_letter(character: str) -> str:
    if character.isascii():
        return character
    if (digit := unicodedata.decimal(character, None)) is not None:
        return str(digit)
    # Full-width letters only: other compatibility forms (ligatures, symbols of units) are not what is meant.
    return chr(ord(character) - 0xFEE0) if "Ａ" <= character <= "ｚ" else character


def without_layout(text: str) -> str:
    """A formula without what only sets its size, its blanks and its dollar signs."""
    text = re.sub(r"\\[()\[\]]|\$", " ", text.replace(r"\$", " "))
    return _LAYOUT.sub(" ", text).replace("{,}", ",").strip()


def without_emphasis(text: str) -> str:
    r"""A text without the markdown or LaTeX emphasis around all of it: ``**12**``, ``\textbf{12}``, `` `12` ``."""
    text = text.strip()
    for _ in range(4):
        if match := _EMPHASIS.fullmatch(text):
            text = match[2].strip()
        elif match := _STYLE.fullmatch(text):
            text = match[1].strip()
        else:
            break
    return text


def without_stop(text: str) -> str:
    r"""A text without a sentence's final stop; the invisible delimiter of ``\right.`` and an ellipsis stay."""
    text = text.strip()
    if text.endswith(("..", r"\right.", r"\left.")):
        return text
    if text.endswith((r"\,", r"\;", r"\:", r"\.")):
        return text[:-2].rstrip(_STOPS)
    return text.rstrip(_STOPS + ",;:")


def exact_decimals(text: str) -> str:
    r"""Repeating decimals as fractions: ``0.\overline{3}``, ``0.\dot{3}``, ``0.(3)``, ``0.333...``."""
    text = _REPEATING.sub(
        lambda m: _fraction(m[1], m[2], m[3] or m[4] or m[8] or m[5] + (m[6] or "") + (m[7] or "")), text
    )
    return _ELLIPSIS.sub(lambda m: _fraction(m[1], m[2], m[3]), text)


def _fraction(whole: str, fixed: str, period: str) -> str:
    value = Fraction(int(whole)) + Fraction(int(fixed or "0"), 10 ** len(fixed))
    value += Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}" if value.denominator > 1 else str(value.numerator)
