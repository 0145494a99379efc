"""Do hallucinations breed hallucinations? How often a captioner's sentences hallucinate, by what stands before them.

    python -m benchmarks.lab.propagation     # fills its table of docs/sentinel_laboratory.md

A sampled and a greedy caption of each held-out picture, and one by the writer that the captioner learned from.
"""

import argparse
import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence

import torch
from transformers import LlavaForConditionalGeneration

from benchmarks.lab.report import fill
from benchmarks.lab.sentences import COUPLES, PAGE, SEEDS, WORLDS
from lit_uniopd.hallucination.positions import place_mentions
from lit_uniopd.playground.captioner import Reader, SceneRecipe
from lit_uniopd.playground.locate import locate
from lit_uniopd.playground.scenes import Scene, draw_scenes, write_caption, write_propagating_caption

Captions = list[tuple[str, Sequence[str]]]
"""Texts, each with the objects of its picture."""
WRITERS: dict[str, Callable[[Scene, random.Random], str]] = {
    COUPLES: write_caption,
    "propagating": write_propagating_caption,
}
CONTEXTS = ("a hallucinated sentence", "a factual one", "any hallucination", "none")


def hallucinates(caption: str, objects: Iterable[str]) -> list[bool]:
    """Of each sentence that names something, whether it names what is not there."""
    by_sentence: dict[int, bool] = {}
    for mention in place_mentions(caption, objects):
        by_sentence[mention.sentence] = by_sentence.get(mention.sentence, False) or mention.hallucinated
    return [by_sentence[number] for number in sorted(by_sentence)]


def rates(captions: Captions) -> dict[str, float]:
    """Share of hallucinated sentences among those that follow a kind of context; first sentences follow none."""
    following: dict[str, list[bool]] = {context: [] for context in CONTEXTS}
    for text, objects in captions:
        wrong = hallucinates(text, objects)
        for number in range(1, len(wrong)):
            just_before, ever_before = wrong[number - 1], any(wrong[:number])
            following[CONTEXTS[0] if just_before else CONTEXTS[1]].append(wrong[number])
            following[CONTEXTS[2] if ever_before else CONTEXTS[3]].append(wrong[number])
    return {context: statistics.fmean(sentences or [math.nan]) for context, sentences in following.items()}


def captions_of(world: str, seed: int) -> dict[str, Captions]:
    """A writer's captions, and those of the captioner that learned from it."""
    scenes = draw_scenes(seed, "heldout", SceneRecipe().heldout_scenes)
    rng = random.Random(f"{seed} writer")
    model = LlavaForConditionalGeneration.from_pretrained(locate(WORLDS[world].captioner, seed=seed))
    texts = {
        "writer": [WRITERS[world](scene, rng) for scene in scenes],
        "captioner, sampled": Reader().captions(model, scenes, temperature=1.0, seed=seed),
        "captioner, greedy": Reader().captions(model, scenes),
    }
    objects = [scene.objects for scene in scenes]
    return {who: list(zip(captions, objects, strict=True)) for who, captions in texts.items()}


def table(worlds: Sequence[str], seeds: Sequence[int]) -> str:
    """Markdown: means over the seeds."""
    lines = [f"| seeds {', '.join(map(str, seeds))} | " + " | ".join(f"after {c}" for c in CONTEXTS) + " |"]
    lines.append("|---" * (1 + len(CONTEXTS)) + "|")
    for world in worlds:
        by_seed = [captions_of(world, seed) for seed in seeds]
        for who in by_seed[0]:
            shares = [rates(captions[who]) for captions in by_seed]
            means = [statistics.fmean(share[context] for share in shares) for context in CONTEXTS]
            lines.append(f"| `{world}`: {who} | " + " | ".join(f"{mean:.0%}" for mean in means) + " |")
    return "\n".join(lines)


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--worlds",
        nargs="+",
        choices=WRITERS,
        default=list(WRITERS),
        help="correlated has the captioner of propagating",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    PAGE.write_text(fill(PAGE.read_text(), "propagation", table(options.worlds, options.seeds)))
    print(f"{PAGE} is up to date.")


if __name__ == "__main__":
    main()
