"""Runs untrusted, model-written Python programs.

`Sandbox` starts each program in a fresh process that the kernel keeps from files, network and other processes, sends it
inputs and receives plain data; the process never learns the right answers, so it has no verdict to forge. Nothing here
imports torch.
"""

from lit_uniopd.sandbox.child.encoding import Foreign as Foreign
from lit_uniopd.sandbox.sandbox import Sandbox as Sandbox
from lit_uniopd.sandbox.types import BackendName as BackendName
from lit_uniopd.sandbox.types import CallResult as CallResult
from lit_uniopd.sandbox.types import ExportError as ExportError
from lit_uniopd.sandbox.types import Limits as Limits
from lit_uniopd.sandbox.types import SandboxArgs as SandboxArgs
from lit_uniopd.sandbox.types import Status as Status
from lit_uniopd.sandbox.types import StdioResult as StdioResult
