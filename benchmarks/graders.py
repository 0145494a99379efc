"""How fast is the mathematics grader, and does a second grading process pay?

    python benchmarks/graders.py --workers 2

Prints answers per second with one and with ``workers`` processes, alternating in one run, and the median ratio.
"""

import argparse
import random
import statistics
import time

from lit_uniopd.rewards import GradeItem, GraderPool


def answers(count: int) -> list[GradeItem]:
    """Long responses; a quarter each of integers, fractions, polynomials and pairs."""
    rng = random.Random(0)
    items = []
    for i in range(count):
        a, b = rng.randint(1, 999), rng.randint(2, 99)
        gold, answer = [
            (f"{a}", f"{a + b % 2}"),
            (rf"\frac{{{a}}}{{{b}}}", f"{a}/{b}"),
            (f"x^2-{a * a}", f"(x-{a})(x+{a})"),
            (f"({a},{b})", f"({a}, {b})"),
        ][i % 4]
        items.append(GradeItem("math", gold, "Let us think step by step. " * 300 + rf"\boxed{{{answer}}}"))
    return items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--answers", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    items = answers(args.answers)
    with GraderPool(1) as single, GraderPool(args.workers) as several:
        start = time.perf_counter()
        single.grade(items[:1])
        print(f"start of a process and first answer: {time.perf_counter() - start:.2f} s")
        several.grade(items[: 8 * args.workers])
        rates: dict[GraderPool, list[float]] = {single: [], several: []}
        for pool in [single, several] * args.rounds:
            start = time.perf_counter()
            pool.grade(items)
            rates[pool].append(len(items) / (time.perf_counter() - start))
    for pool, values in rates.items():
        print(f"{pool.workers} process(es): {statistics.median(values):.0f} answers/s")
    ratios = [m / s for s, m in zip(rates[single], rates[several], strict=True)]
    print(f"ratio: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
