"""The laboratory of SENTINEL: which part of it makes the playground's captioner hallucinate less?

    python -m benchmarks.lab.sentences                        # everything that has no result yet, two runs at a time
    python -m benchmarks.lab.sentences --worlds propagating   # only that world's
    python -m benchmarks.lab.sentences --report               # fill the tables of docs/sentinel_laboratory.md

Labels come from the two erring detectors alone; the scenes' true objects only measure the result. Each run's result is
a line in runs/lab/sentences/results.jsonl as soon as the run is done; a killed laboratory goes on from there.
"""

import argparse
import multiprocessing
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.lab.grid import digest
from benchmarks.lab.paired_tests import interval
from benchmarks.lab.report import fill, signed
from benchmarks.lab.run import quiet, read_results
from benchmarks.lab.summary_files import keep
from callbacks import HallucinationDiagnostics
from datamodules import PreferenceDataModule, SentencePairDataModule
from datamodules.pair_sources import PairSourceArgs
from datamodules.sentence_pairs import SentencePairSourceArgs
from lit_uniopd.hallucination import coco
from lit_uniopd.hallucination.bootstrap import RELEASED_CODE, BootstrapArgs
from lit_uniopd.hallucination.chair import chair_counts
from lit_uniopd.hallucination.records import caption_line, pair_rows
from lit_uniopd.modules import OmniDPO, Sentinel
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.playground.captioner import PROPAGATING
from lit_uniopd.playground.locate import locate
from lit_uniopd.playground.scene_pairs import (
    BOOTSTRAP,
    CORRELATED,
    INDEPENDENT,
    SAMPLING,
    DetectorErrors,
    bootstrap_scenes,
    oracles,
    read_scenes,
)
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.utils.jsonl import append_lines, read_lines, write_lines

ROOT, PAGE = Path("runs/lab/sentences"), Path("docs/sentinel_laboratory.md")
SEEDS = (1, 2, 3, 4, 5)
"""Seed 0 is the one that the quickstart's numbers were chosen on."""
STEPS, BATCH, RATE, BETA = 120, 64, 3e-4, 0.5
BASE = "cdpo"
DECODINGS = ("greedy", "temperature_1")
CAPTIONS = "captions"
SENTENCE_PARTS: Any = (SentencePairDataModule, SentencePairSourceArgs, Sentinel)
CAPTION_PARTS: Any = (PreferenceDataModule, PairSourceArgs, OmniDPO)


@dataclass(frozen=True, slots=True)
class Data:
    """How pairs are made."""

    bootstrap: BootstrapArgs = field(default_factory=lambda: BOOTSTRAP)
    detectors: tuple[int, ...] = (0, 1)
    """The first misses objects, the second has false alarms."""


DATA: dict[str, Data] = {
    "paper": Data(),
    "misses_alone": Data(detectors=(0,)),
    "false_alarms_alone": Data(detectors=(1,)),
    "uncertain_factual": Data(replace(BOOTSTRAP, uncertain="factual")),
    "uncertain_hallucinated": Data(replace(BOOTSTRAP, uncertain="hallucinated")),
    "natural_context": Data(replace(BOOTSTRAP, append="greedy")),
    "hallucinated_context": Data(replace(BOOTSTRAP, append="hallucinated")),
    "released_code": Data(RELEASED_CODE),
    "from_sentence_3": Data(replace(BOOTSTRAP, intervene_from=2)),
    "from_sentence_4": Data(replace(BOOTSTRAP, intervene_from=3)),
}


@dataclass(frozen=True, slots=True)
class Arm:
    """How much is trained on which pairs."""

    data: str = "paper"
    limit: int | None = None
    chosen_nll: float = 0.0
    before_sentence: int | None = None
    """Only pairs of earlier sentences, counted from 0."""


ARMS: dict[str, Arm] = {
    "cdpo": Arm(),
    "cdpo_nll": Arm(chosen_nll=0.1),
    "pairs_250": Arm(limit=250),
    "pairs_1000": Arm(limit=1000),
    "caption_dpo": Arm(CAPTIONS, limit=1000),
    **{name: Arm(name) for name in DATA if name != "paper"},
    "to_sentence_2": Arm(before_sentence=2),
}


@dataclass(frozen=True, slots=True)
class World:
    """Who hallucinates, and who labels it."""

    arms: tuple[str, ...]
    captioner: str = "captioner"
    errors: DetectorErrors = INDEPENDENT
    pairs: int | None = None
    """Every arm has at most so many, so that arms differ in what pairs they have and not in how many."""


