"""A small captioner of the playground, trained for seconds: it writes sentences, and hallucinates."""

from dataclasses import replace
from pathlib import Path

from lit_uniopd.playground.captioner import SceneRecipe, locate_scene

RECIPE = SceneRecipe(first_check=120, max_steps=120, stops_at=0.0, stopping_scenes=4, scenes=12, heldout_scenes=8)


def captioner(root: Path, steps: int = RECIPE.max_steps) -> Path:
    """Its directory; `scenes.jsonl` and `heldout_scenes.jsonl` lie beside it."""
    return locate_scene("captioner", root, 0, replace(RECIPE, first_check=steps, max_steps=steps))
