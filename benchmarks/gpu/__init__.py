"""What a GPU does here: speed, memory and options that only a GPU can show, as the table of docs/gpu.md.

    python -m benchmarks.gpu             # at most 8 minutes on one GPU of 141 GB; writes docs/gpu.md
    python -m benchmarks.gpu --tiny      # the same code on tiny models, on a CPU too; prints its rows, writes nothing
    python -m benchmarks.gpu --only 0.6B fsdp

Models are Qwen3-shaped with random weights, so that nothing is downloaded. Each part runs in a process of its own under
a time limit: one that fails, or takes too long, is a row of the table, and the rest goes on. vLLM, bitsandbytes and all
else that a part needs is imported by that part alone.
"""
