"""Checkpoints that are directories: each rank writes its shards, and any number of ranks reads them.

    name.ckpt/
      shard-0000N-...safetensors   tensors of rank N - 1, of torch.distributed.checkpoint
      meta.pt                      everything else; written last

PyTorch's usual distributed format keeps its table of contents in a pickle, and reading one runs whatever is in it. Its
safetensors format keeps it in the files' JSON headers, so nothing here is unpickled: `meta.pt` is read by torch's
restricted loader.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from lit_uniopd.errors import UserError

META = "meta.pt"
"""Lightning knows sharded checkpoints by this file."""
DAMAGES = (OSError, RuntimeError, KeyError, ValueError, EOFError, UnpicklingError, SafetensorError, CheckpointException)
"""What reading a damaged checkpoint raises."""
_WEIGHT, _STATE = "weight", "optimizer"


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether there is a directory that ``save_sharded`` finished; one whose replacement was cut short is put back."""
    settle(path)
    return (path / META).is_file()


def save_sharded(
    checkpoint: Mapping[str, Any], path: Path, names: list[list[str]], barrier: Callable[[], None], first: bool
) -> None:
    """Write a checkpoint whose tensors are shards. A collective call.

    It is written beside the target, which is replaced when all is on disk: a killed run leaves the old one or the new.

    Args:
        checkpoint: Lightning's.
        path: of the directory.
        names: of each optimizer's parameters in their order.
        barrier: waits for all ranks.
        first: whether this rank writes what is not sharded.

    Raises:
        UserError: if it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    if first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier()
    tensors, rest = _divided(checkpoint, names)
    try:
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True))
        if first:
            rest["shares"] = sorted(file.name for file in partial.iterdir())
            with (partial / META).open("wb") as file:
                torch.save(rest, file)
                file.flush()
                os.fsync(file.fileno())
            replace_directory(partial, path)
    except (CheckpointException, OSError, RuntimeError) as error:
        if first:
            shutil.rmtree(partial, ignore_errors=True)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"Cannot write the checkpoint {path} ({reason}); free some space there and resume from the last one, which "
            "is whole."
        ) from error
    barrier()


def _divided(checkpoint: Mapping[str, Any], names: list[list[str]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint by key, and what is left of it; counters of optimizers are left."""
    tensors = {f"{_WEIGHT}/{name}": tensor for name, tensor in checkpoint["state_dict"].items()}
    rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
    rest |= {"optimizer_states": [], "optimizer_names": names}
    for number, packed in enumerate(checkpoint.get("optimizer_states", [])):
        left: dict[int, dict[str, Any]] = {}
        for index, state in packed["state"].items():
            large = {key for key, value in state.items() if isinstance(value, Tensor) and value.dim()}
            tensors |= {f"{_STATE}/{number}/{names[number][index]}/{key}": state[key] for key in large}
            left[index] = {key: value for key, value in state.items() if key not in large}
        rest["optimizer_states"].append({**packed, "state": left})
    return tensors, rest


def replace_directory(new: Path, path: Path) -> None:
    """Put a finished directory in the place of an older one, or of a file."""
    old = path.with_name(f"{path.name}.old")
    _remove(old)
    if path.exists():
        path.rename(old)
    new.rename(path)
    _remove(old)


def settle(path: Path) -> None:
    """Finish a replacement that was cut short between its two steps: take the new one if it is whole, else the old."""
    old, partial = (path.with_name(f"{path.name}.{end}") for end in ("old", "partial"))
    if path.exists() or not old.exists():
        return
    try:
        (partial if (partial / META).is_file() else old).rename(path)
    except FileNotFoundError:  # another rank was faster
        return


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def load_sharded(
    path: Path, like: Mapping[str, Tensor] | None = None, *, with_optimizers: bool = True
) -> dict[str, Any]:
    """Read a checkpoint back into Lightning's form. A collective call if ``like`` is given.

    Args:
        path: of the directory.
        like: sharded parameters by name: weights and optimizer states are read in their layout, each rank its share.
            Weights of another name or shape come without content, to be told of. None: everything is read whole.
        with_optimizers: also read optimizer states.

    Raises:
        UserError: if the directory is not whole.
    """
    try:
        rest = torch.load(path / META, map_location="cpu", weights_only=True)
        if lost := [name for name in rest.pop("shares") if not (path / name).is_file()]:
            raise ValueError(f"it lacks {', '.join(lost)}")
        tensors = _read_tensors(path, like, with_optimizers)
    except DAMAGES as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"The checkpoint {path} is damaged ({reason}); resume from another one.") from error
    rest["state_dict"] = {_parameter(key): t for key, t in tensors.items() if key.startswith(f"{_WEIGHT}/")}
    names = rest.pop("optimizer_names")
    for number, packed in enumerate(rest["optimizer_states"]):
        places = {name: index for index, name in enumerate(names[number])}
        for key, tensor in tensors.items():
            if key.startswith(f"{_STATE}/{number}/"):
                packed["state"][places[_parameter(key)]][key.rsplit("/", 1)[1]] = tensor
    return rest


def _read_tensors(path: Path, like: Mapping[str, Tensor] | None, with_optimizers: bool) -> dict[str, Tensor]:
    metadata = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    wanted = {
        key: _template(info, None if like is None else like.get(_parameter(key)))
        for key, info in metadata.items()
        if isinstance(info, TensorStorageMetadata) and (with_optimizers or key.startswith(f"{_WEIGHT}/"))
    }
    if like is not None and any(_is_stranger(key, tensor, like) for key, tensor in wanted.items()):
        return wanted  # empty; the module will say what does not fit
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # so it shall be
        load(wanted, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=like is None)
    return wanted


def _parameter(key: str) -> str:
    """Whose tensor it is."""
    parts = key.split("/")
    return parts[1] if parts[0] == _WEIGHT else parts[2]


def _template(info: TensorStorageMetadata, like: Tensor | None) -> Tensor:
    """Room for a tensor: laid out like a parameter of the same shape, or whole on the CPU."""
    if like is not None and like.shape == info.size:
        return torch.zeros_like(like.detach(), dtype=info.properties.dtype)
    return torch.zeros(info.size, dtype=info.properties.dtype)


def _is_stranger(key: str, tensor: Tensor, like: Mapping[str, Tensor]) -> bool:
    name = _parameter(key)
    return key.startswith(f"{_WEIGHT}/") and (name not in like or like[name].shape != tensor.shape)
