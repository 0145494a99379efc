"""Seeds that depend on where in a run a number is drawn, never on what was drawn before.

A resumed run must equal an unbroken one, so no part of the project reads a running random state: each draw is keyed by
the run's seed and by its place (step, rank, prompt ...).
"""

import hashlib
import os


def run_seed(seed: int | None = None) -> int:
    """The seed of this run: the given one, else the one ``seed_everything`` set, else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed


def derive_seed(*keys: int | str) -> int:
    """Hash the keys to a seed in [0, 2**63): equal keys give equal seeds on every machine and Python."""
    digest = hashlib.blake2b("\x1f".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
