"""What balancing and calibration cost, as a share of a quickstart step, and the diagnostics beside them:

    python benchmarks/calibration.py --rollouts 30

Both are timed inside one run of the quickstart's model, data and settings; the first two steps are left out.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks import MarginCalibration, OrderDiagnostics
from datamodules import OnlineBalanceArgs, PromptDataModule, SourceArgs
from lit_uniopd.modules import UniOPD
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.playground import thread_probe
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.teachers import TeacherArgs
from lit_uniopd.types import Rollouts


def main() -> None:
    """Print medians per step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=30)
    rollouts = parser.parse_args().rollouts
    thread_probe()
    seconds_of: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, kind: type) -> type:
        def on_rollouts_scored(self: Any, *args: Any) -> None:
            start = time.perf_counter()
            kind.on_rollouts_scored(self, *args)  # type: ignore[attr-defined]
            seconds_of[name].append(time.perf_counter() - start)

        return type(kind.__name__, (kind,), {"on_rollouts_scored": on_rollouts_scored})

    class Step(UniOPD):
        def log_step(self, rollouts: Rollouts, trained: WeightedMeans, seconds: dict[str, float]) -> None:
            super().log_step(rollouts, trained, seconds)
            seconds_of["step"].append(seconds["step"])

    data = timed("balancing", PromptDataModule)(
        train=SourceArgs(path="playground:train"), batch_size=32, online_balance=OnlineBalanceArgs()
    )
    callbacks = [timed("calibration", MarginCalibration)(), timed("diagnostics", OrderDiagnostics)(every_n_steps=40)]
    model = Step(
        student=PolicyArgs(path="playground:student"),
        teachers={name: TeacherArgs(path=f"playground:{name}_teacher") for name in ("math", "code")},
        sampling=SamplingArgs(n=4, max_new_tokens=40),
        updates_per_rollout=4,
        grader_workers=1,
        seed=0,
    )
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=4 * rollouts,
            callbacks=callbacks,
            logger=TensorBoardLogger(directory),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=directory,
            use_distributed_sampler=False,
        )
        trainer.fit(model, data)
    medians = {name: statistics.median(values[2:]) for name, values in seconds_of.items()}
    for name in ("balancing", "calibration", "diagnostics"):
        print(f"{name:12s} {1000 * medians[name]:7.2f} ms  {medians[name] / medians['step']:6.2%} of a step")
    both = medians["balancing"] + medians["calibration"]
    print(f"balancing and calibration together: {both / medians['step']:.2%} of {medians['step']:.3f} s")


if __name__ == "__main__":
    main()
