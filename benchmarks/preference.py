"""A step of preference learning against TRL's DPOTrainer: the same weights, tokens and loss, in turn in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.preference                 # the four shapes of docs/omni_dpo.md
    OMP_NUM_THREADS=1 python -m benchmarks.preference --shapes 640:80 --spread 0.3 --checkpointing
    OMP_NUM_THREADS=1 python -m benchmarks.preference --shapes 640:20 --against padded   # sentences of SENTINEL

A step is the forward pass of policy and reference, and the backward pass. Without Triton TRL projects every position
of a row onto the vocabulary, on a GPU only those of the answer; here it does the latter, through our projection, so
that we do not compare with its fallback. Time is CPU seconds, the median of the rounds; memory is the growth of the
peak resident size (VmHWM) in a fresh process per side.
"""

import argparse
import copy
import importlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from benchmarks.logps import peak_kib
from lit_uniopd.functional.logps import linear_token_logps
from lit_uniopd.modules import OmniDPO
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.playground.models import make_tokenizer
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.types import EncodedPair, PairBatch, PreferencePair, Prompt

SIDES = ("trl", "padded", "ours")
"""TRL's step; ours with chosen and rejected as two padded rows, as in TRL; ours."""
Pairs = list[tuple[list[int], list[int], list[int]]]


def make_pairs(args: argparse.Namespace, prompt: int, answer: int) -> Pairs:
    """Prompt, chosen and rejected tokens of each pair, their lengths spread about the given ones."""
    rng = random.Random(0)

    def tokens(length: int) -> list[int]:
        width = max(1, round(length * rng.uniform(1 - args.spread, 1 + args.spread)))
        return [rng.randrange(10, args.vocabulary) for _ in range(width)]

    return [(tokens(prompt), tokens(answer), tokens(answer)) for _ in range(args.pairs)]


def make_model(args: argparse.Namespace) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=args.hidden // 8,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config).train()


@torch.no_grad()
def disturb(model: Any) -> None:
    """Move the policy away from the reference, where the losses of both sides can differ."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter) if parameter.ndim > 1 else 0.0)


class ZeroReferences:
    """A reference's log-probs that need no computation, in place of the cache on disk."""

    def sums(self, pairs: Any, device: torch.device) -> Tensor:
        return torch.zeros(len(pairs), 2, device=device)


