"""Benchmarks: what they are (`spec`), where they come from (`registry`, `loading`), how they are run (`engine`)."""
