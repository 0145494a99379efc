"""Timing and logging of steps: timer, means over ranks, TensorBoard layout."""
