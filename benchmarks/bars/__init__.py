"""The bars of performance: the cost of a step beside TRL's, transformers', or our own without an optimisation.

    python -m benchmarks.bars                 # all, and the table of docs/performance.md; `make bench`
    python -m benchmarks.bars heads pairs     # some; the other rows stay as they were last measured

Both sides of a ratio run in one process, in turn, on one thread; time is CPU seconds. The table has the median of the
rounds' ratios and their range. Memory is the growth of the peak resident size (VmHWM) in a fresh child for each side.
The sizes and thresholds of each bar are constants in the files here.
"""

GROUPS = {
    "heads": "log-probs of sampled tokens",
    "pairs": "preference pairs that share a prompt",
    "groups": "groups of answers that share a prompt",
    "rollouts": "writing answers",
    "ranks": "writing answers on two ranks",
    "references": "reference log-probs on disk",
    "steps": "whole steps, and micro-batches",
}
