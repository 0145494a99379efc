"""Three steps of Omni-DPO on four pairs each, on several ranks: `python ddp_omni.py RANKS OUT STUDENT PAIRS`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from tiny import sgd, trainer

from datamodules import PairSourceArgs, PreferenceDataModule
from lit_uniopd.modules import OmniDPO, PairLossArgs
from lit_uniopd.policy import PolicyArgs

if __name__ == "__main__":
    ranks, out, student, pairs = sys.argv[1:]
    torch.set_num_threads(1)
    source = PairSourceArgs(path=pairs)
    data = PreferenceDataModule(train=source, val=source, batch_size=4 // int(ranks), val_batch_size=1, seed=5)
    model = OmniDPO(PolicyArgs(path=student), PairLossArgs(lam=0.2, tau_good=1.0), optimizer=sgd, seed=3)
    strategy = "ddp" if int(ranks) > 1 else "auto"
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": 0, "max_epochs": 3, "check_val_every_n_epoch": 3}
    run = trainer(Path(out).parent, devices=int(ranks), strategy=strategy, **options)
    run.fit(model, data)
    if run.is_global_zero:
        state = {name: p.detach() for name, p in model.named_parameters()}
        logged = {name: float(value) for name, value in run.callback_metrics.items()}
        torch.save({"weights": state, "logged": logged}, out)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # gloo's threads must not outlive the interpreter
