"""The objective: Uni-OPD, with a step of its own."""

from typing import Any

from lit_uniopd.modules import UniOPD
from lit_uniopd.types import Rollouts


class MyOPD(UniOPD):
    """`UniOPD` that charges for every token of an answer.

    Args:
        brevity: what a token costs, in nats; 0 is `UniOPD`.
        args: of `UniOPD`.
        kwargs: of `UniOPD`.
    """

    def __init__(self, *args: Any, brevity: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.brevity = brevity

    def score(self, rollouts: Rollouts) -> None:
        super().score(rollouts)
        rollouts.advantages_BT = rollouts.advantages_BT - self.brevity * rollouts.mask_BT
