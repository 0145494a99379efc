"""What the parts share: sizes, models, batches, clocks, and the rows that they print."""

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_uniopd.monitoring.peak_flops import peak_flops
from lit_uniopd.playground.models import make_tokenizer
from lit_uniopd.policy import Policy, PolicyArgs

Shape = Mapping[str, Any]
QWEN3: Shape = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
}


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    part: str
    what: str
    value: str
    note: str = ""

    def line(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Sizes:
    """Of models and batches."""

    shapes: Mapping[str, Shape]
    prompts: int
    n: int
    prompt_tokens: int
    new_tokens: int
    micro_batch_tokens: int


FULL = Sizes(
    shapes={
        "0.6B": {
            **QWEN3,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
        },
        "4B": {
            **QWEN3,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
        },
    },
    prompts=8,
    n=8,
    prompt_tokens=512,
    new_tokens=256,
    micro_batch_tokens=16384,
)
_TINY = {
    **QWEN3,
    "vocab_size": 64,
    "head_dim": 32,
    "num_key_value_heads": 2,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
TINY = Sizes(
    shapes={"0.6B": _TINY, "4B": _TINY}, prompts=2, n=4, prompt_tokens=24, new_tokens=6, micro_batch_tokens=128
)


@dataclass
class Setting:
    """One part at work."""

    part: str
    sizes: Sizes
    device: torch.device
    files: Path = field(default_factory=lambda: Path(tempfile.mkdtemp()))

    def row(self, what: str, value: str, note: str = "") -> Row:
        return Row(self.part, what, value, note)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def mixed(self) -> AbstractContextManager[Any]:
        """bf16-mixed, as Lightning has it."""
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def args(self, shape: str, **options: Any) -> PolicyArgs:
        """Of a model with random weights, and of a tokenizer for it."""
        tokenizer = self.files / "tokenizer"
        if not tokenizer.is_dir():
            make_tokenizer().save_pretrained(tokenizer)
        return PolicyArgs(config=dict(self.sizes.shapes[shape]), tokenizer=str(tokenizer), **options)

    def policy(self, args: PolicyArgs, *, trainable: bool = True) -> Policy:
        """A policy that is made on the device."""
        torch.manual_seed(0)
        with self.device:
            policy = Policy.load(args, trainable=trainable)
        return policy.to(self.device)

    def batch(self, *, spread: bool = False) -> "Batch":
        """Random tokens: answers of full length, or of lengths from a quarter of it on."""
        sizes, generator = self.sizes, torch.Generator().manual_seed(0)
        vocabulary = min(shape["vocab_size"] for shape in sizes.shapes.values())
        table = torch.randint(3, vocabulary, (sizes.prompts, sizes.prompt_tokens), generator=generator).tolist()
        prompts = [prompt for prompt in table for _ in range(sizes.n)]
        tokens_BT = torch.randint(3, vocabulary, (len(prompts), sizes.new_tokens), generator=generator)
        lengths_B = torch.full((len(prompts),), sizes.new_tokens)
        if spread:
            lengths_B = torch.linspace(sizes.new_tokens // 4 + 1, sizes.new_tokens, len(prompts)).long()
        return Batch(table, prompts, tokens_BT, torch.arange(sizes.new_tokens) < lengths_B[:, None])

    def seconds(self, work: Callable[[], Any]) -> float:
        """Wall time of some work, until the device has done it."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def mfu(self, operations: int, seconds: float) -> str:
        peak = peak_flops(self.device)
        return "peak of this device unknown" if peak is None else f"MFU {operations / seconds / peak:.3f}"

    def reset_peak(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """Most bytes that tensors have held since ``reset_peak``; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self.cuda else None


@dataclass(frozen=True)
class Batch:
    """Answers to prompts."""

    table: list[list[int]]
    """The different prompts."""
    prompts: list[list[int]]
    """Of each answer."""
    tokens_BT: Tensor
    mask_BT: Tensor

    @property
    def lengths(self) -> list[int]:
        return self.mask_BT.sum(dim=1).tolist()

    @property
    def tokens(self) -> int:
        """Prompts count once."""
        return sum(map(len, self.table)) + sum(self.lengths)

    def passes(self, policy: Policy, limit: int) -> Iterator[tuple[list[list[int]], Tensor, Tensor]]:
        """Micro-batches of at most so many tokens."""
        for rows in policy.micro_batches(self.prompts, self.tokens_BT, self.mask_BT, limit):
            yield [self.prompts[row] for row in rows], self.tokens_BT[rows], self.mask_BT[rows]


def update(policy: Policy, batch: Batch, limit: int) -> None:
    """Forward and backward passes over a batch; gradients are added to those that are there."""
    for prompts, tokens_BT, mask_BT in batch.passes(policy, limit):
        policy.token_logps(prompts, tokens_BT, mask_BT)[0].sum().backward()


@contextmanager
def one_process(device: torch.device, file: Path) -> Iterator[None]:
    """A process group of one."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{file}", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
