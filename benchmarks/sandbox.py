"""How many programs per second does the sandbox run?

    python benchmarks/sandbox.py --threads 1 2

Prints, for every backend that works on this machine and each number of threads, programs per second: a trivial function
called once, and a trivial program that reads standard input; the median of alternating rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lit_uniopd.sandbox import Sandbox, SandboxArgs, backends


def call_function(sandbox: Sandbox) -> None:
    results = sandbox.calls("def double(x):\n    return 2 * x", "double", [[21]], timeout=60)
    assert [result.value for result in results] == [42]


def run_program(sandbox: Sandbox) -> None:
    assert sandbox.stdio("print(2 * int(input()))", "21", timeout=60).stdout == "42\n"


def rate(task: Callable[[Sandbox], None], sandbox: Sandbox, threads: int, count: int) -> float:
    """Programs per second."""
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(task, sandbox) for _ in range(count)]:
            future.result()
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--programs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    failures = {name: backends.probe(name) for name in backends.SAFE}
    for name, failure in failures.items():
        if failure is not None:
            print(f"{name}: {failure}")
    sandboxes = [Sandbox(SandboxArgs(backend=name)) for name in backends.SAFE if failures[name] is None]
    cases = [(task, box, n) for task in (call_function, run_program) for box in sandboxes for n in args.threads]
    rates: dict[tuple[str, str, int], list[float]] = {}
    for task, box, threads in cases * args.rounds:
        rates.setdefault((task.__name__, box.backend, threads), []).append(rate(task, box, threads, args.programs))
    for (task_name, backend, threads), values in rates.items():
        print(f"{task_name:14} {backend:11} {threads} thread(s): {statistics.median(values):5.1f} programs/s")


if __name__ == "__main__":
    main()
