"""A model that is only evaluated: `uniopd validate -c configs/benchmarks.yaml`."""

from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.loading import load_processor
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sandbox import SandboxArgs


class Evaluation(PolicyModule):
    """Let a model, or a text and an image-text model side by side, answer benchmarks.

    Uni-OPD's table of 16 is of two models: the text benchmarks are answered by an LLM, the others by an MLLM.

    Args:
        policy: the model; with `vision_policy`, that for the benchmarks without pictures.
        vision_policy: answers the benchmarks with pictures; null: `policy` does.
        val_sampling: how prompts of a PromptDataModule are answered; null: one greedy answer. Benchmarks bring their
            own decoding settings, and take its `engine`, `server` and `colocate`.
        grader_workers: processes that grade answers.
        grader_timeout: seconds that one answer may take to grade.
        sandbox: where programs that answers contain are run; null: in the safest way this machine has.
    """

    def __init__(
        self,
        policy: PolicyArgs,
        vision_policy: PolicyArgs | None = None,
        val_sampling: SamplingArgs | None = None,
        grader_workers: int = 2,
        grader_timeout: float = 10.0,
        sandbox: SandboxArgs | None = None,
    ) -> None:
        super().__init__(
            policy,
            flag="model.policy",
            val_sampling=val_sampling,
            grader_workers=grader_workers,
            grader_timeout=grader_timeout,
            sandbox=sandbox,
        )
        self.vision_args = vision_policy
        self.vision_policy: Policy | None = None

    def prepare_data(self) -> None:
        super().prepare_data()
        if self.vision_args is not None:
            load_processor(self.vision_args, "model.vision_policy")

    def configure_model(self) -> None:
        if self.policy is None:
            self.policy = self.load(self.policy_args, self.policy_flag)
            if self.vision_args is not None:
                self.vision_policy = self.load(self.vision_args, "model.vision_policy")
            for policy in self.evaluated_policies:
                self.shard(policy)

    @property
    def evaluated_policies(self) -> list[Policy]:
        return [self.policy] if self.vision_policy is None else [self.policy, self.vision_policy]

    @property
    def evaluated_args(self) -> list[tuple[PolicyArgs, str]]:
        second = [] if self.vision_args is None else [(self.vision_args, "model.vision_policy")]
        return [(self.policy_args, self.policy_flag), *second]

    def policy_args_for(self, benchmark: Benchmark) -> tuple[PolicyArgs, str]:
        if self.vision_args is not None and benchmark.spec.modality == "image":
            return self.vision_args, "model.vision_policy"
        return super().policy_args_for(benchmark)

    @property
    def model_name(self) -> str:
        return (
            self.policy_args.path if self.vision_args is None else f"{self.policy_args.path} + {self.vision_args.path}"
        )

    def policy_for(self, benchmark: Benchmark) -> Policy:
        pictures = benchmark.spec.modality == "image"
        return self.vision_policy if pictures and self.vision_policy is not None else self.policy
