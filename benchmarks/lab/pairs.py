"""The laboratory of preference learning: on-policy pairs of known quality, judged well, badly, or flipped.

    python -m benchmarks.lab.pairs                # everything that has no result yet, two runs at a time
    python -m benchmarks.lab.pairs --report       # fill the tables of docs/preference_laboratory.md
    python -m benchmarks.lab.pairs --questions    # the runs of the primary questions instead (questions.py)

Each arm's learning rate is chosen on separate seeds, by the accuracy that it reaches there with the noisy judge.
Each run's result is a line in runs/lab/pairs/results.jsonl as soon as the run is done; a killed laboratory goes on
from there.
"""

import argparse
import multiprocessing
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.lab.grid import digest
from benchmarks.lab.pair_grid import (
    ANSWERS,
    ARMS,
    BATCH,
    PROMPTS,
    RIGHT,
    SEEDS,
    SETTINGS,
    STEPS,
    TABLES,
    TIED,
    WRONG,
    Judge,
    Run,
    pairs_of,
)
from benchmarks.lab.paired_tests import interval
from benchmarks.lab.report import fill, signed
from benchmarks.lab.run import quiet, read_results
from benchmarks.lab.summary_files import keep
from datamodules import PreferenceDataModule
from datamodules.pair_sources import PairSourceArgs
from datamodules.pair_weights import PairWeightArgs
from datamodules.sources import SourceArgs, read_prompts
from lit_uniopd.modules import OmniDPO
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.playground.locate import locate
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.rewards import GRADERS
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.types import Prompt
from lit_uniopd.utils.jsonl import append_lines, write_lines

ROOT, PAGE = Path("runs/lab/pairs"), Path("docs/preference_laboratory.md")
TUNING_SEEDS = (42, 0)
RATES = (1e-4, 3e-4, 1e-3)
BASE = "ln_dpo"
HELDOUT = Judge(noise=0.0)
"""Whose pairs measure: it prefers the right answer."""
HELDOUT_PAIRS = [asdict(HELDOUT), ANSWERS]


def sample(policy: Policy, prompts: list[Prompt], n: int, seed: int) -> list[list[tuple[str, bool]]]:
    """Of each prompt, its answers and whether they are right; greedy if there is one."""
    args = SamplingArgs(n=n, max_new_tokens=40, temperature=float(n > 1), top_p=1.0, top_k=0, max_rows=512)
    texts = write_answers(policy, prompts, args, seed=seed).text
    rights = [
        GRADERS[str(prompt.grader)](prompt.gold, text).correct is True
        for prompt, text in zip((p for p in prompts for _ in range(n)), texts, strict=True)
    ]
    return [list(zip(texts, rights, strict=True))[i : i + n] for i in range(0, len(texts), n)]


def pairs_file(setting: str, seed: int) -> Path:
    """Where the pairs of a setting lie, or those that measure."""
    made = HELDOUT_PAIRS if setting == "heldout" else pairs_of(setting)
    return ROOT / f"{setting}-{digest(made)}-seed{seed}.jsonl"


def prepare(seed: int) -> int:
    """Let a seed's student answer, and write the pairs of every setting and the clean held-out ones."""
    torch.set_num_threads(1)
    with quiet(ROOT / f"prepare-seed{seed}.log"):
        policy = Policy.load(PolicyArgs(path=str(locate("student", seed=seed))), trainable=False)
        for split, count in (("train", PROMPTS), ("heldout", None)):
            prompts = [*read_prompts(SourceArgs(path=str(locate(f"{split}.jsonl", seed=seed))), "lab")]
            random.Random(seed).shuffle(prompts)
            answers = sample(policy, prompts[:count], ANSWERS, seed)
            judges, tied = (SETTINGS, TIED) if split == "train" else ({"heldout": HELDOUT}, 0.0)
            for setting, judge in judges.items():
                write_lines(pairs_file(setting, seed), make_pairs(prompts[:count], answers, judge, tied, seed=seed))
    return seed


