"""Timing and logging of steps: timer, intervals, means over ranks, and what goes to which logger."""
