"""Loading and sharding policies as the strategy wants it: the only place that knows of a mesh."""

from typing import Any

from lightning import LightningModule

from lit_uniopd.distributed.sharding import ShardingArgs
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.policy import Policy


class ShardingModule(LightningModule):
    """A LightningModule whose policies are whole on one device, or shared by ranks."""

    def load(self, args: PolicyArgs, flag: str, *, trainable: bool = False) -> Policy:
        """Load a policy, or all but the weights that ``shard`` is to read."""
        return Policy.load(args, trainable=trainable, flag=flag, ranks=self.reading_ranks)

    @property
    def reading_ranks(self) -> int:
        """Ranks that read shards of the weights, and not each of them the whole."""
        return 1 if self.device_mesh is None else getattr(self.trainer.strategy, "reading_ranks", 1)

    def shard(self, policy: Policy) -> None:
        """Shard a policy if the strategy wants that."""
        if self.device_mesh is not None:
            strategy: Any = self.trainer.strategy
            args = getattr(strategy, "sharding", ShardingArgs())
            policy.shard(getattr(strategy, "sharding_mesh", None) or self.device_mesh["data_parallel"], args)
