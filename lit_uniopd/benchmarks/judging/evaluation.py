"""Judging while a run evaluates: the same road as `uniopd judge`, with the answers that have just been written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lit_uniopd.benchmarks.judging import JUDGED_HERE
from lit_uniopd.benchmarks.judging.args import JudgeArgs, options_named
from lit_uniopd.benchmarks.judging.build import Judging
from lit_uniopd.benchmarks.judging.judges import reach
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.errors import UserError
from lit_uniopd.utils.progress import say


class EvaluationJudge:
    """Judges the benchmarks of an evaluation that no rule can score.

    A model that judges here is loaded for each benchmark, and let go after it: between evaluations it takes no room.

    Args:
        args: the options.
        benchmarks: that are evaluated.
        prefix: of the options in messages, ``--data.judge.`` say.

    Attributes:
        keys: of the benchmarks that it judges.

    Raises:
        UserError: naming the option, if the judge is not there or something does not fit, before anything is answered.
    """

    def __init__(self, args: JudgeArgs, benchmarks: Sequence[Benchmark], prefix: str) -> None:
        self.prefix = prefix
        with options_named(prefix):
            judged = _judged(args, benchmarks)
            # An engine of vLLM's in this process would take the room of the run's own.
            self._judgings = {b.key: Judging(args, b, auto_engine="loop") for b in judged}
            reach(args)
        self.keys = frozenset(self._judgings)

    def result(self, key: str, records: Sequence[Record], directory: Path) -> dict[str, Any]:
        """Scores, counts and origin, as `uniopd judge` has them.

        Args:
            key: of a benchmark.
            records: the answers to it.
            directory: of the run, which keeps the verdicts.

        Raises:
            UserError: if the judge cannot be asked, or nothing that it says can be read.
        """
        try:
            with options_named(self.prefix):
                judged = self._judgings[key].of_answers(records, directory)
                say(judged.cost().sentence(key))
                judged.ask()
                result = judged.result()
                judged.log_counts(result)
                judged.refuse_no_score(result)
                return result
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.prefix}judge does not fit on the device beside the run; give a smaller one, or a server by "
                f"{self.prefix}url."
            ) from error
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _judged(args: JudgeArgs, benchmarks: Sequence[Benchmark]) -> list[Benchmark]:
    """What is judged of an evaluation."""
    judged = [b for b in benchmarks if b.harness is None and b.spec.scoring.export in JUDGED_HERE]
    names = ", ".join(benchmark.key for benchmark in judged)
    if not judged:
        raise UserError(
            f"--judge {args.judge} has nothing to judge, as a grader or a harness scores all benchmarks here; leave it "
            "out, or evaluate one that is judged: `uniopd benchmarks` lists them."
        )
    if args.benchmark is None:
        return judged
    wanted = find_spec(args.benchmark).key
    if wanted not in {benchmark.key for benchmark in judged}:
        raise UserError(f"--benchmark {wanted} is not among the judged benchmarks here; name one of {names}.")
    return [benchmark for benchmark in judged if benchmark.key == wanted]
