"""AdamW with 8-bit states that FSDP shards: torchao's, with states that are saved as plain tensors.

bitsandbytes' 8-bit optimizers cannot step on sharded weights. Which states are 8-bit is decided by the whole weight
here and not by a rank's shard, and blocks of numbers that share a scale end where a row ends: so the states are the
same on any number of ranks, and resume on any other. A step is torchao's compiled one on this rank's rows alone, since
torch 2.13 has one rank run another's code where a weight's rows cannot be divided evenly.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lit_uniopd.errors import UserError
from lit_uniopd.utils.compile_cache import separate_compile_cache

_Base: Any
OptimState8bit: Any
single_param_adam: Any
try:
    _Base = import_module("torchao.optim").AdamW8bit
    OptimState8bit = import_module("torchao.optim.subclass_8bit").OptimState8bit
    single_param_adam = import_module("torchao.optim.adam").single_param_adam
except ImportError:
    _Base, OptimState8bit, single_param_adam = torch.optim.Optimizer, None, None

MIN_NUMEL = 4096
"""Smaller weights (norms, biases) keep float32 states."""
MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""Name of a state -> whether its numbers have signs."""
CODES, SCALE = "codes", "scale"
"""An 8-bit state is saved as two tensors, `exp_avg_codes` and `exp_avg_scale` say."""


class AdamW8bit(_Base):
    """AdamW with 8-bit states on one device, under DDP and under FSDP2. Needs the package torchao.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled.
        block_size: numbers that share a scale. States of weights whose rows it does not divide stay float32.

    Raises:
        UserError: if torchao is not installed.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        block_size: int = 128,
    ) -> None:
        if OptimState8bit is None:
            raise UserError(
                "--model.optimizer lit_uniopd.optimizers.AdamW8bit needs the package torchao; install it "
                "(`pip install torchao`), or choose torch.optim.AdamW."
            )
        separate_compile_cache()
        super().__init__(params, lr, betas, eps, weight_decay, block_size=block_size)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step on this rank's rows of every weight that has a gradient."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        run = torch.compile(single_param_adam, fullgraph=True, dynamic=False)
        with torch._dynamo.utils.disable_cache_limit():  # there is a program for each shape, however many there are
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    if not self.state[p]:
                        self.init_state(group, p)
                    state = self.state[p]
                    state["step"] += 1
                    if not _local(p).numel():
                        continue
                    tensors = [_local(tensor) for tensor in (p.detach(), p.grad)]
                    moments = [_local(state[name]) for name in MOMENTS]
                    numbers = (group["lr"], *group["betas"], group["weight_decay"], group["eps"])
                    run(*tensors, state["step"], *moments, None, *numbers, True, False)
        return loss

    def init_state(self, group: dict[str, Any], p: Tensor, *_: int) -> None:
        """Make the states of a parameter, as its first step would."""
        state = {name: self._new_buffer(p, signed) for name, signed in MOMENTS.items()}
        self.state[p] = {"step": torch.tensor(0.0), **state}

    def state_dict(self) -> dict[str, Any]:
        """As of any optimizer, with codes and scales in the place of an 8-bit state, sharded like the weight."""
        result, parameters = super().state_dict(), self._parameters()
        result["state"] = {index: self._plain(state, parameters[index]) for index, state in result["state"].items()}
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` has returned, here or on another number of ranks."""
        parameters = self._parameters()
        state = {i: self._restored(values, parameters[i]) for i, values in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": state})

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _is_quantised(self, p: Tensor) -> bool:
        return p.ndim > 1 and p.numel() >= MIN_NUMEL and (p.numel() // p.shape[0]) % self.block_size == 0

    def _new_buffer(self, p: Tensor, signed: bool) -> Tensor:
        local = _local(p)
        if not self._is_quantised(p) or not local.numel():  # a rank may have none of the rows
            return torch.zeros_like(p.detach())
        return _spread(OptimState8bit.zeros(local.shape, signed, self.block_size, local.device, p.dtype), p)

    def _plain(self, state: dict[str, Any], p: Tensor) -> dict[str, Any]:
        """The scales have a row for each row of the weight, so that both are sharded alike."""
        if not self._is_quantised(p):
            return state
        result = {"step": state["step"]}
        for name in MOMENTS:  # in the same order on every rank: to save them is collective
            local: Any = _local(state[name])
            columns = p.numel() // p.shape[0] // self.block_size
            if local.numel():
                codes, scale = local.codes, local.scale.view(-1, columns)
            else:
                codes, scale = local.to(torch.uint8), local.new_empty(0, columns)
            result |= {f"{name}_{CODES}": _spread(codes, p), f"{name}_{SCALE}": _spread(scale, p)}
        return result

    def _restored(self, values: dict[str, Any], p: Tensor) -> dict[str, Any]:
        if not self._is_quantised(p):
            return {key: _spread(_rows(value, p), p) if value.ndim else value for key, value in values.items()}
        result = {"step": values["step"]}
        for name, signed in MOMENTS.items():
            result[name] = self._new_buffer(p, signed)
            local: Any = _local(result[name])
            if local.numel():
                local.codes.copy_(_rows(values[f"{name}_{CODES}"], p))
                local.scale.copy_(_rows(values[f"{name}_{SCALE}"], p).flatten())
        return result


@torch.no_grad()
def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _spread(local: Tensor, p: Tensor) -> Tensor:
    """This rank's rows of a tensor as a shard of it, if ``p`` is one of a weight with as many rows."""
    if not isinstance(p, DTensor):
        return local
    shape = torch.Size((p.shape[0], *local.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    shard = DTensor.from_local(local, p.device_mesh, p.placements, run_check=False, shape=shape, stride=stride)
    return shard.to(p.device)  # that of the mesh, unless shards are kept on the host


def _rows(tensor: Tensor, p: Tensor) -> Tensor:
    """This rank's rows of a tensor that is whole or sharded like ``p``."""
    if isinstance(p, DTensor) and not isinstance(tensor, DTensor):
        mesh = p.device_mesh
        tensor = distribute_tensor(tensor.to(mesh.device_type), mesh, p.placements, src_data_rank=None)
    return _local(tensor)
