"""What an evaluation leaves behind: curves and figures, `summary.json`, `records.parquet`, a table on the terminal."""
