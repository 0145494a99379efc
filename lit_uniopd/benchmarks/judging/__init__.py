"""Judged benchmarks: a language model says which of two answers is better, or how right one is."""

JUDGED_HERE = ("alpaca_eval", "arena_hard", "mm_vet", "object_halbench", "sedareval")
"""``scoring.export`` of the benchmarks that ``uniopd judge`` judges."""
