"""Timing and logging of steps: timer, means over ranks, and what goes to which logger."""
