"""Tasks of lm-eval as benchmarks: its prompts, filters, metrics and aggregation; our engines, records and ranks."""