def our_step(args: argparse.Namespace, pairs: Pairs, *, share: bool = True) -> Callable[[], float]:
    policy = Policy(make_model(args), make_tokenizer(), PolicyArgs(share_prompts=share))
    policy.keep_reference()
    disturb(policy.model)
    if args.checkpointing:
        _checkpointed(policy.model)
    module = OmniDPO(PolicyArgs(path="-"), PairLossArgs(kind="dpo", beta=0.1))
    module.policy = policy
    if args.reference == "known":
        module.references = ZeroReferences()  # type: ignore[assignment]
    texts = PreferencePair(Prompt("-", ()), "", "")
    batch = PairBatch([EncodedPair(texts, tuple(p), tuple(good), tuple(bad)) for p, good, bad in pairs])

    def step() -> float:
        policy.zero_grad()
        loss = module.compare(batch)[0].loss
        loss.backward()
        return float(loss.detach())

    return step


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Let TRL project answers only, as it does with Triton, but by our function."""
    trl_utils: Any = importlib.import_module("trl.trainer.utils")
    before = trl_utils._use_triton, trl_utils._ChunkedLogProbFunction
    trl_utils._use_triton, trl_utils._ChunkedLogProbFunction = (lambda device: True), _OurProjection
    try:
        yield
    finally:
        trl_utils._use_triton, trl_utils._ChunkedLogProbFunction = before


def trl_step(args: argparse.Namespace, pairs: Pairs, *, shipped: bool = False) -> Callable[[], float]:
    """TRL's step.

    Args:
        args: sizes.
        pairs: tokens.
        shipped: with the projection that it uses without a GPU.
    """
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    model, text = make_model(args), {"prompt": "1+1=", "chosen": "2", "rejected": "3"}
    if args.checkpointing:
        _checkpointed(model)
    trainer: Any = DPOTrainer(
        model=model,
        ref_model=copy.deepcopy(model),
        processing_class=make_tokenizer(),
        train_dataset=Dataset.from_list([text]),
        args=DPOConfig(
            output_dir=tempfile.mkdtemp(),
            beta=0.1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=args.checkpointing,
            report_to="none",
            disable_tqdm=True,
        ),
    )
    disturb(model)
    trainer.current_gradient_accumulation_steps = 1  # set by train() otherwise
    trainer.precompute_ref_logps = args.reference == "known"
    rows = [(prompt, pair[side]) for side in (0, 1) for prompt, *pair in pairs]
    input_ids = [torch.tensor([*prompt, *answer]) for prompt, answer in rows]
    masks = [torch.tensor([0] * len(prompt) + [1] * len(answer)) for prompt, answer in rows]
    inputs = {
        "input_ids": pad_sequence(input_ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in input_ids], batch_first=True),
        "completion_mask": pad_sequence(masks, batch_first=True),
    }
    if args.reference == "known":
        inputs |= {name: torch.zeros(len(pairs)) for name in ("ref_chosen_logps", "ref_rejected_logps")}

    def step() -> float:
        trainer.model.zero_grad()
        with nullcontext() if shipped else _as_on_a_gpu():
            return float(trainer.training_step(trainer.model, dict(inputs)))

    return step


class _OurProjection:
    """In place of TRL's projection: its arguments, our function. TRL's other statistics are zeros and cost nothing."""

    @staticmethod
    def apply(hidden: Tensor, weight: Tensor, bias: Any, targets: Tensor, temperature: float, *_: Any) -> Any:
        logps = linear_token_logps(hidden, weight, targets, bias_V=bias, temperature=temperature)
        zeros = torch.zeros_like(logps, requires_grad=False)
        return logps, zeros, zeros, zeros, zeros.bool()


def _checkpointed(model: Any) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def peak_growth(side: str, shape: str, argv: list[str]) -> float:
    """MiB by which a step raises the peak, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.preference", *argv, "--shapes", shape, "--peak-of", side]
    completed = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(completed.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["100:400", "160:160", "640:80", "700:20"], metavar="P:S")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--spread", type=float, default=0.0, help="lengths differ by so much; padding is TRL's")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reference", choices=("live", "known"), default="live")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--against", choices=SIDES[:2], default="trl")
    parser.add_argument("--peak-of", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    makers = {"trl": trl_step, "padded": partial(our_step, share=False), "ours": our_step}
    sides = [args.against, "ours"]
    if args.peak_of:
        step = makers[args.peak_of](args, make_pairs(args, 4, 4))
        step()  # loads the kernels
        prompt, answer = map(int, args.shapes[0].split(":"))
        step = makers[args.peak_of](args, make_pairs(args, prompt, answer))
        before = peak_kib()
        step()
        print((peak_kib() - before) / 1024)
        return
    argv = [a for a in sys.argv[1:] if not a.startswith("--shapes") and ":" not in a]
    print(f"prompt:answer  {args.against:>6}    ours   time  memory  |loss difference|")
    for shape in args.shapes:
        prompt, answer = map(int, shape.split(":"))
        pairs = make_pairs(args, prompt, answer)
        steps = {side: makers[side](args, pairs) for side in sides}
        losses = {side: step() for side, step in steps.items()}
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(args.rounds):
            for side, step in steps.items():
                start = time.process_time()
                step()
                times[side].append(time.process_time() - start)
        baseline_s, our_s = (statistics.median(times[side]) for side in sides)
        memory = {side: peak_growth(side, shape, argv) for side in sides}
        print(
            f"{shape:>13} {baseline_s:7.2f} {our_s:7.2f} {our_s / baseline_s:6.2f} "
            f"{memory['ours'] / memory[args.against]:7.2f}  {abs(losses['ours'] - losses[args.against]):.1e}"
        )


if __name__ == "__main__":
    main()
