"""Where `torch.compile` keeps the code that it has made."""

import os

from torch._inductor.runtime.cache_dir_utils import default_cache_dir

CAPABILITY, DIRECTORY = "ATEN_CPU_CAPABILITY", "TORCHINDUCTOR_CACHE_DIR"


def separate_compile_cache() -> None:
    """Keep code for another ``ATEN_CPU_CAPABILITY`` in a directory of its own, unless the user has named one.

    torch 2.13 does not tell such code apart: what was made under one was taken under another, and gradients were NaN.
    """
    usual = default_cache_dir()  # which torch itself sets, as soon as it looks for it
    if (capability := os.environ.get(CAPABILITY)) and os.environ.get(DIRECTORY, usual) == usual:
        os.environ[DIRECTORY] = f"{usual}_{capability}"
