"""The page: runs' rollouts, pairs and captions in one HTML file that needs no server and no network."""

import base64
import html
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lit_uniopd.errors import UserError
from lit_uniopd.utils.images import open_image
from lit_uniopd.view.differences import differing_words
from lit_uniopd.view.sources import read_runs

log = logging.getLogger(__name__)

PICTURE_SIDE = 384
"""Longer side, in pixels, of the pictures in a page."""
STYLES = ("page.css", "cards.css")
SCRIPTS = (
    *("elements.js", "words.js", "tokens.js", "pictures.js", "texts.js"),
    *("rollouts.js", "pairs.js", "captions.js", "runs.js"),
    *("tabs.js", "address.js", "controls.js", "keyboard.js", "tooltip.js", "start.js"),
)
"""In order: they are one script, and each uses what those before it declare."""
_ASSETS = Path(__file__).parent / "assets"


def page(
    title: str,
    groups: list[Any],
    pairs: list[Any],
    captions: list[Any],
    pictures: Mapping[str, str | None] | None = None,
    scores: Mapping[str, Any] | None = None,
) -> str:
    """The HTML text.

    Model text reaches the browser as JSON and is shown as text only; a policy in the page forbids any connection.

    Args:
        title: of the page.
        groups: of ``group_record``; where there are several runs, ``run`` names that of each record.
        pairs: preference pairs with their weights.
        captions: of SENTINEL's bootstrapping.
        pictures: path -> data URI; None where it cannot be read.
        scores: name of each run, in order -> its benchmarks' scores before and after (``sources.read_scores``).
    """
    content = {
        "groups": groups,
        "pairs": [_compared(pair) for pair in pairs],
        "captions": [{**c, "pairs": [_compared(pair) for pair in c.get("pairs", [])]} for c in captions],
        "pictures": dict(pictures or {}),
        "scores": dict(scores or {}),
    }
    data = json.dumps(content, ensure_ascii=False)
    replacements = {
        "{{title}}": html.escape(title),
        "{{style}}": _joined(STYLES),
        # Inside a script element only its end tag, or the start of a comment, has a meaning.
        "{{data}}": data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"),
        "{{script}}": _joined(SCRIPTS),
    }
    text = (_ASSETS / "page.html").read_text(encoding="utf-8")
    sections = []
    for placeholder, value in replacements.items():  # once each and in order: values are not searched for placeholders
        head, text = text.split(placeholder, 1)
        sections += [head, value]
    return "".join([*sections, text])


def _joined(names: Sequence[str]) -> str:
    return "".join((_ASSETS / name).read_text(encoding="utf-8") for name in names)


def _compared(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with the words in which its answers differ."""
    return {**pair, "differs": differing_words(pair["chosen"], pair["rejected"])}


def write_page(sources: Path | Sequence[Path], out: Path) -> dict[str, int]:
    """Write the page of one run, or of several side by side.

    Args:
        sources: directory of a run, or of its versions, of which the newest is shown; a ``*.captions.jsonl`` file (or
            the pairs file beside it); or several of them.
        out: the HTML file.

    Returns:
        How many groups, answers, pairs and captions it shows.

    Raises:
        UserError: if there is nothing to show.
    """
    runs = read_runs([sources] if isinstance(sources, Path) else sources)
    several = len(runs) > 1
    groups, pairs, captions = (
        [{**record, "run": run.name} if several else record for run in runs for record in getattr(run, kind)]
        for kind in ("groups", "pairs", "captions")
    )
    pictures = read_pictures([*groups, *pairs, *captions])
    if missing := sum(run.unreadable for run in runs) + sum(picture is None for picture in pictures.values()):
        log.warning("%d pictures cannot be read; what was made of them is shown without.", missing)
    title, scores = " and ".join(run.name for run in runs), {run.name: run.scores for run in runs}
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.writing")
    scratch.write_text(page(title, groups, pairs, captions, pictures, scores), encoding="utf-8")
    scratch.replace(out)
    answers = sum(len(group["answers"]) for group in groups)
    return {"groups": len(groups), "answers": answers, "pairs": len(pairs), "captions": len(captions)}


def read_pictures(records: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """The first picture of each record as a data URI, by its path; None where it can no longer be read."""
    data_uris: dict[str, str | None] = {}
    for path in (record["images"][0] for record in records if record.get("images")):
        if path not in data_uris:
            try:
                data_uris[path] = _data_uri(open_image(path))
            except UserError:
                data_uris[path] = None
    return data_uris


def _data_uri(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    file, kind = io.BytesIO(), "png" if max(small.size) < 128 else "jpeg"  # JPEG's blocks would show in a small picture
    small.save(file, format=kind, quality=85)
    return f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode()