def make_pairs(
    prompts: list[Prompt], answers: list[list[tuple[str, bool]]], judge: Judge, tied: float, *, seed: int
) -> list[dict[str, Any]]:
    """A right against a wrong answer of each prompt that has both, and pairs of two wrong ones.

    Args:
        prompts: that were answered.
        answers: of each prompt, with whether they are right.
        judge: who scores them.
        tied: twice this share of the prompts with three wrong answers gives a pair of two.
        seed: of the choice of answers and of the judge's errors.
    """
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for prompt, group in zip(prompts, answers, strict=True):
        right = list(dict.fromkeys(text for text, correct in group if correct))
        wrong = list(dict.fromkeys(text for text, correct in group if not correct))
        rng.shuffle(right)
        rng.shuffle(wrong)
        pairs = [((right[0], RIGHT), (wrong[0], WRONG))] if right and wrong else []
        if len(wrong) > 2 and rng.random() < 2 * tied:
            pairs.append(((wrong[1], WRONG), (wrong[2], WRONG)))
        for pair in pairs:
            common = rng.gauss(0, judge.shared) if judge.shared else 0.0
            judged = [(text, quality + common + judge.error(rng), quality) for text, quality in pair]
            (chosen, high, chosen_quality), (rejected, low, rejected_quality) = sorted(judged, key=lambda a: -a[1])
            if rng.random() < judge.flipped:
                chosen, rejected = rejected, chosen
                chosen_quality, rejected_quality = rejected_quality, chosen_quality
            order = chosen_quality - rejected_quality
            rows.append(
                {
                    "prompt": [dict(message) for message in prompt.messages],
                    "chosen": chosen,
                    "rejected": rejected,
                    "score_chosen": high,
                    "score_rejected": low,
                    "domain": prompt.domain,
                    "kind": "tied" if order == 0 else "true" if order > 0 else "wrong",
                }
            )
    if judge.dealt_out:
        scores = [(row["score_chosen"], row["score_rejected"]) for row in rows]
        rng.shuffle(scores)
        for row, (high, low) in zip(rows, scores, strict=True):
            row |= {"score_chosen": high, "score_rejected": low}
    return rows


def train(run: Run) -> dict[str, Any]:
    """One run: accuracy of greedy answers to held-out prompts, and of the ranking of held-out pairs."""
    from lightning import Trainer, seed_everything

    torch.set_num_threads(1)
    start = time.monotonic()
    with quiet(ROOT / "logs" / f"{run.setting}-{run.arm}-{run.seed}-{run.rate}.log"):
        seed_everything(run.seed)
        loss, weighting = ARMS[run.arm]
        module = OmniDPO(
            PolicyArgs(path=str(locate("student", seed=run.seed))),
            PairLossArgs(**loss),
            optimizer=partial(torch.optim.AdamW, lr=run.rate, betas=(0.9, 0.98), weight_decay=0.0),
            seed=run.seed,
        )
        data = PreferenceDataModule(
            train=PairSourceArgs(path=str(pairs_file(run.setting, run.seed))),
            val=PairSourceArgs(path=str(pairs_file("heldout", run.seed))),
            batch_size=BATCH,
            val_batch_size=256,
            weighting=PairWeightArgs(eta=0.7, **weighting),
            seed=run.seed,
        )
        off: dict[str, Any] = dict.fromkeys(
            ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode"], False
        )
        trainer = Trainer(
            accelerator="cpu",
            max_steps=STEPS,
            gradient_clip_val=1.0,
            limit_val_batches=0,
            use_distributed_sampler=False,
            **off,
        )
        trainer.fit(module, data)
        validator = Trainer(accelerator="cpu", use_distributed_sampler=False, **off)
        (scores,) = validator.validate(module, data, verbose=False)
        prompts = [*read_prompts(SourceArgs(path=str(locate("heldout.jsonl", seed=run.seed))), "lab")]
        right = [answers[0][1] for answers in sample(module.policy, prompts, 1, run.seed)]
    domains = {
        domain: statistics.fmean(r for r, p in zip(right, prompts, strict=True) if p.domain == domain)
        for domain in sorted({prompt.domain for prompt in prompts})
    }
    return {
        "key": run.key,
        **asdict(run),
        **domains,
        "accuracy": statistics.fmean(domains.values()),
        "pairs": scores["val/accuracy"],
        "seconds": round(time.monotonic() - start, 1),
    }


