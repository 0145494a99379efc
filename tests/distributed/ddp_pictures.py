"""Two steps on several ranks of which only the last has pictures: `python ddp_pictures.py RANKS OUT STUDENT TEACHER`."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from lightning import LightningDataModule
from PIL import Image
from tiny import module, trainer
from torch.utils.data import DataLoader

from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.types import Prompt, PromptBatch


class OneSeesTheOtherReads(LightningDataModule):
    """The same prompts whatever the number of ranks: rank 0's have no picture, the last rank's have one."""

    train_prompts = val_prompts = ()

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        prompts = [prompt(i, seeing=i >= 2) for i in range(4)]
        mine = prompts if ranks == 1 else prompts[2 * rank : 2 * rank + 2]
        return DataLoader(range(2), batch_size=1, collate_fn=lambda _: PromptBatch(mine))  # type: ignore[arg-type]


def prompt(number: int, *, seeing: bool) -> Prompt:
    text = {"type": "text", "text": f"{number}?"}
    content = [{"type": "image"}, text] if seeing else [text]
    picture = Image.new("RGB", (40, 40), (40 * number, 90, 200))
    return Prompt(
        id=f"p{number}",
        messages=({"role": "user", "content": content},),
        images=(picture,) if seeing else (),
        domain="math",
    )


if __name__ == "__main__":
    ranks, out, student, teacher = sys.argv[1:]
    torch.set_num_threads(1)
    model = module(
        {"student": student, "math": teacher, "code": teacher},
        sampling=SamplingArgs(n=1, max_new_tokens=4, temperature=0.0),
        gradient_clip=None,
    )
    strategy = "ddp" if int(ranks) > 1 else "auto"
    run = trainer(Path(out).parent, devices=int(ranks), strategy=strategy, max_steps=2)
    run.fit(model, OneSeesTheOtherReads())
    torch.save({name: p.detach() for name, p in model.named_parameters()}, f"{out}.{run.global_rank}")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # gloo's threads must not outlive the interpreter
