"""What an evaluation leaves behind: TensorBoard, `summary.json`, `records.parquet`, a table on the terminal."""
