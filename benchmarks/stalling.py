"""What do answers that stall a grader cost those behind them?

    python benchmarks/stalling.py --answers 32 --hostile 4 --time-limit 10

Prints the seconds that a pool of one worker takes with and without the hostile answers, for formulas and for programs,
and the milliseconds of a comparison that is made to take quadratic time.
"""

import argparse
import time

from lit_uniopd.rewards import GradeItem, GraderPool
from lit_uniopd.rewards.oracles import ORACLES

HOSTILE = {
    "math": r"\boxed{\int_0^1 \sqrt{9^{9^{9^{x}}}} \cdot (x+1)^{10^{5}} dx + 9^{99999x}}",
    "code_functional": "```python\ndef f(x):\n    while True:\n        pass\n```",
}
GOLDS = {"math": r"\frac{1}{2}", "code_functional": {"entry_point": "f", "calls": [[1]], "expected": [2]}}
RIGHT = {"math": r"\boxed{\frac{2}{4}}", "code_functional": "```python\ndef f(x):\n    return 2 * x\n```"}


def seconds(pool: GraderPool, grader: str, answers: int, hostile: int, time_limit: float) -> float:
    """Time to grade so many answers, hostile ones spread among them."""
    places = {i * answers // hostile for i in range(hostile)} if hostile else set()
    options = {"time_limit": time_limit} if grader == "code_functional" else {}
    responses = [HOSTILE[grader] if i in places else RIGHT[grader] for i in range(answers)]
    start = time.perf_counter()
    grades = pool.grade([GradeItem(grader, GOLDS[grader], text, options=options) for text in responses])
    reasons = [grade.reason for grade in grades]
    print(f"{grader}: {', '.join(f'{reasons.count(r)} {r}' for r in sorted(set(reasons)))}", end="; ")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=32)
    parser.add_argument("--hostile", type=int, default=4)
    parser.add_argument("--time-limit", type=float, default=10.0)
    args = parser.parse_args()
    with GraderPool(workers=1, time_limit=args.time_limit) as pool:
        for grader in GOLDS:
            pool.grade([GradeItem(grader, GOLDS[grader], RIGHT[grader])])  # start what has to be started
            for hostile in (0, args.hostile):
                print(f"{seconds(pool, grader, args.answers, hostile, args.time_limit):.1f} s with {hostile} hostile")
    colliding = [i * (2**61 - 1) for i in range(20_000)]
    start = time.perf_counter()
    ORACLES["set_equal"]([], [1, 2], colliding, 0.0)
    print(f"set_equal on 20,000 colliding numbers: {1000 * (time.perf_counter() - start):.1f} ms")


if __name__ == "__main__":
    main()
