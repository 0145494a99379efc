"""Tasks of lm-eval and lmms-eval as benchmarks: their prompts and scores; our engines, records and ranks."""
