"""Log-probs of sampled tokens from hidden states: ours against log-softmax over all logits, forward and backward.

    OMP_NUM_THREADS=1 python benchmarks/logps.py                  # Qwen's vocabulary, 4096 tokens, 256 wide
    OMP_NUM_THREADS=1 python benchmarks/logps.py --tokens 512 --hidden 1024
    python -m benchmarks.logps --threads 2 --busy 1 --tokens 1024 # wall time beside another process

Time is CPU seconds (a shared machine's wall clock says little), both sides in turn in one process, median. ``user``
leaves out the kernel's share, most of which is handing out fresh pages for the full logits. Memory is the growth of the
peak resident size (VmHWM) in a fresh process per side. With ``--threads`` or ``--busy`` it is wall time, of naive and
ours on that many threads and on one, while that many processes use the cores.
"""

import argparse
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from lit_uniopd.functional import projection
from lit_uniopd.functional.logps import CHUNK_TOKENS, linear_token_logps

SIDES = ("naive", "ours")


def inputs(args: argparse.Namespace, trained: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, projection, tokens, upstream gradient."""
    torch.manual_seed(0)
    weight = torch.randn(args.vocabulary, args.hidden).mul_(2 * args.hidden**-0.5).requires_grad_(trained)
    hidden = torch.randn(args.tokens, args.hidden, requires_grad=True)
    return hidden, weight, torch.randint(0, args.vocabulary, (args.tokens,)), torch.randn(args.tokens)


def run(side: str, args: argparse.Namespace, hidden: Tensor, weight: Tensor, tokens: Tensor, upstream: Tensor) -> None:
    """Forward and backward; the gradients are left on the leaves."""
    hidden.grad = weight.grad = None
    if side == "naive":
        logps = torch.log_softmax(hidden @ weight.T, dim=-1).gather(1, tokens[:, None])[:, 0]
    else:
        logps = linear_token_logps(hidden, weight, tokens, chunk_tokens=args.chunk_tokens)
    logps.backward(upstream)


def warm_up(side: str, trained: bool, args: argparse.Namespace) -> None:
    """Load the kernels with a small pass."""
    small = argparse.Namespace(**{**vars(args), "tokens": 8, "vocabulary": 64})
    run(side, small, *inputs(small, trained))


def peak_kib() -> int:
    """Peak resident size of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise RuntimeError("this system does not report VmHWM")


def peak_growth(side: str, trained: bool, args: argparse.Namespace) -> float:
    """MiB by which one forward and backward pass raises the peak, in a fresh process."""
    command = [sys.executable, __file__, "--peak-of", side, *(["--trained"] if trained else [])]
    for name in ("tokens", "hidden", "vocabulary", "chunk_tokens"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(args: argparse.Namespace) -> None:
    """Print the growth for ``peak_growth``."""
    warm_up(args.peak_of, args.trained, args)
    tensors = inputs(args, args.trained)
    before = peak_kib()
    run(args.peak_of, args, *tensors)
    print((peak_kib() - before) / 1024)


def compare(trained: bool, args: argparse.Namespace) -> None:
    """Print the ratios for one kind of head."""
    for side in SIDES:
        warm_up(side, trained, args)
    tensors = inputs(args, trained)
    total: dict[str, list[float]] = {side: [] for side in SIDES}
    user: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(args.rounds):
        for side in SIDES:
            start = resource.getrusage(resource.RUSAGE_SELF)
            run(side, args, *tensors)
            end = resource.getrusage(resource.RUSAGE_SELF)
            user[side].append(end.ru_utime - start.ru_utime)
            total[side].append(user[side][-1] + end.ru_stime - start.ru_stime)
    medians = {side: (statistics.median(total[side]), statistics.median(user[side])) for side in SIDES}
    peaks = {side: peak_growth(side, trained, args) for side in SIDES}
    ratio = [chunked / naive for chunked, naive in zip(medians["ours"], medians["naive"], strict=True)]
    print(
        f"{'trained' if trained else 'frozen'} head: time {ratio[0]:.2f}x (user {ratio[1]:.2f}x; naive "
        f"{medians['naive'][0]:.2f} s, user {medians['naive'][1]:.2f} s), peak {peaks['ours'] / peaks['naive']:.3f}x "
        f"({peaks['ours']:.0f} of {peaks['naive']:.0f} MiB)",
        flush=True,
    )


def busy() -> None:
    """Use a core until ended."""
    while True:
        pass


def compare_walls(trained: bool, args: argparse.Namespace) -> None:
    """Print wall times with several threads and with one, beside processes that use the cores."""
    tensors = inputs(args, trained)
    small, large = projection.TILE_ELEMENTS_CPU, projection.TILE_ELEMENTS_THREADS
    seconds: dict[tuple[int, str, int], list[float]] = {}
    for lap in range(args.rounds + 1):
        for threads, side, tile in (
            (args.threads, "naive", large),
            (args.threads, "ours", large),
            (args.threads, "ours", small),  # as with one thread
            (1, "naive", small),
            (1, "ours", small),
        ):
            torch.set_num_threads(threads)
            with patch.object(projection, "TILE_ELEMENTS_THREADS", tile):
                start = time.perf_counter()
                run(side, args, *tensors)
            if lap:  # the first does not count
                seconds.setdefault((threads, side, tile), []).append(time.perf_counter() - start)
    for (threads, side, tile), each in seconds.items():
        tiles = f" in tiles of {4 * tile >> 20} MiB" if side == "ours" else ""
        label = f"{'trained' if trained else 'frozen'} head, {threads} thread(s), {side}{tiles}"
        print(f"{label}: {statistics.median(each):.2f} s ({min(each):.2f} to {max(each):.2f})", flush=True)


def main() -> None:
    """Measure trained and frozen heads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--chunk-tokens", type=int, default=CHUNK_TOKENS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--busy", type=int, default=0, help="processes that use the cores meanwhile")
    parser.add_argument("--peak-of", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--trained", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak_of:
        return measure_peak(args)
    others = [multiprocessing.Process(target=busy, daemon=True) for _ in range(args.busy)]
    for other in others:
        other.start()
    for trained in (True, False):
        (compare_walls if args.threads > 1 or args.busy else compare)(trained, args)
    return None


if __name__ == "__main__":
    main()