PROPAGATING_ARMS = (
    *("cdpo", "natural_context", "hallucinated_context", "to_sentence_2", "from_sentence_3", "from_sentence_4"),
    *("misses_alone", "false_alarms_alone", "caption_dpo", "decode_time"),
)
COUPLES = "couples"
WORLDS: dict[str, World] = {
    COUPLES: World((*(arm for arm in ARMS if arm != "to_sentence_2"), "decode_time")),
    "propagating": World(PROPAGATING_ARMS, PROPAGATING, pairs=500),
    "correlated": World(PROPAGATING_ARMS, PROPAGATING, CORRELATED, pairs=500),
}


@dataclass(frozen=True, slots=True)
class Run:
    arm: str
    seed: int
    world: str = COUPLES

    @property
    def key(self) -> str:
        arm, world = ARMS.get(self.arm), WORLDS[self.world]
        data = None if arm is None else asdict(DATA.get(arm.data, Data()))
        made_by = [world.captioner, asdict(world.errors), world.pairs]
        arm_fields = None if arm is None else asdict(arm)
        return digest(asdict(self), arm_fields, data, made_by, STEPS, BATCH, RATE, BETA)


def pairs_file(world: str, name: str, seed: int) -> Path:
    return ROOT / f"{world}-{name}-seed{seed}.jsonl"


def prepare(world: str, name: str, seed: int) -> str:
    """Make the pairs of one kind and seed; with the paper's, those of whole captions too."""
    torch.set_num_threads(1)
    with quiet(ROOT / "logs" / f"prepare-{world}-{name}-{seed}.log"):
        scenes = Path(locate("scenes.jsonl", seed=seed))
        prompts, data = read_scenes(scenes), DATA[name]
        policy = Policy.load(PolicyArgs(path=str(locate(WORLDS[world].captioner, seed=seed))), trainable=False)
        detectors = [oracles(scenes, seed, WORLDS[world].errors)[i] for i in data.detectors]
        captions = bootstrap_scenes(policy, prompts, detectors, seed, data.bootstrap)
        write_lines(pairs_file(world, name, seed), [row for c in captions for row in pair_rows(caption_line(c))])
        if name == "paper":
            # Along the cleanest and the most hallucinated path, as in the paper's table 11.
            hallucinated = bootstrap_scenes(policy, prompts, detectors, seed, DATA["hallucinated_context"].bootstrap)
            rows = [
                {"prompt": caption_line(good)["messages"], "images": list(good.prompt.images), "id": good.prompt.id}
                | {"chosen": good.text, "rejected": bad.text}
                for good, bad in zip(captions, hallucinated, strict=True)
                if good.text and any(s.factual for s in good.sentences) and any(s.hallucinated for s in bad.sentences)
            ]
            write_lines(pairs_file(world, CAPTIONS, seed), rows)
    return f"{world} {name} {seed}"


def train(run: Run) -> dict[str, Any]:
    """One run: CHAIR of held-out pictures, greedy and sampled, before and after."""
    from lightning import Trainer, seed_everything

    torch.set_num_threads(1)
    start, arm, world = time.monotonic(), ARMS[run.arm], WORLDS[run.world]
    with quiet(ROOT / "logs" / f"{run.world}-{run.arm}-{run.seed}.log"):
        seed_everything(run.seed)
        rows = rows_of(run)
        train_file = ROOT / "logs" / f"{run.world}-{run.arm}-{run.seed}.jsonl"
        write_lines(train_file, rows)
        data_class, source_class, module_class = CAPTION_PARTS if arm.data == CAPTIONS else SENTENCE_PARTS
        module = module_class(
            PolicyArgs(path=str(locate(world.captioner, seed=run.seed))),
            PairLossArgs(kind="dpo", beta=BETA, chosen_nll=arm.chosen_nll),
            optimizer=partial(torch.optim.AdamW, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0),
            seed=run.seed,
        )
        diagnostics = HallucinationDiagnostics("playground_scenes", "paper", max_new_tokens=100, batch_size=256)
        off: dict[str, Any] = dict.fromkeys(
            ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode"], False
        )
        trainer = Trainer(
            accelerator="cpu",
            max_steps=STEPS,
            gradient_clip_val=1.0,
            use_distributed_sampler=False,
            callbacks=[diagnostics],
            **off,
        )
        data = data_class(train=source_class(path=str(train_file)), batch_size=BATCH, seed=run.seed)
        trainer.fit(module, data)
    return {
        "key": run.key,
        **asdict(run),
        **label_errors(rows, run.seed),
        "before": diagnostics.scores["before"],
        "after": diagnostics.scores["after"],
        "seconds": round(time.monotonic() - start, 1),
    }


