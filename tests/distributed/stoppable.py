"""`uniopd`, held up where the test asks for it: python stoppable.py ARGUMENTS ...

HOLD is "METHOD STEP RANK SECONDS": from that optimizer step on, each call of that method on that rank takes so long;
PLACES holds the files `pid.RANK` and, once it has begun, `held`.
"""

import os
import time
from pathlib import Path
from typing import Any

import torch

from lit_uniopd.cli import main
from lit_uniopd.modules import UniOPD
from lit_uniopd.sampling import engine_loop

STEP = 0


def held_up(original: Any, step: int, seconds: float) -> Any:
    def method(*args: Any, **kwargs: Any) -> Any:
        if step <= STEP:
            (places / "held").touch()
            time.sleep(seconds)
        return original(*args, **kwargs)

    return method


def tracking_step(original: Any) -> Any:
    def method(self: UniOPD, *args: Any, **kwargs: Any) -> Any:
        global STEP
        STEP = self.global_step
        return original(self, *args, **kwargs)

    return method


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, places = int(os.environ.get("LOCAL_RANK", "0")), Path(os.environ["PLACES"])
    (places / f"pid.{rank}").write_text(str(os.getpid()))
    name, step, held_rank, seconds = os.environ.get("HOLD", "nothing 0 -1 0").split()
    UniOPD.answer = tracking_step(UniOPD.answer)  # type: ignore[method-assign]
    UniOPD.optimizer_step_on = tracking_step(UniOPD.optimizer_step_on)  # type: ignore[method-assign]
    if rank == int(held_rank):
        owner: Any = engine_loop if name == "sample_token" else UniOPD
        setattr(owner, name, held_up(getattr(owner, name), int(step), float(seconds)))
    main()
