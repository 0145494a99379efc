"""FSDP2 as a strategy of the trainer: `configs/trainer/fsdp.yaml`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_uniopd.distributed.sharded_checkpoint import AVERAGES, load_sharded, save_sharded
from lit_uniopd.distributed.sharding import ShardingArgs, full_tensor, reshard, sharded_like, units_of
from lit_uniopd.errors import UserError
from lit_uniopd.utils.checkpoint_directory import is_sharded_checkpoint


class FSDP(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy for FSDP2 alone, on any number of nodes and GPUs.

    Checkpoints hold trained weights only, are written completely or not at all, and load without executing pickles.
    Both kinds resume on any number of ranks, and under any other strategy.

    Args:
        data_parallel_size: ranks that share one copy of the weights. auto: all of them, or with
            ``data_parallel_replicate`` an equal part.
        data_parallel_replicate: copies of the weights (HSDP); gradients are exchanged between them. With one for each
            node, weights are gathered inside of nodes only, where that is fast, and take as many times more memory.
        tensor_parallel_size: must stay 1; the modules do not split single layers.
        param_dtype: type in which weights are gathered and used; null: the one they are held in. Trained weights are
            held in float32 (``PolicyArgs.dtype``).
        reduce_dtype: type in which gradients are summed over ranks; null: that of the weights.
        cpu_offload: keep shards, gradients and optimizer states in the host's memory: slow, for what does not fit.
        accumulate: gradients between the micro-batches of a step. whole: kept whole on each GPU and exchanged once;
            sharded: exchanged after each micro-batch, which needs a GPU's share of the memory only.
        read_shards: each rank reads its own shards out of the safetensors files; false, and for models with which that
            cannot be done: it reads whole models and keeps its shards.
        load_in_turn: in the place of ``read_shards``, the ranks of a node read whole models one after the other: its
            RAM holds one copy and what is sharded already, not one copy for each rank; starting takes much longer.
        save_distributed_checkpoint: each rank writes its share into a directory; false: rank 0 writes one file, for
            which all trained weights and optimizer states must fit into its host's memory.
        process_group_backend: null: nccl on GPUs, gloo on CPUs.
        timeout: how long a rank waits for the others before the run ends. In a rollout that is as long as the longest
            answer takes more than the shortest; PyTorch's own, 10 minutes on GPUs and 30 on CPUs, ends runs in which
            nothing is wrong.
    """

    def __init__(
        self,
        data_parallel_size: Literal["auto"] | int = "auto",
        data_parallel_replicate: int = 1,
        tensor_parallel_size: int = 1,
        param_dtype: Literal["bfloat16", "float16", "float32"] | None = "bfloat16",
        reduce_dtype: Literal["bfloat16", "float32"] | None = "float32",
        cpu_offload: bool = False,
        accumulate: Literal["whole", "sharded"] = "whole",
        read_shards: bool = True,
        load_in_turn: bool = False,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta = timedelta(hours=2),
    ) -> None:
        if tensor_parallel_size != 1:
            raise UserError(
                f"--trainer.strategy.tensor_parallel_size must be 1, not {tensor_parallel_size}: layers are not split."
            )
        super().__init__(data_parallel_size, 1, save_distributed_checkpoint, process_group_backend, timeout)
        self.data_parallel_replicate = data_parallel_replicate
        self.timeout = timeout
        self.sharding_mesh: DeviceMesh | None = None
        self._asked_size = data_parallel_size
        self.sharding = ShardingArgs(param_dtype, reduce_dtype, cpu_offload, accumulate)
        self.read_shards = read_shards and not load_in_turn
        self.load_in_turn = load_in_turn

    def setup_environment(self) -> None:
        assert self.lightning_module is not None
        if self.lightning_module.trainer.validate_loop.inference_mode:
            raise UserError(
                "FSDP needs --trainer.inference_mode false: what a validation gathers could not be trained after."
            )
        # Lightning's own "auto" is the number of nodes, and tensor parallelism inside of each.
        ranks, copies = self.num_nodes * self.num_processes, self.data_parallel_replicate
        if copies < 1 or ranks % copies:
            raise UserError(
                f"--trainer.strategy.data_parallel_replicate {copies} does not divide the {ranks} ranks; set it to 1, "
                "or to the number of nodes."
            )
        if self._asked_size not in ("auto", ranks // copies):
            raise UserError(
                f"--trainer.strategy.data_parallel_size is {self._asked_size}, but of {ranks} ranks {ranks // copies} "
                "share a copy of the weights; set it to auto."
            )
        self._data_parallel_size = ranks  # Lightning's mesh is of all that see different data
        super().setup_environment()
        if self.read_shards and self._reads_elsewhere:
            rank_zero_info("Every rank reads whole models before it shards them, since cpu_offload is on.")
        self.sharding_mesh = self._make_sharding_mesh(ranks, copies)

    def _make_sharding_mesh(self, ranks: int, copies: int) -> DeviceMesh:
        """All ranks in a row, or a row for each copy of the weights."""
        mesh = self.device_mesh["data_parallel"]
        if copies > 1:
            names = ("data_parallel_replicate", "data_parallel_shard")
            mesh = init_device_mesh(self.root_device.type, (copies, ranks // copies), mesh_dim_names=names)
        for group in mesh.get_all_groups():  # they do not take over that of the group of all ranks
            _set_pg_timeout(self.timeout, group)
        return mesh

    @property
    def sharing_ranks(self) -> int:
        """Ranks that share each weight."""
        return self.num_nodes * self.num_processes // self.data_parallel_replicate

    @property
    def reading_ranks(self) -> int:
        """Ranks that each read their share of a model; 1: every rank reads all of it."""
        return self.sharing_ranks if self.read_shards and not self._reads_elsewhere else 1

    @property
    def _reads_elsewhere(self) -> bool:
        """Whether shards belong on another device than the mesh's, to which they are read."""
        return self.sharding.cpu_offload and self.root_device.type != "cpu"

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Around ``configure_model``, which loads and shards, and calls no collective where ranks do so in turn."""
        turns = self.num_processes if self.load_in_turn else 0
        before = min(self.local_rank, turns)
        with super().model_sharded_context():
            for _ in range(before):
                self.barrier()
            yield
            for _ in range(turns - before):
                self.barrier()

    def model_to_device(self) -> None:
        if not self.sharding.cpu_offload:
            super().model_to_device()
            return
        assert self.model is not None
        for module in self.model.modules():  # shards stay where they are
            for kind in (module._parameters, module._buffers):
                for name, tensor in kind.items():
                    if tensor is not None and not isinstance(tensor, DTensor):
                        kind[name] = tensor.to(self.root_device)  # type: ignore[assignment]

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Accumulate gradients locally; Lightning calls this before the last batch of `accumulate_grad_batches`."""
        assert self.model is not None
        with sync_gradients(self.model, self.sharding, enabled=False):
            yield

    # --- checkpoints ---

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Trained parameters: shards for a directory, full tensors on rank 0 for a file."""
        assert self.lightning_module is not None
        reshard(self.lightning_module)
        trained = {name: p.detach() for name, p in self.lightning_module.named_parameters() if p.requires_grad}
        return trained if self._save_distributed_checkpoint else self._full(trained)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As ``Optimizer.state_dict``: shards for a directory, full tensors on rank 0 for a file."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        state_dict = optimizer.state_dict()
        parameters = _parameters(optimizer)
        for index, state in state_dict["state"].items():
            _check_shards(parameters[index], state, optimizer)
        if not self._save_distributed_checkpoint:
            state_dict["state"] = {index: self._full(state) for index, state in state_dict["state"].items()}
        return state_dict

    def _full(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Full tensors on rank 0, nothing on the others. A collective call."""
        gathered = {}
        for name, tensor in tensors.items():  # one after the other: no GPU must hold them all
            value = full_tensor(tensor) if isinstance(tensor, torch.Tensor) else tensor
            if self.is_global_zero:
                gathered[name] = value
        return gathered

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        path = Path(self.broadcast(filepath))
        if not self._save_distributed_checkpoint and AVERAGES in checkpoint:
            checkpoint[AVERAGES] = {name: self._full(average) for name, average in checkpoint[AVERAGES].items()}
        if self._save_distributed_checkpoint:
            save_sharded(checkpoint, path, self._parameter_names(), self.barrier, self.is_global_zero)
        elif self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(self.broadcast(checkpoint_path))
        assert self.lightning_module is not None
        if is_sharded_checkpoint(path):
            parameters = dict(self.lightning_module.named_parameters())
            return load_sharded(path, parameters, with_optimizers=bool(self.optimizers))
        return self.checkpoint_io.load_checkpoint(path, weights_only=weights_only)

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copy a checkpoint's weights; the module has compared them with its own (``on_load_checkpoint``)."""
        assert self.lightning_module is not None
        parameters = dict(self.lightning_module.named_parameters())
        for name, value in checkpoint["state_dict"].items():
            _local(parameters[name]).copy_(_local(sharded_like(value, parameters[name])))

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state_dict in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = _parameters(optimizer)
            state = {
                index: {key: _as_state(value, parameters[index]) for key, value in values.items()}
                for index, values in state_dict["state"].items()
            }
            optimizer.load_state_dict({**state_dict, "state": state})

    def _parameter_names(self) -> list[list[str]]:
        """For each optimizer, the names of its parameters in order."""
        assert self.lightning_module is not None
        names = {id(p): name for name, p in self.lightning_module.named_parameters()}
        return [
            [names[id(p)] for group in optimizer.param_groups for p in group["params"]] for optimizer in self.optimizers
        ]


@contextmanager
def sync_gradients(module: torch.nn.Module, args: ShardingArgs, *, enabled: bool) -> Iterator[None]:
    """Synchronise gradients in the backward passes inside, or accumulate them; sharded ones are always synchronised."""
    if enabled or args.accumulate == "sharded":
        yield
        return
    units = units_of(module)
    for unit in units:
        unit.set_requires_gradient_sync(False, recurse=False)
    try:
        yield
    finally:
        for unit in units:
            unit.set_requires_gradient_sync(True, recurse=False)


def _parameters(optimizer: Optimizer) -> list[torch.Tensor]:
    """In the order in which ``state_dict`` numbers them."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _as_state(value: Any, parameter: torch.Tensor) -> Any:
    return sharded_like(value, parameter) if isinstance(value, torch.Tensor) else value


def _check_shards(parameter: torch.Tensor, state: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Refuse optimizer states that are not sharded like their parameters: only one rank's would be saved.

    Raises:
        UserError: naming the optimizer.
    """
    if not isinstance(parameter, DTensor):
        return
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.dim() and not isinstance(value, DTensor):
            raise UserError(
                f"{type(optimizer).__name__} keeps its `{key}` outside of FSDP's shards, so it cannot be saved; choose "
                "an optimizer of torch.optim, or train on one GPU or with ddp."
            )