def rows_of(run: Run) -> list[dict[str, Any]]:
    """The pairs that a run is trained on."""
    arm = ARMS[run.arm]
    rows = list(read_lines(pairs_file(run.world, arm.data, run.seed)))
    if arm.before_sentence is not None:
        rows = [row for row in rows if row["sentence"] < arm.before_sentence]
    random.Random(run.seed).shuffle(rows)
    return rows[: arm.limit][: WORLDS[run.world].pairs]


def label_errors(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """How many pairs there are, and the share of mislabelled chosen and rejected sentences."""
    truth = {p.images[0]: p.row["objects"] for p in read_scenes(Path(locate("scenes.jsonl", seed=seed)))}
    hallucinated = {
        side: [chair_counts(coco().mentions(row[side]), truth[row["images"][0]]).hallucinated > 0 for row in rows]
        for side in ("chosen", "rejected")
    }
    return {
        "pairs": len(rows),
        "wrong_chosen": statistics.fmean(hallucinated["chosen"]),
        "wrong_rejected": 1 - statistics.fmean(hallucinated["rejected"]),
    }


def decode(run: Run) -> dict[str, Any]:
    """The paper's baseline without training: of five candidates, continue with a factual one (one detector)."""
    from lightning import seed_everything

    torch.set_num_threads(1)
    start, world = time.monotonic(), WORLDS[run.world]
    with quiet(ROOT / "logs" / f"{run.world}-{run.arm}-{run.seed}.log"):
        seed_everything(run.seed)
        scenes = Path(locate("heldout_scenes.jsonl", seed=run.seed))
        prompts = read_scenes(scenes)
        policy = Policy.load(PolicyArgs(path=str(locate(world.captioner, seed=run.seed))), trainable=False)
        detectors = oracles(scenes, run.seed, world.errors)[:1]
        captions = bootstrap_scenes(policy, prompts, detectors, run.seed, BOOTSTRAP, replace(SAMPLING, n=5))
    counts = [chair_counts(coco().mentions(c.text), c.prompt.row["objects"]) for c in captions]
    mentions = sum(count.mentions for count in counts)
    scores = {
        "chair_i": sum(count.hallucinated for count in counts) / max(mentions, 1),
        "chair_s": statistics.fmean(count.hallucinated > 0 for count in counts),
        "recall": sum(count.hit for count in counts) / sum(count.truth for count in counts),
        "mentions": mentions / len(counts),
        "words": statistics.fmean(len(c.text.split()) for c in captions),
    }
    seconds = round(time.monotonic() - start, 1)
    return {"key": run.key, **asdict(run), "after": {"temperature_1": scores}, "seconds": seconds}


def runs(world: str, seeds: Sequence[int] = SEEDS) -> list[Run]:
    return [Run(arm, seed, world) for seed in seeds for arm in WORLDS[world].arms]


def run_all(planned: list[Run], results: dict[str, dict[str, Any]], workers: int) -> None:
    """Run what has no result yet."""
    waiting = [run for run in planned if run.key not in results]
    start = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        # Captions come with the paper's pairs.
        sources = {(run.world, ARMS[run.arm].data, run.seed) for run in waiting if run.arm in ARMS}
        sources = {(world, "paper" if name == CAPTIONS else name, seed) for world, name, seed in sources}
        missing = sorted(source for source in sources if not pairs_file(*source).exists())
        captioners = sorted({(WORLDS[world].captioner, seed) for world, _, seed in missing})
        for label in pool.map(_build, *zip(*captioners, strict=True)) if missing else ():
            print(f"{label}, {(time.monotonic() - start) / 60:.1f} min", flush=True)
        for label in pool.map(prepare, *zip(*missing, strict=True)) if missing else ():
            print(f"pairs of {label}, {(time.monotonic() - start) / 60:.1f} min", flush=True)
        jobs = [pool.submit(train if run.arm in ARMS else decode, run) for run in waiting]
        for done, future in enumerate(as_completed(jobs), start=1):
            result = future.result()
            results[result["key"]] = result
            append_lines(ROOT / "results.jsonl", [result])
            after, minutes = result["after"]["temperature_1"], (time.monotonic() - start) / 60
            print(
                f"{done} of {len(waiting)}, {minutes:.1f} min: {result['world']} {result['arm']} {result['seed']} "
                f"-> {after['chair_i']:.3f}, recall {after['recall']:.3f}",
                flush=True,
            )


def _build(captioner: str, seed: int) -> str:
    torch.set_num_threads(1)
    with quiet(ROOT / "logs" / f"build-{captioner}-{seed}.log"):
        locate(captioner, seed=seed)
    return f"{captioner} {seed}"


def wrong_mentions(scores: dict[str, float]) -> float:
    """Hallucinated mentions of a caption."""
    return scores["chair_i"] * scores["mentions"]


def report(results: dict[str, dict[str, Any]]) -> None:
    """Fill the page's tables, one for each world and decoding; those of a world that has not run stay."""
    page = PAGE.read_text()
    for world in WORLDS:
        done = [run for run in runs(world) if run.key in results]
        if done:
            keep(summaries_of(world), [results[run.key] for run in done])
        for decoding, text in tables(world, {(run.arm, run.seed): results[run.key] for run in done}).items():
            page = fill(page, decoding if world == COUPLES else f"{world} {decoding}", text)
    PAGE.write_text(page)
    print(f"{PAGE} is up to date.")


def summaries_of(world: str) -> str:
    """Name of the file of a world's kept runs."""
    return "sentences" if world == COUPLES else f"sentences_{world}"


def tables(world: str, results: dict[tuple[str, int], dict[str, Any]]) -> dict[str, str]:
    """Decoding -> Markdown, of the arms that ran on every seed; none without the arm that they are compared with."""
    runs_of = {
        arm: [results[arm, seed] for seed in SEEDS]
        for arm in WORLDS[world].arms
        if all((arm, seed) in results for seed in SEEDS)
    }
    if BASE not in runs_of:
        return {}
    before = [run["before"] for run in runs_of[BASE]]
    filled = {}
    for decoding in DECODINGS:
        lines = [
            "| arm | pairs | mislabelled | hallucinated mentions | fewer | minus `cdpo` (95 %) | captions with one | "
            "recall | of the base's | words |",
            "|---|---|---|---|---|---|---|---|---|---|",
            _row("base", [{"after": scores} for scores in before], decoding, before, None),
        ]
        for arm, arm_runs in runs_of.items():
            if decoding in arm_runs[0]["after"]:
                lines.append(_row(arm, arm_runs, decoding, before, runs_of[BASE] if arm != BASE else None))
        filled[decoding] = "\n".join(lines)
    return filled


def _row(arm: str, runs: list[Any], decoding: str, before: list[Any], base: list[Any] | None) -> str:
    after = [run["after"][decoding] for run in runs]
    before = [scores[decoding] for scores in before]
    mean = lambda key: statistics.fmean(scores[key] for scores in after)  # noqa: E731
    spread = statistics.stdev(scores["chair_i"] for scores in after)
    reduction = statistics.fmean(1 - wrong_mentions(a) / wrong_mentions(b) for a, b in zip(after, before, strict=True))
    recall_ratio = statistics.fmean(a["recall"] / b["recall"] for a, b in zip(after, before, strict=True))
    difference = ""
    if base is not None:
        base_chair = [run["after"][decoding]["chair_i"] for run in base]
        difference = signed(*interval([a["chair_i"] - b for a, b in zip(after, base_chair, strict=True)]))
    pairs, errors = "", ""
    if "pairs" in runs[0]:
        pairs = f"{statistics.fmean(run['pairs'] for run in runs):.0f}"
        shares = [statistics.fmean(run[f"wrong_{side}"] for run in runs) for side in ("chosen", "rejected")]
        errors = " / ".join(f"{share:.1%}" for share in shares)
    cells = [f"`{arm}`", pairs, errors, f"{mean('chair_i'):.1%} (sd {spread:.1%})", f"{reduction:.0%}", difference]
    cells += [f"{mean('chair_s'):.1%}", f"{mean('recall'):.1%}", f"{recall_ratio:.1%}", f"{mean('words'):.0f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), help="which to run")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="which to run; tables have 1 to 5")
    parser.add_argument("--report", action="store_true", help="only fill the tables")
    options = parser.parse_args()
    ROOT.mkdir(parents=True, exist_ok=True)
    results = read_results(ROOT)
    if not options.report:
        planned = [run for world in options.worlds for run in runs(world, options.seeds)]
        run_all(planned, results, options.workers)
    report(results)


if __name__ == "__main__":
    main()
