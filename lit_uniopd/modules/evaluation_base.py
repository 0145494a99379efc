"""How every module validates: ``validation_step`` hands prompts to the evaluation engine, which records and scores."""

from contextlib import ExitStack
from typing import Any

from lightning import LightningModule

from lit_uniopd.benchmarks.distributed_evaluator import EvalResult, Evaluator, run_directory
from lit_uniopd.benchmarks.heldout import example_of, heldout_benchmarks
from lit_uniopd.benchmarks.report.reporter import Reporter
from lit_uniopd.benchmarks.report.summary import compact
from lit_uniopd.benchmarks.shards import EvalBatch, Request
from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.distributed.preemption import StopSignals, interruptible, stop_if_requested
from lit_uniopd.distributed.sharding import ShardingArgs
from lit_uniopd.errors import UserError
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.loading import reads_images
from lit_uniopd.policy.policy import Policy
from lit_uniopd.rewards import GraderPool
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.types import PromptBatch
from lit_uniopd.utils.lightning_internals import set_signal_connector, signal_connector
from lit_uniopd.utils.warning_filters import install_filters


class EvaluatingModule(LightningModule):
    """A module with a policy that answers benchmarks, or held-out prompts as benchmarks of their own.

    Args:
        policy_args: where the policy comes from.
        policy_flag: the option that they came from, for messages.
        val_sampling: how held-out prompts are answered; benchmarks bring their own decoding settings.
        graders: where answers are judged.

    Attributes:
        policy: loaded in ``configure_model``, when Lightning is ready.
        last_evaluation: what the last validation came to.
        loaded_step: optimizer steps of the checkpoint that was loaded; 0: none was.
    """

    policy: Policy

    def __init__(
        self, *, policy_args: PolicyArgs, policy_flag: str, val_sampling: SamplingArgs, graders: GraderPool
    ) -> None:
        super().__init__()
        install_filters()  # here too: a notebook has no command line
        self.policy = None  # type: ignore[assignment]
        self.policy_args = policy_args
        self.policy_flag = policy_flag
        self.val_sampling = val_sampling
        self.graders = graders
        self.heldout: dict[str, Benchmark] = {}
        self.evaluator: Evaluator | None = None
        self.reporter: Reporter | None = None
        self.last_evaluation: EvalResult | None = None
        self.loaded_step = 0
        self._whole = ExitStack()

    def setup(self, stage: str) -> None:
        if not isinstance(signal_connector(self.trainer), StopSignals):
            set_signal_connector(self.trainer, StopSignals(self.trainer))
        asked = getattr(getattr(self.trainer, "datamodule", None), "predict_prompts", ()) if stage == "predict" else ()
        self.graders.prepare({prompt.grader for prompt in asked if prompt.grader is not None})
        self.evaluator = self.make_evaluator(stage)
        self.reporter = Reporter(self.trainer, run_directory(self.trainer))

    # --- being stopped by a signal (see lit_uniopd.distributed.preemption) ---

    def on_stop(self) -> None:
        """Called on all ranks before a stopped run writes its checkpoint."""
        self.graders.close()

    def place_in_step(self) -> str:
        """Where inside of a step a run stands, for people; empty between two steps."""
        return ""

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        stop_if_requested(self.trainer)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def on_fit_end(self) -> None:
        """Nothing more is recorded, neither by this module nor by a callback."""
        if self.trainer.is_global_zero and self.reporter is not None:
            compact(self.reporter.directory)

    def teardown(self, stage: str) -> None:
        self.graders.close()
        if self.reporter is not None:
            self.reporter.show()

    def make_evaluator(self, stage: str) -> Evaluator | None:
        """For the benchmarks of the datamodule, or for its held-out prompts."""
        source: Any = getattr(self.trainer, "datamodule", None)
        benchmarks = getattr(source, "benchmarks", None)
        if benchmarks is None:
            split = "test" if stage == "test" else "val"
            self.heldout = heldout_benchmarks(list(getattr(source, f"{split}_prompts", ())), self.val_sampling, split)
            benchmarks = list(self.heldout.values())
        if not benchmarks:
            return None
        self.check_benchmarks(benchmarks)
        return Evaluator(self.trainer, benchmarks, self.graders, run_directory(self.trainer))

    def check_benchmarks(self, benchmarks: list[Benchmark]) -> None:
        """Refuse what this model or this machine cannot run, before any model is loaded.

        Raises:
            UserError: naming the benchmark and the remedy.
        """
        for benchmark in benchmarks:
            args, flag = self.policy_args_for(benchmark)
            if benchmark.spec.modality == "image" and not reads_images(args, flag):
                raise UserError(
                    f"Benchmark {benchmark.key} has pictures, which --{flag}.path {args.path} cannot read; choose an "
                    "image-text model or leave the benchmark out."
                )
        graders = {name for b in benchmarks for e in b.examples if (name := b.grader(e)) is not None}
        self.graders.prepare(sorted(graders | {name for b in benchmarks for name in b.spec.scoring.also}))

    def policy_args_for(self, benchmark: Benchmark) -> tuple[PolicyArgs, str]:
        """The model that answers a benchmark, and the option it comes from."""
        return self.policy_args, self.policy_flag

    def policy_for(self, benchmark: Benchmark) -> Policy:
        """The same, loaded."""
        return self.policy

    @property
    def evaluated_policies(self) -> list[Policy]:
        """All that may be asked."""
        return [self.policy]

    def shard(self, policy: Policy) -> None:
        """Shard a policy if the strategy wants that; the only place that knows of a mesh."""
        if self.device_mesh is not None:
            args = getattr(self.trainer.strategy, "sharding", ShardingArgs())
            policy.shard(self.device_mesh["data_parallel"], args)

    @property
    def model_name(self) -> str:
        """Of what is evaluated, for people."""
        return self.policy_args.path

    # --- Lightning's validation loop ---

    def gather(self) -> None:
        """Hold whole weights until ``release``: ranks have differing numbers of rows to answer."""
        self.release()
        for policy in self.evaluated_policies:
            self._whole.enter_context(policy.gathered())

    def release(self) -> None:
        """Back to shards."""
        self._whole.close()

    def on_predict_epoch_start(self) -> None:
        self.gather()

    def on_predict_epoch_end(self) -> None:
        self.release()

    def on_validation_epoch_start(self) -> None:
        self.gather()
        if self.evaluator is not None:
            # Outside of a fit Lightning counts no steps: the weights are of those that the checkpoint has taken.
            self.evaluator.begin(self.model_name, self.global_step or self.loaded_step)

    def validation_step(self, batch: PromptBatch | EvalBatch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Answer held-out prompts or a batch of a benchmark. An empty batch only keeps ranks in step."""
        with interruptible(self.trainer):
            if self.evaluator is not None and (requests := self.requests_of(batch)):
                self.evaluator.answer(self.policy_for(requests[0].benchmark), requests)

    def requests_of(self, batch: PromptBatch | EvalBatch) -> list[Request]:
        """What is to be answered; held-out prompts without a grader are not."""
        if isinstance(batch, EvalBatch):
            return list(batch)
        return [Request(self.heldout[p.domain], example_of(p)) for p in batch if p.grader is not None]

    def on_validation_epoch_end(self) -> None:
        """Log every score, also for checkpoint monitors; the reporter adds intervals, health, figures and tables."""
        self.release()
        if self.evaluator is None:
            return
        self.last_evaluation = result = self.evaluator.finish()
        if not self.trainer.sanity_checking:
            self.log_dict(result.tagged(), sync_dist=True)
            if self.heldout and (scores := result.primary()):
                split = next(iter(self.heldout.values())).spec.protocol
                mean = sum(scores.values()) / len(scores)
                self.log(f"{split}/accuracy", mean, prog_bar=True, sync_dist=True)
        assert self.reporter is not None, "setup comes first"
        self.reporter.publish(result, final=self.trainer.state.fn != "fit", scores_logged=True)

    # `uniopd test` is validation on the datamodule's test prompts, under its own tags.
    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end
