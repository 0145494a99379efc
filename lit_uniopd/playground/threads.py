"""How many CPU threads are fastest for models of the playground's size, here and now."""

import functools
import os
import time

import torch


@functools.cache
def thread_probe(repeats: int = 5) -> int:
    """The fastest number of threads among 1, 2, 4 ... up to the cores this process may use.

    More than one thread is taken only if it is at least twice as fast. Small matrices gain little from a second one, a
    busy machine makes it many times slower, and another count of threads adds floats in another order: a choice that
    flips between runs would change their results.

    Args:
        repeats: timed rounds per count; the best counts.
    """
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():  # the user has chosen
        return int(os.environ["OMP_NUM_THREADS"])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = [1]
    while counts[-1] * 2 <= cores:
        counts.append(counts[-1] * 2)
    before = torch.get_num_threads()
    try:
        seconds = {count: _seconds(count, repeats) for count in counts}
    finally:
        torch.set_num_threads(before)
    best = min(counts, key=lambda count: seconds[count])
    return best if seconds[best] <= 0.5 * seconds[1] else 1


def _seconds(threads: int, repeats: int) -> float:
    """Median time of a few layers' worth of products, forward and backward."""
    torch.set_num_threads(threads)
    rows = torch.zeros(2048, 96, requires_grad=True)
    weight = torch.zeros(96, 192, requires_grad=True)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(4):
            (torch.nn.functional.silu(rows @ weight) @ weight.T).sum().backward()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
