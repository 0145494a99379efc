"""What a step took and what it was like: timer, means over ranks, the layout of TensorBoard."""
