"""Use the number of CPU threads that is fastest."""

import logging

import torch
from lightning import Callback, LightningModule, Trainer

from lit_uniopd.playground import thread_probe

log = logging.getLogger(__name__)


class ThreadProbe(Callback):
    """Set torch's thread count to the one that a short probe finds fastest for models of the playground's size.

    Small models on a busy machine can be ten times slower with two threads than with one. Does nothing on GPUs.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.strategy.root_device.type == "cpu":
            threads = thread_probe()
            torch.set_num_threads(threads)
            log.info("Using %d CPU thread(s), the fastest in a short probe.", threads)