def run_all(runs: list[Run], results: dict[str, dict[str, Any]], workers: int) -> None:
    """Run what has no result yet."""
    waiting = [run for run in runs if run.key not in results]
    needed = {(name, run.seed) for run in waiting for name in (run.setting, "heldout")}
    missing = sorted({seed for name, seed in needed if not pairs_file(name, seed).exists()})
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for seed in pool.map(prepare, missing):
            print(f"seed {seed}: pairs are there", flush=True)
        start = time.monotonic()
        for done, future in enumerate(as_completed([pool.submit(train, run) for run in waiting]), start=1):
            result = future.result()
            results[result["key"]] = result
            append_lines(ROOT / "results.jsonl", [result])
            minutes = (time.monotonic() - start) / 60
            print(
                f"{done} of {len(waiting)}, {minutes:.1f} min: {result['setting']} {result['arm']} {result['seed']} "
                f"{result['rate']} -> {result['accuracy']:.3f}, pairs {result['pairs']:.3f}",
                flush=True,
            )


def tuning_runs() -> list[Run]:
    return [Run("noisy", arm, seed, rate) for seed in TUNING_SEEDS for arm in ARMS for rate in RATES]


def best_rates(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Of each arm, the learning rate with the best mean accuracy on the tuning seeds."""
    means: dict[tuple[str, float], list[float]] = {}
    for run in tuning_runs():
        means.setdefault((run.arm, run.rate), []).append(results[run.key]["accuracy"])
    return {arm: max(RATES, key=lambda rate: statistics.fmean(means[arm, rate])) for arm in ARMS}


def final_runs(rates: dict[str, float]) -> list[Run]:
    return [Run(setting, arm, seed, rates[arm]) for seed in SEEDS for setting in TABLES for arm in ARMS]


def report(results: dict[str, dict[str, Any]]) -> None:
    """Fill the page's tables."""
    rates = best_rates(results)
    keep("pairs", [results[run.key] for run in final_runs(rates)])
    page = PAGE.read_text()
    for setting in TABLES:
        runs_of = {arm: [results[Run(setting, arm, seed, rates[arm]).key] for seed in SEEDS] for arm in ARMS}
        lines = [
            "| arm | lr | math | code | accuracy | minus `ln_dpo` (95 %) | `omni_dpo` minus it (95 %) | "
            "pair accuracy | minus `ln_dpo` (95 %) |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for arm, runs in runs_of.items():
            cells = [f"`{arm}`", f"{rates[arm]:.0e}"]
            cells += [f"{statistics.fmean(run[domain] for run in runs):.3f}" for domain in ("math", "code")]
            for metric in ("accuracy", "pairs"):
                values = [run[metric] for run in runs]
                above_base = [value - base[metric] for value, base in zip(values, runs_of[BASE], strict=True)]
                cells += [f"{statistics.fmean(values):.3f} (sd {statistics.stdev(values):.3f})"]
                cells += ["" if arm == BASE else signed(*interval(above_base))]
                if metric == "accuracy":
                    below_omni = [omni[metric] - value for value, omni in zip(values, runs_of["omni_dpo"], strict=True)]
                    cells += ["" if arm == "omni_dpo" else signed(*interval(below_omni))]
            lines.append("| " + " | ".join(cells) + " |")
        page = fill(page, setting, "\n".join(lines))
    PAGE.write_text(page)
    print(f"{PAGE} is up to date.")


def main() -> None:
    """Tune, run, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--report", action="store_true", help="only fill the tables")
    parser.add_argument("--questions", action="store_true", help="the runs of the primary questions, without a report")
    options = parser.parse_args()
    ROOT.mkdir(parents=True, exist_ok=True)
    results = read_results(ROOT)
    if options.questions:
        from benchmarks.lab.questions import Family

        run_all(Family.read("preference_questions").cells(), results, options.workers)
        return
    if not options.report:
        run_all(tuning_runs(), results, options.workers)
        run_all(final_runs(best_rates(results)), results, options.workers)
    report(results)


if __name__ == "__main__":
    main()
