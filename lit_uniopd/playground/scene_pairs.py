"""Sentence pairs of the playground: the captioner's own sentences, checked by two detectors that err differently."""

import json
from dataclasses import dataclass
from pathlib import Path

from lit_uniopd.hallucination.bootstrap import BootstrapArgs, Bootstrapper, Caption
from lit_uniopd.hallucination.detectors import Detector, NoisyOracle
from lit_uniopd.hallucination.objects import ObjectExtractor
from lit_uniopd.hallucination.records import caption_line, pair_rows
from lit_uniopd.hallucination.writer import PolicyWriter
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.types import Prompt
from lit_uniopd.utils.jsonl import numbered_lines, write_lines
from lit_uniopd.utils.progress import progress_bar

SAMPLING = SamplingArgs(n=10, max_new_tokens=24, temperature=1.0, max_rows=2560)
BOOTSTRAP = BootstrapArgs(when_no_factual="resample")


@dataclass(frozen=True, slots=True)
class DetectorErrors:
    """How two detectors err."""

    often: float = 0.08
    """Share of the present objects that the first overlooks, and of the absent ones that the second reports."""
    seldom: float = 0.02
    """The reverse."""
    shared: float = 0.0
    """Share of the objects at which the second errs with the first."""


INDEPENDENT = DetectorErrors()
CORRELATED = DetectorErrors(often=0.3, seldom=0.2, shared=0.5)


def oracles(truth: Path, seed: int, errors: DetectorErrors = INDEPENDENT) -> list[Detector]:
    """One detector that overlooks objects, and one that reports absent ones."""
    often, seldom = errors.often, errors.seldom
    return [
        NoisyOracle(str(truth), miss=often, false_alarm=seldom, seed=seed),
        NoisyOracle(str(truth), seldom, often, seed=seed + 1, shared=errors.shared, shared_seed=seed),
    ]


def read_scenes(path: Path) -> list[Prompt]:
    """The rows of a file of scenes as prompts."""
    rows = [json.loads(line) for _, line in numbered_lines(path)]
    return [
        Prompt(
            id=row["id"],
            messages=({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["prompt"]}]},),
            images=tuple(str((path.parent / image).resolve()) for image in row["images"]),
            domain=row["domain"],
            row={"objects": row["objects"]},
        )
        for row in rows
    ]


def bootstrap_scenes(
    policy: Policy,
    prompts: list[Prompt],
    detectors: list[Detector],
    seed: int,
    args: BootstrapArgs = BOOTSTRAP,
    sampling: SamplingArgs = SAMPLING,
) -> list[Caption]:
    """Bootstrap all scenes side by side."""
    writer = PolicyWriter(policy, sampling, seed)
    with progress_bar(len(prompts), "playground: sentence pairs", unit="scene", announce=True) as bar:
        bootstrapper = Bootstrapper(writer, detectors, ObjectExtractor(), args, seed=seed)

        def advance(_: Caption) -> None:
            bar.update()

        return bootstrapper.run(prompts, on_finished=advance)


def make_scene_pairs(captioner: Path, scenes: Path, out: Path, seed: int) -> None:
    """Write the pairs of a file of scenes, and beside them the captions that they come from.

    Args:
        captioner: directory of the model.
        scenes: its pictures.
        out: JSONL as ``SentencePairDataModule`` reads it.
        seed: of sampling and detectors' errors.
    """
    policy = Policy.load(PolicyArgs(path=str(captioner)), trainable=False)
    detectors = oracles(scenes, seed)
    names = [detector.name for detector in detectors]
    captions = bootstrap_scenes(policy, read_scenes(scenes), detectors, seed)
    lines = [caption_line(caption, names) for caption in captions]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_lines(out.with_suffix(".captions.jsonl"), lines)
    write_lines(out, [row for line in lines for row in pair_rows(line)])
