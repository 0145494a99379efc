"""An evaluation in the loggers: scores with intervals, health, lengths, samples, pictures and the radar."""

from collections.abc import Mapping
from typing import Any

from lightning import Trainer

from lit_uniopd.benchmarks.distributed_evaluator import EvalResult
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.report.means import domain_means, mean16
from lit_uniopd.benchmarks.report.radar import radar_figure
from lit_uniopd.benchmarks.report.samples import sample_images, sample_table
from lit_uniopd.benchmarks.spec import section
from lit_uniopd.monitoring.media import log_figure, log_histogram, log_image, log_text, run_adapters, shows_media

Scores = Mapping[str, float]


def scalars_of(result: EvalResult) -> dict[str, float]:
    """Tag -> value: scores, the ends of their intervals, means of complete domains, breakdowns and health."""
    scalars = result.tagged()
    for key, card in result.cards.items():
        benchmark = result.benchmarks[key]
        for name, ends in card.interval.items():
            scalars |= {benchmark.tag(f"{name}_low"): ends[0], benchmark.tag(f"{name}_high"): ends[1]}
        for field, scores_by_value in card.breakdown.items():
            scalars |= {benchmark.tag(f"by_{field}/{value}"): score for value, score in scores_by_value.items()}
        scalars |= {f"eval_health/{key}/{name}": value for name, value in card.health.items()}
    return scalars | means_of(result)


def means_of(result: EvalResult) -> dict[str, float]:
    """Means over domains and over the 16, where every member was evaluated completely."""
    published = {k: b for k, b in result.benchmarks.items() if not b.is_heldout}
    complete = {k: v for k, v in result.primary().items() if k in published and result.complete[k]}
    specs = {key: benchmark.spec for key, benchmark in published.items()}
    if not published:
        return {}
    section_name = section(next(iter(published.values())).profile)
    values = {f"{section_name}/{d}/mean": mean for d, mean in domain_means(complete, specs).items() if mean is not None}
    overall = mean16(complete, specs)
    return values if overall is None else values | {f"{section_name}/mean16": overall}


def write_figures(
    trainer: Trainer,
    result: EvalResult,
    step: int,
    before: EvalResult | None,
    references: Mapping[str, Scores],
) -> None:
    """Everything that is not a scalar.

    Args:
        trainer: whose loggers get it.
        result: this evaluation.
        step: on the axis of the scalars.
        before: the evaluation before, for what has changed.
        references: name -> scores of other models, for the radar.
    """
    if not shows_media(trainer):
        return
    for key, records in result.records.items():
        benchmark = result.benchmarks[key]
        old = {} if before is None else {(r.sample_id, r.sample_idx): r for r in before.records.get(key, [])}
        log_text(trainer, f"eval_samples/{key}", sample_table(benchmark, records, old), step)
        for i, picture in enumerate(sample_images(benchmark, records)):
            log_image(trainer, f"eval_images/{key}/{i}", picture, step)
        for name, lengths in _lengths(records).items():
            log_histogram(trainer, f"eval_len/{key}/{name}", lengths, step)
    models = {**published_scores(result), **references, result.name: result.primary()}
    published = {key: benchmark.spec for key, benchmark in result.benchmarks.items()}
    if (figure := radar_figure(models, published)) is not None:
        log_figure(trainer, "eval_radar", figure, step)


def published_scores(result: EvalResult) -> dict[str, dict[str, float]]:
    """Model of the literature -> scores, of benchmarks that were run as published."""
    models: dict[str, dict[str, float]] = {}
    for key, benchmark in result.benchmarks.items():
        for name, score in benchmark.spec.published.items() if benchmark.profile == "paper" else ():
            models.setdefault(name, {})[key] = score
    return models


def _lengths(records: list[Record]) -> dict[str, list[int]]:
    split: dict[str, list[int]] = {"right": [], "wrong": []}
    for record in records:
        split["right" if record.correct else "wrong"].append(record.n_tokens)
    return {name: lengths for name, lengths in split.items() if lengths}


def draw_lines(trainer: Trainer, references: Mapping[str, Scores], result: EvalResult, step: int) -> None:
    """Other models' scores as lines beside those of the run.

    Args:
        trainer: whose loggers get them.
        references: name -> scores by ``Benchmark.key``.
        result: of the model itself, for the tags.
        step: where the line goes on.
    """
    for name, scores in references.items():
        metrics = {key: next(iter(result.scores.get(key, {})), None) for key in scores}
        line = {
            result.benchmarks[key].tag(metric): scores[key] for key, metric in metrics.items() if metric is not None
        }
        for adapter in run_adapters(trainer):
            adapter.reference_scores(name, line, step)


def hparams_of(result: EvalResult) -> dict[str, Any]:
    """The final scores' hyper-parameters."""
    profiles = {benchmark.profile for benchmark in result.benchmarks.values()}
    return {"model": result.name, "profile": ",".join(sorted(profiles)), "step": result.step}
