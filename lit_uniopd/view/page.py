"""The page: a run's rollouts, pairs and captions in one HTML file that needs no server and no network."""

import base64
import html
import io
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lit_uniopd.errors import UserError
from lit_uniopd.utils.images import open_image
from lit_uniopd.utils.jsonl import read_lines

log = logging.getLogger(__name__)

GROUPS_FILE = "rollouts.jsonl"
"""Groups of answers, in the directory of a run; ranks beyond the first add their number."""
PAIRS_FILE = "weighed_pairs.jsonl"
"""Preference pairs and their weights, in the directory of a run."""
CAPTIONS = ".captions.jsonl"
"""Ending of the files that SENTINEL's bootstrapping writes."""
PICTURE_SIDE = 384
"""Longer side, in pixels, of the pictures in a page."""
_ASSETS = Path(__file__).parent / "assets"


def page(
    title: str,
    groups: list[Any],
    pairs: list[Any],
    captions: list[Any],
    pictures: Mapping[str, str | None] | None = None,
) -> str:
    """The HTML text.

    Model text reaches the browser as JSON and is shown as text only; a policy in the page forbids any connection.

    Args:
        title: of the page.
        groups: of ``group_record``.
        pairs: preference pairs with their weights.
        captions: of SENTINEL's bootstrapping.
        pictures: path -> data URI; None where it cannot be read.
    """
    content = {"groups": groups, "pairs": pairs, "captions": captions, "pictures": dict(pictures or {})}
    data = json.dumps(content, ensure_ascii=False)
    replacements = {
        "{{title}}": html.escape(title),
        "{{style}}": (_ASSETS / "page.css").read_text(encoding="utf-8"),
        # Inside a script element only its end tag, or the start of a comment, has a meaning.
        "{{data}}": data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"),
        "{{script}}": (_ASSETS / "page.js").read_text(encoding="utf-8"),
    }
    text = (_ASSETS / "page.html").read_text(encoding="utf-8")
    sections = []
    for placeholder, value in replacements.items():  # once each and in order: values are not searched for placeholders
        head, text = text.split(placeholder, 1)
        sections += [head, value]
    return "".join([*sections, text])


def write_page(source: Path, out: Path) -> dict[str, int]:
    """Write the page of a run.

    Args:
        source: directory of a run, or a ``*.captions.jsonl`` file (or the pairs file beside it).
        out: the HTML file.

    Returns:
        How many groups, answers, pairs and captions it shows.

    Raises:
        UserError: if there is nothing to show.
    """
    groups, pairs, captions = [], [], []
    if source.is_dir():
        groups = list(read_lines(source / GROUPS_FILE))
        pairs = list(read_lines(source / PAIRS_FILE))
        for file in sorted(source.glob(f"*{CAPTIONS}")):
            captions += read_lines(file)
    elif source.is_file() and source.suffix == ".jsonl":
        file = source if source.name.endswith(CAPTIONS) else source.with_suffix(CAPTIONS)
        captions = list(read_lines(file))
    elif not source.exists():
        raise UserError(f"uniopd view: {source} does not exist; give the directory of a run (runs/<name>/version_N).")
    if not groups and not pairs and not captions:
        raise UserError(
            f"uniopd view: {source} has no {GROUPS_FILE}, {PAIRS_FILE} or *{CAPTIONS}; add callbacks.RolloutRecorder "
            "(or PreferenceDiagnostics) to trainer.callbacks and run again, or name another directory."
        )
    skipped = [caption for caption in captions if "unreadable" in caption]  # the bootstrapping could not read them
    captions = [caption for caption in captions if "unreadable" not in caption]
    pictures = read_pictures([*groups, *pairs, *captions])
    if missing := len(skipped) + sum(picture is None for picture in pictures.values()):
        log.warning("%d pictures cannot be read; what was made of them is shown without.", missing)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.writing")
    scratch.write_text(page(str(source), groups, pairs, captions, pictures), encoding="utf-8")
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
