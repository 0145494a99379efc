"""Timing and logging of steps: timer, intervals, means over ranks, TensorBoard layout."""
