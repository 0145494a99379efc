"""Pictures for the pages as SVG: small, the same bytes each time, and readable on light and on dark pages."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

FIGURES = Path(__file__).parents[1] / "docs/figures"

COLOURS = {
    "page": ("#fbfbfa", "#1f242c"),
    "ink": ("#1f2933", "#e6e9ed"),
    "dim": ("#52606d", "#a9b4c0"),
    "line": ("#c3cbd4", "#4b5563"),
    "card": ("#eef1f4", "#2b323c"),
    "good": ("#1d7a5a", "#4fc39a"),
    "bad": ("#bf4128", "#f08a73"),
    "mark": ("#2f62b0", "#86b2f5"),
}
"""Of each name the colour on a light and on a dark page. As text on `page` all but `line` and `card` have 4.5:1."""

STYLE = """text{{font-family:ui-sans-serif,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}}
.code{{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}}
{light}
@media (prefers-color-scheme:dark){{{dark}}}"""


class Drawing:
    """An SVG picture; places and sizes are its own units, which are pixels where it is not scaled."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.elements: list[str] = []
        self.rect(0, 0, width, height, "page", radius=8)

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str, *, radius: float = 4, opacity: float = 1
    ) -> None:
        faint = "" if opacity == 1 else f' fill-opacity="{opacity:.2f}"'
        size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}"'
        self.elements.append(f'<rect {size} class="{fill}"{faint}/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str = "line", *, width: float = 1) -> None:
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self.elements.append(f'<line {ends} class="{stroke}-stroke" stroke-width="{width:g}"/>')

    def curve(self, points: Iterable[tuple[float, float]], stroke: str, *, width: float = 2) -> None:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.elements.append(
            f'<polyline points="{places}" fill="none" class="{stroke}-stroke" stroke-width="{width:g}"/>'
        )

    def circle(self, x: float, y: float, radius: float, fill: str) -> None:
        self.elements.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{fill}"/>')

    def arrow(self, x1: float, y: float, x2: float, stroke: str = "dim") -> None:
        """A level one."""
        back = 6 if x2 > x1 else -6
        self.line(x1, y, x2, y, stroke, width=1.5)
        self.curve([(x2 - back, y - 4), (x2, y), (x2 - back, y + 4)], stroke, width=1.5)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        fill: str = "ink",
        *,
        size: float = 13,
        anchor: str = "start",
        bold: bool = False,
        code: bool = False,
    ) -> None:
        classes = f"{fill} code" if code else fill
        weight = ' font-weight="700"' if bold else ""
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"'
        self.elements.append(f'<text {place} class="{classes}"{weight}>{escape(text, quote=False)}</text>')

    def __str__(self) -> str:
        light, dark = (
            "".join(f".{name}{{fill:{c[i]}}}.{name}-stroke{{stroke:{c[i]}}}" for name, c in COLOURS.items())
            for i in (0, 1)
        )
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(self.title)}">'
        style = f"<style>{STYLE.format(light=light, dark=dark)}</style>"
        return "\n".join([head, f"<title>{escape(self.title)}</title>", style, *self.elements, "</svg>\n"])


class Axis:
    """A level axis: where a value is, and its ticks."""

    def __init__(self, low: float, high: float, left: float, right: float) -> None:
        self.low, self.high, self.left, self.right = low, high, left, right

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.left + (self.right - self.left) * min(max(share, 0.0), 1.0)

    def ticks(self, drawing: Drawing, y: float, values: Sequence[float], pattern: str = "{:+g}") -> None:
        """Numbers below a thin line."""
        drawing.line(self.left, y, self.right, y)
        for value in values:
            drawing.line(self(value), y, self(value), y + 4)
            drawing.text(
                self(value), y + 17, pattern.format(value) if value else "0", "dim", size=11.5, anchor="middle"
            )


def write(drawings: dict[str, Drawing], folder: Path = FIGURES) -> None:
    """Write pictures by their names."""
    for name, drawing in drawings.items():
        (folder / f"{name}.svg").write_text(str(drawing))
        print(folder / f"{name}.svg")
