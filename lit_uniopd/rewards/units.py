"""Units behind a number: taken off, and known ones kept apart (5 cm are not 5 m)."""

import re

_NAMES: dict[str, str] = {
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre 厘米",
    "m": "m meter metre metro 米",
    "km": "km kilometer kilometre kilómetro 千米 公里",
    "in": "in inch inches pulgada",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "mg": "mg milligram",
    "g": "g gram gramme 克",
    "kg": "kg kilogram kilo 千克 公斤",
    "lb": "lb lbs pound",
    "oz": "oz ounce",
    "ml": "ml milliliter millilitre 毫升",
    "l": "l liter litre litro 升",
    "s": "s sec second sekunde segundo 秒",
    "min": "min minute minuto 分钟",
    "h": "h hr hrs hour stunde hora 小时",
    "day": "day tag día 天",
    "week": "week woche semana",
    "month": "month monat",
    "year": "year yr jahr año 年",
    "dollar": "dollar usd dólar 美元",
    "cent": "cent",
    "euro": "euro eur 欧元",
    "yuan": "yuan rmb 元",
    "degree": "degree deg grad grado 度",
    "radian": "radian rad",
    "hz": "hz hertz",
    "n": "n newton",
    "j": "j joule",
    "kj": "kj",
    "w": "w watt",
    "kw": "kw kilowatt",
    "v": "v volt",
    "a": "a amp ampere",
    "ohm": "ohm",
    "pa": "pa pascal",
    "k": "k kelvin",
    "c": "c celsius",
    "f": "f fahrenheit",
    "t": "t ton tonne",
    "mph": "mph",
    "kmh": "kmh kph",
    "square": "square sq",
    "cubic": "cubic cu",
}
_CANON = {name: unit for unit, names in _NAMES.items() for name in names.split()}
_WORD = r"(?:[^\W\d_]|[%’'])+"
_ONE = (
    rf"(?:\\(?:text|mathrm|mbox|textrm|operatorname)\s*\{{(?:[^{{}}]|\{{[^{{}}]{{0,9}}\}}){{0,40}}\}}|{_WORD}\.?)"
    r"(?:\s?\^\s?\{?-?\d\}?)?"
)
_UNIT = re.compile(rf"(?P<blank>\s*)(?P<unit>{_ONE}(?:\s*(?:/|\\cdot|\*|\s)\s*{_ONE}){{0,5}})\s*")
_DEGREE = re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?\s*([CF])?\s*|\s*\\degree\s*")
_NUMBER_END = re.compile(r"[\d})!.]\s*$|\\pi\s*$")
_SHORT = frozenset({"m", "g", "s", "h", "l", "n", "j", "w", "v"})
"""Units of one letter; behind a number without a blank they are a variable."""
_OPERATORS = frozenset({"or", "and", "to", "is", "not", "if", "for", "with", "oder", "und", "o", "y", "ou", "et"})


def split_unit(text: str) -> tuple[str, str | None]:
    r"""A quantity's number and its unit.

    Words in ``\text{}``, words of two letters and more, and single letters behind a blank are units; what stands right
    behind a number as one letter (``3t``) is a variable, and so is everything that is joined by ``^``, ``+`` or ``=``
    to something else.

    Args:
        text: One formula, in the notation of `lit_uniopd.rewards.notation`.

    Returns:
        The text and None where no unit is found; else the number, and the unit's canonical name (``m^2``), or ``""``
        where the words are no unit that is known.
    """
    text = re.sub(r"^\s*(?:\\\$|[$€£¥₹]|USD\b|US\$|Rs\.?)\s*(?=[-\d.\\])", "", text.strip())
    text = re.sub(r"^(-)\s*(?:\\\$|[$€£¥₹])\s*", r"\1", text)
    text = re.sub(r"(?<=\d)\s*[€£¥₹円]$", "", text)
    if (match := _trailing(_DEGREE, text)) and _NUMBER_END.search(text[: match.start()]):
        return text[: match.start()].strip(), (match[1] or "degree").lower()
    for start in _unit_starts(text):
        match = _UNIT.fullmatch(text, start)
        if match is None:
            continue
        words = re.findall(_WORD, re.sub(r"\\[a-z]+", " ", match["unit"]))
        if not words or _OPERATORS & {word.lower() for word in words}:
            return text, None
        wrapped = "\\" in match["unit"].split("{")[0]
        single = len(words[0]) == 1 and words[0].isascii()
        if not wrapped and single and (not match["blank"] or words[0].lower() not in _SHORT):
            return text, None
        letters = all(len(word) == 1 and word.isascii() for word in words)
        if not wrapped and letters and len(words) > 1 and "/" not in match["unit"]:
            return text, None  # a product of variables
        return text[:start].strip(), canonical_unit(match["unit"])
    return text, None


def canonical_unit(unit: str) -> str:
    """The name by which equal units are equal; ``""`` for one that is not known."""
    text = re.sub(r"\\(?:text|mathrm|mbox|textrm|operatorname)|[{}.]|\\cdot|\\ ", " ", unit)
    powers, below, factor = [], False, 1
    for token in re.findall(r"/|(?:[^\W\d_])+(?:\s?\^\s?-?\d)?", text):
        if token == "/" or token.lower() in ("per", "pro", "por"):
            below = True
            continue
        name, _, power = re.sub(r"\s", "", token).partition("^")
        known = _CANON.get(name) or _CANON.get(name.lower()) or _CANON.get(name.lower().rstrip("s")) or ""
        if known in ("square", "cubic"):
            factor = 2 if known == "square" else 3
            continue
        if not known:
            return ""
        if known in ("mph", "kmh"):
            powers += [("mi" if known == "mph" else "km", 1), ("h", -1)]
            continue
        powers.append((known, int(power or factor) * (-1 if below else 1)))
        factor = 1
    return " ".join(f"{name}^{power}" if power != 1 else name for name, power in sorted(powers))


def _trailing(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    for match in pattern.finditer(text):
        if match.end() == len(text):
            return match
    return None


def _unit_starts(text: str) -> list[int]:
    """Places right behind a number from which a unit could reach to the end, the longest first."""
    if len(text) > 400:
        return []
    pattern = r"(\d|\}|\)|\\pi|!)(?=\s*(?:\\(?:text|mathrm|mbox|operatorname)|[^\W\d_]))"
    return [match.end(1) for match in re.finditer(pattern, text)]
