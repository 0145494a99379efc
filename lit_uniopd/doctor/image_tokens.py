"""How many tokens does each model make of an image?"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from lit_uniopd.doctor.dry_run import Case, Model
from lit_uniopd.doctor.findings import Finding, green, red, yellow
from lit_uniopd.policy.chat_template import encode
from lit_uniopd.policy.loading import reads_images
from lit_uniopd.types import Prompt

PROMPTS = 16
"""Prompts with pictures that are encoded."""
CROWDED = 0.75
"""Share of ``max_prompt_tokens`` that pictures may take before it is worth a look."""


def check_images(case: Case) -> Iterator[Finding]:
    """Encode some prompts with images for every model that reads them, for a teacher as it reads them."""
    vision = [model for model in case.models if model.flag == "model.vision_policy"]
    pictured = case.first_prompts(PROMPTS, lambda prompt: bool(prompt.images))
    readings = [(model, pictured) for model in vision or [case.student]]
    for name, teacher in ({} if vision else case.teachers).items():
        readings.append((teacher, _read_by(case, name)))
    for model, prompts in readings:
        if not prompts:
            continue
        name = f"pictures {model.name}"
        if not reads_images(model.args, model.flag):
            yield red(
                name,
                f"--{model.flag}.path {model.args.path} cannot read pictures, which {prompts[0].id!r} has.",
                "Choose an image-text model, or route these prompts elsewhere by their teacher column.",
            )
            continue
        yield _measure(case, model, name, prompts)


def _read_by(case: Case, name: str) -> list[Prompt]:
    """The first prompts with pictures as a teacher reads them."""
    readings = (case.readings(prompt) for prompt in case.train_prompts)
    read = (by_teacher[name] for by_teacher in readings if name in by_teacher)
    return list(islice((prompt for prompt in read if prompt.images), PROMPTS))


def _measure(case: Case, model: Model, name: str, prompts: list[Prompt]) -> Finding:
    ids = _image_token_ids(model)
    per_image, lengths = [], []
    for prompt in prompts:
        tokens = encode(model.processor, prompt, model.args.chat_template_kwargs, model.args.max_pixels).tokens
        count = Counter(tokens)
        per_image.append(sum(count[i] for i in ids) / len(prompt.images))
        lengths.append(len(tokens))
    mean = sum(per_image) / len(per_image)
    counts = (
        f"{min(per_image):.0f} / {mean:.0f} / {max(per_image):.0f} tokens per picture (least, mean, most of "
        f"{len(prompts)} prompts), prompts of up to {max(lengths)}"
    )
    limit: Any = getattr(case.data, "max_prompt_tokens", None)
    if limit is not None and max(per_image) > CROWDED * limit:
        return yellow(
            name,
            f"{counts}; --data.max_prompt_tokens is {limit}, and longer prompts are dropped.",
            f"Raise it, or shrink pictures by --{model.flag}.max_pixels.",
        )
    return green(name, counts + (f", of {limit} allowed." if limit is not None else "."))


def _image_token_ids(model: Model) -> set[int]:
    names = ("image_token_id", "image_token_index")
    return {token for name in names if isinstance(token := getattr(model.config, name, None), int)}
