"""Benchmarks as validation data: one dataloader each."""

from collections.abc import Iterator, Sequence

from lightning.pytorch.trainer.states import TrainerFn

from datamodules.loaders import StreamDataModule, at_least_one
from lit_uniopd.benchmarks.harness.args import HarnessArgs
from lit_uniopd.benchmarks.judging.args import JudgeArgs
from lit_uniopd.benchmarks.loading import load_benchmarks
from lit_uniopd.benchmarks.registry import expand
from lit_uniopd.benchmarks.shards import EvalBatch, eval_batches
from lit_uniopd.benchmarks.spec import Benchmark, ProfileName
from lit_uniopd.errors import UserError


class EvalLoader:
    """Yields the given batches. Not a list: Lightning would take each batch for a dataloader."""

    def __init__(self, batches: Sequence[EvalBatch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[EvalBatch]:
        return iter(self.batches)


class BenchmarkDataModule(StreamDataModule):
    """The rows of benchmarks, for `uniopd validate`.

    Args:
        benchmarks: Names (`aime24`), names with a protocol (`chartqa@lmms`), groups (`uni_opd`, `math`) or YAML files
            of your own. `uniopd benchmarks` lists them. `lm_eval:ifeval` is a task, group or file of lm-eval's,
            `lmms_eval:mme` a task or group of lmms-eval's.
        profile: How much of them: fixture (bundled rows, no network), smoke (16 rows), curve (up to 200, for curves),
            paper (all, as published).
        max_rows: Answers written at the same time: fewer need less memory.
        limit: At most so many problems of each benchmark. Default: as the profile says.
        harness: How the harnesses' tasks are asked.
        judge: Who judges the answers that no rule can (AlpacaEval 2, Arena-Hard, MM-Vet); the options are those of
            `uniopd judge`. Default: nobody, and they are exported for a judge.
    """

    def __init__(
        self,
        benchmarks: list[str] = ["uni_opd"],  # noqa: B006  # never mutated; what --help can show
        profile: ProfileName = "smoke",
        max_rows: int = 64,
        limit: int | None = None,
        harness: HarnessArgs = HarnessArgs(),  # noqa: B008  # frozen
        judge: JudgeArgs | None = None,
    ) -> None:
        super().__init__()
        at_least_one(max_rows=max_rows, limit=limit)
        self.specs = expand(benchmarks, harness)
        self.profile: ProfileName = profile
        self.max_rows = max_rows
        self.limit = limit
        self.judge = judge
        self.benchmarks: list[Benchmark] = []

    def prepare_data(self) -> None:
        """Download what is missing, on one process."""
        self._load()

    def setup(self, stage: str | None = None) -> None:
        """Read the rows.

        Raises:
            UserError: if there is nothing to train on here, or a benchmark cannot be had.
        """
        if stage in ("fit", "predict", "test"):
            raise UserError(
                f"BenchmarkDataModule has nothing to {TrainerFn(stage).value} with; use `uniopd validate`, and in "
                "`uniopd fit` the callback callbacks.BenchmarkEvaluation."
            )
        if not self.benchmarks:
            self._load()

    def _load(self) -> None:
        self.benchmarks = load_benchmarks(self.specs, self.profile, limit=self.limit)

    def val_dataloader(self) -> list[EvalLoader]:
        """Each benchmark's batches of this rank; every row once over the ranks, groups of rows together."""
        rank, world_size = self.rank_and_world_size()
        return [
            EvalLoader(eval_batches(benchmark, self.max_rows, rank=rank, world_size=world_size))
            for benchmark in self.benchmarks
        ]
