"""The path behind ``playground:NAME``. This file imports all builders, so that they need not import each other."""

from pathlib import Path

from lit_uniopd.errors import UserError
from lit_uniopd.playground.cache import once
from lit_uniopd.playground.captioner import FORMAT as SCENES_FORMAT
from lit_uniopd.playground.captioner import NAMES as SCENES
from lit_uniopd.playground.captioner import PROPAGATING, locate_propagating, locate_scene
from lit_uniopd.playground.pairs import make_pairs
from lit_uniopd.playground.questions import QUESTIONS, locate_questions
from lit_uniopd.playground.reader import NAMES as READER
from lit_uniopd.playground.reader import locate_reader
from lit_uniopd.playground.recipe import PAIRS, ROOT, UNTRAINED, build
from lit_uniopd.playground.scene_pairs import make_scene_pairs
from lit_uniopd.playground.smollm2 import NAME as SMOLLM2
from lit_uniopd.playground.smollm2 import locate_smollm2
from lit_uniopd.playground.tasks import DOMAINS
from lit_uniopd.playground.variants import VARIANTS, locate_variant
from lit_uniopd.playground.vision import locate_vision
from lit_uniopd.utils.near_names import did_you_mean
from lit_uniopd.utils.seeding import run_seed


def locate(name: str, root: str | Path = ROOT, seed: int | None = None) -> Path:
    """The path behind ``playground:NAME`` in a config; builds it if it does not exist.

    Args:
        name: ``student``, ``math_teacher``, ``code_teacher``, ``train.jsonl`` or ``heldout.jsonl``; ``pairs.jsonl`` or
            ``heldout_pairs.jsonl``, preference pairs for their prompts; ``captioner``, ``scenes.jsonl``,
            ``heldout_scenes.jsonl`` or ``scene_pairs.jsonl``; ``captioner_propagating``; one of
            ``variants.VARIANTS`` or of ``reader.NAMES``; ``vision_`` and one of ``vision.NAMES``; ``tiny_text`` and
            ``tiny_vision``, which are untrained; ``smollm2``, a real model, or one of ``questions.QUESTIONS`` for it.
        root: directory of all playgrounds.
        seed: of the playground; None: that of the run.

    Raises:
        UserError: if there is no such name.
    """
    if name in UNTRAINED:
        path = Path(root) / name
        return once(path, lambda scratch: UNTRAINED[name](scratch, 0))
    if name == SMOLLM2:
        return locate_smollm2(root)
    if name in QUESTIONS:
        return locate_questions(name, root, run_seed(seed))
    if name in PAIRS:
        directory = build(root, run_seed(seed)).root
        prompts = directory / PAIRS[name]
        return once(
            Path(root) / f"{directory.name}-pairs" / name, lambda scratch: make_pairs(prompts, scratch, run_seed(seed))
        )
    if name in SCENES:
        return locate_scene(name, root, run_seed(seed))
    if name == PROPAGATING:
        return locate_propagating(root, run_seed(seed))
    if name == "scene_pairs.jsonl":
        captioner, scenes = (locate_scene(scene_name, root, run_seed(seed)) for scene_name in SCENES[:2])
        folder = captioner.parent.with_name(f"{captioner.parent.name}-pairs{SCENES_FORMAT}")
        return once(folder, lambda new: make_scene_pairs(captioner, scenes, new / name, run_seed(seed))) / name
    if name in VARIANTS:
        return locate_variant(name, root, run_seed(seed))
    if name in READER:
        return locate_reader(name, root, run_seed(seed))
    if name.startswith("vision_"):
        return locate_vision(name.removeprefix("vision_"), root, run_seed(seed))
    names = ["student", *(f"{domain}_teacher" for domain in DOMAINS), "train.jsonl", "heldout.jsonl"]
    if name not in names:
        scenes = [*SCENES, PROPAGATING, "scene_pairs.jsonl"]
        choices = [*names, *PAIRS, *VARIANTS, *READER, *scenes, *UNTRAINED, SMOLLM2, *QUESTIONS]
        raise UserError(
            f"The path playground:{name} is unknown{did_you_mean(name, choices)}; write playground: and one of "
            f"{', '.join(choices)}."
        )
    return build(root, run_seed(seed)).root / name
