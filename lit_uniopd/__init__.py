"""lit_uniopd: on-policy distillation and preference learning for LLMs and multimodal LLMs in PyTorch Lightning."""

# Nothing heavy here: graders run in spawned processes that import this package, and must start in milliseconds.
import time

from lit_uniopd.utils.warning_filters import install_filters

__version__ = "0.1.0"

STARTED = time.time()
"""When this process began, so that a run can report its whole wall time, imports included."""

install_filters()  # here already: some of it is said while other libraries are imported
