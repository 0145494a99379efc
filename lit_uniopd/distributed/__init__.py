"""What several ranks need: sharding, collectives, checkpoints, an orderly end."""

from lit_uniopd.distributed.fsdp import FSDP

__all__ = ["FSDP"]
