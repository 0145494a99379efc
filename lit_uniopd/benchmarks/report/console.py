"""The scores as a table by domain."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lit_uniopd.benchmarks.report.means import domain_means, mean16
from lit_uniopd.benchmarks.spec import DOMAINS

if TYPE_CHECKING:
    from lit_uniopd.benchmarks.distributed_evaluator import EvalResult

WIDTH = 130
"""Characters of a line where no terminal says how many there are."""

Scores = Mapping[str, float]
"""``Benchmark.key`` -> the score that stands for it."""


def score_table(
    result: "EvalResult", title: str, columns: Mapping[str, Scores] | None = None, heading: str = "score"
) -> Table:
    """One row per benchmark, the mean of each domain below its benchmarks.

    Args:
        result: of the model.
        title: above the table.
        columns: other models' scores to show before and behind the model's own column, which is ``""``.
        heading: of that column.
    """
    columns = columns or {"": {}}
    table = Table(title=title)
    for name in ("domain", "benchmark", "metric"):
        table.add_column(name, no_wrap=name == "benchmark")
    for name in columns:
        table.add_column(name or heading, justify="right")
    table.add_column("95 % interval", justify="right")
    for name in ("answers", "cut", "no answer"):
        table.add_column(name, justify="right")
    primary = result.primary()
    scores_by_column = {name: primary if name == "" else scores for name, scores in columns.items()}
    specs = {key: benchmark.spec for key, benchmark in result.benchmarks.items()}
    for domain in sorted({spec.domain for spec in specs.values()}, key=_domain_order):
        keys = [key for key, spec in specs.items() if spec.domain == domain]
        for i, key in enumerate(keys):
            table.add_row(DOMAINS.get(domain, domain) if i == 0 else "", *_cells(result, key, scores_by_column))
        grouped = {name: scores for name, scores in result.groups.items() if name.startswith(f"{domain}:")}
        for name, scores in grouped.items():
            metric = next(iter(scores), "-")
            cells = [_percent(scores.get(metric)) if column == "" else "-" for column in columns]
            table.add_row("", f"[bold]{name}[/bold]", metric, *cells)
        if len(keys) > 1 and any(specs[key].report.weight for key in keys):
            means = [domain_means(_complete(result, scores), specs).get(domain) for scores in scores_by_column.values()]
            table.add_row("", "[bold]mean[/bold]", "", *map(_percent, means), end_section=True)
        else:
            table.add_section()
    overall = [mean16(_complete(result, scores), specs) for scores in scores_by_column.values()]
    if any(mean is not None for mean in overall):
        table.add_row("[bold]all 16[/bold]", "[bold]mean[/bold]", "", *map(_percent, overall))
    return table


def _cells(result: "EvalResult", key: str, columns: Mapping[str, Scores]) -> list[str]:
    benchmark, card = result.benchmarks[key], result.cards.get(key)
    name = benchmark.name + ("" if result.complete[key] else " (partial)")
    if benchmark.spec.scoring.judge is not None and not result.scores[key]:
        return [name, f"exported for {benchmark.spec.scoring.judge}", *("-" for _ in columns), "-"]
    metric = next(iter(result.scores[key]), "-")
    interval = None if card is None else card.interval.get(metric)
    health = {} if card is None else card.health
    judged = result.judged.get(key)
    if judged is not None and metric in judged["scores"] and benchmark.spec.scoring.grader is None:
        label = f"{metric}, {judged['judge']['name']} by {judged['template']['name']}"
    else:
        label = metric
    return [
        name,
        label,
        *(_percent(scores.get(key)) for scores in columns.values()),
        "-" if interval is None else " - ".join(_percent(end, like=result.scores[key][metric]) for end in interval),
        str(len(result.records[key])),
        _percent(health.get("truncated")),
        _percent(health.get("no_answer")),
    ]


def _complete(result: "EvalResult", scores: Scores) -> dict[str, float]:
    return {key: score for key, score in scores.items() if result.complete.get(key, False)}


def _percent(value: float | None, like: float | None = None) -> str:
    if value is not None and abs(value if like is None else like) > 1:  # a perplexity, say
        return f"{value:.4g}"
    return "-" if value is None else f"{value:.1%}"


def _domain_order(domain: str) -> tuple[int, str]:
    domains = list(DOMAINS)
    return (domains.index(domain) if domain in domains else len(domains)), domain


def print_scores(result: "EvalResult", title: str, columns: Mapping[str, Scores] | None = None) -> None:
    """Show the table on the terminal."""
    wide_console().print(score_table(result, title, columns))


def wide_console() -> Console:
    """A console; in a log file as wide as the tables need."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)
