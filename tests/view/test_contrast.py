"""Every text of the page, as the browser draws it, against what is behind it: WCAG 2's contrast of at least 4.5:1."""

import pytest

COLOURS_OF_TEXTS = """() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith("color(") ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
  };
  const distinct = new Map();  // thousands of tokens have a few dozen combinations of colours
  const add = (text) => {
    const key = JSON.stringify([text.colour, text.layers, text.where]);
    if (distinct.has(key)) distinct.get(key).count += 1;
    else distinct.set(key, { ...text, count: 1 });
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (node.data.trim() === "" || seen.has(element) || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest("script, style, noscript, .unseen")) continue;
    seen.add(element);
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      layers.push({ background: parse(style.backgroundColor), opacity: Number(style.opacity) });
    }
    add({ text: node.data.slice(0, 20), where: element.className + " in " + element.parentElement.className,
      colour: parse(getComputedStyle(element).color), layers, canvas: parse(getComputedStyle(document.body).backgroundColor) });
  }
  for (const field of document.querySelectorAll("input[type=search]"))
    add({ text: "placeholder", where: "search", colour: parse(getComputedStyle(field, "::placeholder").color),
      layers: [{ background: parse(getComputedStyle(field).backgroundColor), opacity: 1 }], canvas: [255, 255, 255, 1] });
  return [...distinct.values()];
}"""


def over(front, back, alpha):
    return [alpha * f + (1 - alpha) * b for f, b in zip(front, back, strict=True)]


def luminance(colour):
    """WCAG's relative luminance of an sRGB colour, 0 to 255."""
    parts = [value / 255 for value in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def drawn_contrast(text):
    """Of a text and what is behind it, through all backgrounds and opacities above the page."""
    behind = text["canvas"][:3]
    for layer in reversed(text["layers"]):
        behind = over(layer["background"][:3], behind, layer["background"][3] * layer["opacity"])
    opacity = text["colour"][3]
    for layer in text["layers"]:
        opacity *= layer["opacity"]
    return contrast(over(text["colour"][:3], behind, opacity), behind)


def test_the_contrast_is_wcags():
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast([255, 255, 255], [255, 255, 255]) == 1
    assert contrast([0x76] * 3, [255] * 3) == pytest.approx(4.54, abs=0.005)  # the known greys at the border
    assert contrast([0x77] * 3, [255] * 3) == pytest.approx(4.48, abs=0.005)


@pytest.mark.slow
def test_every_text_stands_out_in_both_schemes(short_run, opened):
    page = opened(short_run / "view.html")
    page.click("#words summary")
    texts = []
    for name in ("Rollouts", "Preference pairs", "Captions", "Before and after"):
        page.click(f"nav button:has-text('{name}')")
        page.locator(".term").first.hover()  # the tip
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            texts += page.evaluate(COLOURS_OF_TEXTS)
    low = sorted({(round(drawn_contrast(text), 2), text["where"], text["text"]) for text in texts})
    assert low[0][0] >= 4.5, low[:8]
    assert {"term", "soft", "prose", "badge", "named", "correct"} <= {
        word for t in texts for word in t["where"].split()
    }
    assert len({tuple(text["canvas"]) for text in texts}) == 2, "both schemes were drawn"
    pressed = [text["count"] for text in texts if text["layers"][0]["background"][3] > 0.75]
    assert sum(pressed) > 20, "tokens of the strongest colour are among them"
