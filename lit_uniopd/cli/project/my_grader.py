"""What a right answer is. It is your own code, and runs in the training process."""


def is_right(text: str, gold: str) -> bool:
    """The result of the last step, as in ``3-4=4,4-1=3``."""
    return text.rpartition("=")[2].strip() == gold
