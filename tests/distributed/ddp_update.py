"""One UniOPD update on rollouts from a file, on as many gloo ranks as asked for; rank 0 saves the weights.

python ddp_update.py RANKS ROLLOUTS OUT STUDENT MATH CODE
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from tiny import Prompts, module, prompts, trainer

from lit_uniopd.modules import UniOPD
from lit_uniopd.modules.averages import Averages
from lit_uniopd.types import PromptBatch, Rollouts


class FixedRollouts(UniOPD):
    """Trains on the rank's share of given rollouts: sampling differs per rank and would hide the exchange."""

    rollouts_file = ""
    out = ""

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        mine = Rollouts.load(self.rollouts_file)[self.global_rank :: self.trainer.world_size]
        trained = Averages()
        self.optimizer_step_on(mine, trained)
        self.loss_value = trained.reduce(self)["train/loss"]

    def on_train_end(self) -> None:
        if self.global_rank == 0:
            state = {name: p.detach() for name, p in self.named_parameters()}
            torch.save({"weights": state, "loss": self.loss_value}, self.out)


if __name__ == "__main__":
    ranks, rollouts, out, student, math, code = sys.argv[1:]
    torch.set_num_threads(1)
    model = module({"student": student, "math": math, "code": code}, micro_batch_tokens=40, gradient_clip=0.5)
    model.__class__ = FixedRollouts
    FixedRollouts.rollouts_file, FixedRollouts.out = rollouts, out
    strategy = "ddp" if int(ranks) > 1 else "auto"
    trainer(Path(out).parent, devices=int(ranks), strategy=strategy, max_steps=1).fit(model, Prompts(prompts(4)))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # gloo's threads must not outlive the interpreter
