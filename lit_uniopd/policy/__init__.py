"""A model together with its tokenizer: loaded, adapted, sharded, and asked for log-probs."""

from lit_uniopd.policy.args import LoraArgs, PolicyArgs
from lit_uniopd.policy.policy import Policy

__all__ = ["LoraArgs", "Policy", "PolicyArgs"]
