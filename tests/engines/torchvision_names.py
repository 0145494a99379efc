"""Lets the torchvision of package registries, which is built for CUDA, be imported beside a torch for CPUs.

Its operators are in a library that does not load there. Nothing that reads pictures needs them, but without their names
the import fails. ``make test-engines`` copies this file into its environment, where every process imports it at its start.
"""

import sys
from importlib.machinery import ModuleSpec
from typing import Any


class NameOperators:
    """Names the operators when torchvision is about to be imported, and finds nothing itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                for operator in ("nms", "qnms"):
                    torch.library.define(
                        f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    )
        return None


sys.meta_path.insert(0, NameOperators())
