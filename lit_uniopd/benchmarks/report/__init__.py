"""What an evaluation leaves behind: TensorBoard, `summary.json`, `records.parquet`, a table on the terminal."""

from lit_uniopd.benchmarks.report.reporter import Reporter as Reporter
