"""How often a policy hallucinates objects, and where in its captions: before and after training."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, Trainer
from rich.table import Table

from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.registry import expand
from lit_uniopd.benchmarks.report.console import wide_console
from lit_uniopd.benchmarks.spec import ProfileName
from lit_uniopd.diagnostics.figures import before_after_figure
from lit_uniopd.diagnostics.hallucination import positions_figure
from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.chair import chair_counts
from lit_uniopd.hallucination.lexicon import Lexicon, chair_words
from lit_uniopd.hallucination.positions import PlacedMention, place_mentions
from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.monitoring.media import log_figure, shows_media
from lit_uniopd.monitoring.step_interval import batch_passes_multiple
from lit_uniopd.monitoring.tensorboard_layout import Charts
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.types import Prompt
from lit_uniopd.utils.lightning_internals import logged_step
from lit_uniopd.utils.run_directory import run_directory
from lit_uniopd.utils.seeding import derive_seed
from lit_uniopd.utils.write_json import write_json

Scores = dict[str, float]
SCORES = {
    "chair_i": "hallucinated mentions",
    "chair_s": "captions with one",
    "chair_s_refined": "of captions that name objects",
    "recall": "objects named",
    "mentions": "mentions",
    "words": "words",
}


class HallucinationDiagnostics(Callback):
    """Caption pictures whose objects are known, before training, every so many steps, and after it.

    CHAIR's scores, object recall and length stand side by side, since saying less is the cheapest way to hallucinate
    less. They are logged as `hallucination/<decoding>/<score>`, with a figure of mentions by their place in the
    caption; the table is printed at the end, and saved as `hallucination.json` of the run and, drawn, as
    `hallucination.png`.

    Args:
        benchmark: the name or YAML file of a benchmark with CHAIR's rows: pictures with their objects.
        profile: how much of it (fixture, smoke, curve, paper).
        limit: at most so many pictures; null: as the profile says.
        temperatures: one caption of each picture at each; 0 is greedy.
        max_new_tokens: longest caption.
        batch_size: captions written at the same time.
        every_n_steps: optimizer steps between two measurements; null: only before and after.
        lexicon: coco, chair_robust (CHAIR's words, but not where a caption denies them), or a YAML file of words for
            objects; null: CHAIR's own words and reading, as published scores are counted.
    """

    def __init__(
        self,
        benchmark: str = "chair",
        profile: ProfileName = "curve",
        limit: int | None = None,
        temperatures: Sequence[float] = (0.0, 1.0),
        max_new_tokens: int = 512,
        batch_size: int = 64,
        every_n_steps: int | None = None,
        lexicon: str | None = None,
    ) -> None:
        specs = expand([benchmark])
        if len(specs) != 1 or specs[0].scoring.grader != "chair":
            raise UserError(f"HallucinationDiagnostics.benchmark {benchmark} has no objects of pictures; use chair.")
        if not temperatures or (every_n_steps is not None and every_n_steps < 1) or batch_size < 1:
            raise UserError(
                "HallucinationDiagnostics.temperatures must not be empty, every_n_steps and batch_size above 0."
            )
        self.spec, self.limit = specs[0], limit
        self.profile: ProfileName = profile
        self.temperatures = list(temperatures)
        self.max_new_tokens, self.batch_size, self.every_n_steps = max_new_tokens, batch_size, every_n_steps
        self.lexicon = chair_words() if lexicon is None else Lexicon.read(lexicon)
        self.prompts: list[Prompt] = []
        self.scores: dict[str, dict[str, Scores]] = {}
        """before and after -> decoding -> scores."""
        self.mentions: dict[str, list[PlacedMention]] = {}
        self._last_step = -1

    def setup(self, trainer: Trainer, pl_module: PolicyModule, stage: str) -> None:  # type: ignore[override]
        if stage != "fit":
            return
        if not isinstance(pl_module, PolicyModule):
            raise UserError("HallucinationDiagnostics measures the policy of a module; set --model, to Sentinel say.")
        examples = load_benchmark(self.spec, self.profile, limit=self.limit).examples
        self.prompts = [Prompt(e.id, e.messages, gold=e.gold["objects"], images=e.images) for e in examples]

    def essential_charts(self) -> Charts:
        """The main scores for every way of decoding."""
        names = [decoding_name(temperature) for temperature in self.temperatures]
        return {
            title: [f"hallucination/{name}/{score}" for name in names]
            for title, score in (
                ("Hallucinated mentions (CHAIR_i)", "chair_i"),
                ("Captions with a hallucinated object (CHAIR_s)", "chair_s"),
                ("Objects named (recall)", "recall"),
                ("Words of a caption", "words"),
            )
        }

    # --- when ---

    def on_train_start(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        if "before" not in self.scores:  # not resumed
            self.measure(trainer, pl_module, "before", logged_step(trainer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: PolicyModule, *_: Any, **__: Any) -> None:  # type: ignore[override]
        if batch_passes_multiple(trainer, self.every_n_steps):
            # The loggers' axis counts a batch when it has ended, and here it has not quite.
            self.measure(trainer, pl_module, "after", logged_step(trainer) + 1)

    def on_train_end(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        if self._last_step != trainer.global_step:
            self.measure(trainer, pl_module, "after", logged_step(trainer))
        path = run_directory(trainer) / "hallucination.json"
        if trainer.is_global_zero:
            write_json(path, {"step": trainer.global_step, "pictures": len(self.prompts), **self.scores})
            figure = before_after_figure({when: _shares(scores) for when, scores in self.scores.items()})
            figure.savefig(path.with_suffix(".png"), dpi=110)
            log_figure(trainer, "hallucination/before_after", figure)

    def teardown(self, trainer: Trainer, pl_module: PolicyModule, stage: str) -> None:  # type: ignore[override]
        if trainer.is_global_zero and "after" in self.scores:
            if trainer.progress_bar_callback is not None:
                trainer.progress_bar_callback.teardown(trainer, pl_module, stage)
            wide_console().print(self.table())

    # --- what ---

    def measure(self, trainer: Trainer, pl_module: PolicyModule, when: str, step: int) -> None:
        """Caption the pictures and log the scores, at this step of the loggers' axis. A collective call."""
        self._last_step = trainer.global_step
        rank_prompts = self.prompts[trainer.global_rank :: trainer.world_size]
        self.scores[when] = {}
        for temperature in self.temperatures:
            name = decoding_name(temperature)
            texts = self._captions(pl_module, rank_prompts, temperature)
            sums = torch.zeros(8, dtype=torch.float64)
            for text, prompt in zip(texts, rank_prompts, strict=True):
                sums += torch.tensor(_caption_counts(self.lexicon, text, prompt.gold), dtype=torch.float64)
            if trainer.world_size > 1:
                sums = trainer.strategy.reduce(sums.to(pl_module.device), reduce_op="sum").cpu()
            self.scores[when][name] = _scores(sums.tolist())
            if name == "greedy" or len(self.temperatures) == 1:
                self.mentions[when] = [
                    mention
                    for text, prompt in zip(texts, rank_prompts, strict=True)
                    for mention in place_mentions(text, prompt.gold, self.lexicon)
                ]
            for logger in trainer.loggers:
                tags = {f"hallucination/{name}/{key}": value for key, value in self.scores[when][name].items()}
                logger.log_metrics(tags, step=step)
        if self.mentions and shows_media(trainer):
            log_figure(trainer, "hallucination/positions", positions_figure(self.mentions), step)

    def _captions(self, pl_module: PolicyModule, prompts: list[Prompt], temperature: float) -> list[str]:
        args = SamplingArgs(
            n=1,
            max_new_tokens=self.max_new_tokens,
            temperature=temperature,
            top_p=1.0,
            top_k=0,
            max_rows=self.batch_size,
        )
        texts: list[str] = []
        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            # Keyed by the picture, so that before and after sample with the same noise.
            keys = [derive_seed("caption", prompt.id) >> 1 for prompt in batch]
            with pl_module.policy.gathered():
                texts += write_answers(pl_module.policy, batch, args, seed=pl_module.seed, keys=keys).text
        return texts

    def table(self) -> Table:
        """Scores before and after, by decoding."""
        table = Table(title=f"Captions of {len(self.prompts)} pictures")
        for column in ("decoding", "", "before", "after"):
            table.add_column(column, justify="right" if column in ("before", "after") else "left")
        for name, after in self.scores["after"].items():
            before = self.scores.get("before", {}).get(name, {})
            for row, (key, label) in enumerate(SCORES.items()):
                cells = [_cell(key, scores.get(key)) for scores in (before, after)]
                table.add_row(name if row == 0 else "", label, *cells, end_section=key == "words")
        return table

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.scores.get("before")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["before"] is not None:
            self.scores["before"] = state_dict["before"]


def _shares(scores: dict[str, Scores]) -> Scores:
    """The scores that are shares, by what they are called."""
    return {
        f"{label}, {name.replace('_', ' ')}": by_score[key]
        for name, by_score in scores.items()
        for key, label in SCORES.items()
        if key in ("chair_i", "chair_s", "recall")
    }


def decoding_name(temperature: float) -> str:
    """In tags and tables."""
    return "greedy" if temperature == 0 else f"temperature_{temperature:g}"


def _caption_counts(lexicon: Lexicon, text: str, objects: Sequence[str]) -> list[float]:
    """What `_scores` takes the sum of."""
    counts = chair_counts(lexicon.mentions(text), objects)
    with_hallucination, with_mention = counts.hallucinated > 0, counts.mentions > 0
    words = len(text.split())
    return [counts.hallucinated, counts.mentions, with_hallucination, with_mention, 1, counts.hit, counts.truth, words]


def _scores(sums: Sequence[float]) -> Scores:
    hallucinated, mentions, with_hallucination, with_mention, captions, hit, truth, words = sums
    return {
        "chair_i": hallucinated / max(mentions, 1),
        "chair_s": with_hallucination / max(captions, 1),
        "chair_s_refined": with_hallucination / max(with_mention, 1),
        "recall": hit / max(truth, 1),
        "mentions": mentions / max(captions, 1),
        "words": words / max(captions, 1),
    }


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if key in ("words", "mentions") else f"{value:.1%}"
