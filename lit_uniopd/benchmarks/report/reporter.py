"""Publishing an evaluation: loggers, files and the terminal."""

import logging
from collections.abc import Mapping
from pathlib import Path

from lightning import Trainer

from lit_uniopd.benchmarks.distributed_evaluator import EvalResult
from lit_uniopd.benchmarks.exports import export
from lit_uniopd.benchmarks.report.console import Scores, print_scores
from lit_uniopd.benchmarks.report.summary import SUMMARY, compact, summary_of
from lit_uniopd.benchmarks.report.tensorboard import draw_lines, hparams_of, scalars_of, write_figures
from lit_uniopd.monitoring.media import run_adapters
from lit_uniopd.utils.lightning_internals import logged_step
from lit_uniopd.utils.write_json import write_json

log = logging.getLogger(__name__)


class Reporter:
    """Writes one run's evaluations; only rank 0 does anything.

    Args:
        trainer: whose loggers are written to.
        directory: of the run.
    """

    def __init__(self, trainer: Trainer, directory: Path) -> None:
        self.trainer = trainer
        self.directory = directory
        self.before: EvalResult | None = None
        self._closed: EvalResult | None = None

    def publish(
        self,
        result: EvalResult,
        *,
        final: bool = False,
        references: Mapping[str, Scores] | None = None,
        scores_logged: bool = False,
    ) -> None:
        """Write one evaluation.

        Args:
            result: the evaluation. A partial one (the trainer's sanity check) is not logged.
            final: the run ends with it: write the summary, compact the records, export answers for judges.
            references: name -> scores of other models, drawn as lines and in the radar.
            scores_logged: the module has logged the scores themselves.
        """
        if not self.trainer.is_global_zero:
            return
        references = references or {}
        if final or all(result.complete.values()):
            self._log(result, references, scores_logged)
        self.before = result
        if final:
            self._close(result)

    def _log(self, result: EvalResult, references: Mapping[str, Scores], scores_logged: bool) -> None:
        step = self._step()
        logged = result.tagged() if scores_logged else {}
        values = {tag: value for tag, value in scalars_of(result).items() if tag not in logged}
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step)
        write_figures(self.trainer, result, step, self.before, references)
        draw_lines(self.trainer, references, result, step)

    def draw_references(self, references: Mapping[str, Scores]) -> None:
        """Draw other models' scores as lines beside the evaluation that was published last."""
        if self.before is not None:
            draw_lines(self.trainer, references, self.before, self._step())

    def _step(self) -> int:
        # The axis of Lightning's own curves, which differs from global_step under manual optimization.
        return logged_step(self.trainer)

    def _close(self, result: EvalResult) -> None:
        write_json(self.directory / SUMMARY, summary_of(result))
        scores = {f"final/{key}": score for key, score in result.primary().items()}
        for adapter in run_adapters(self.trainer):
            adapter.final_scores(hparams_of(result), scores, self._step())
        for key, benchmark in result.benchmarks.items():
            if benchmark.spec.scoring.export is not None and benchmark.spec.scoring.judge is not None:
                path = export(result.records[key], benchmark, self.directory / "exports", result.name)
                if key not in result.judged:
                    log.info("%s is judged by %s; the answers are in %s.", key, benchmark.spec.scoring.judge, path)
        compact(self.directory)
        self._closed = result

    def show(self) -> None:
        """Print the last final evaluation, once. Call it when no progress bar is shown."""
        if self._closed is not None:
            print_scores(self._closed, f"{self._closed.name} (step {self._closed.step})")
            log.info("Records and summary: %s", self.directory)
            self._closed = None
