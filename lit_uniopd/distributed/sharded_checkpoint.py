"""Checkpoints that are directories: each rank writes its shards, and any number of ranks can read them.

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
from lit_uniopd.utils.checkpoint_directory import META

LOAD_ERRORS = (
    *(OSError, RuntimeError, KeyError, ValueError, EOFError),
    *(UnpicklingError, SafetensorError, CheckpointException),
)
"""What reading a damaged checkpoint raises."""
AVERAGES = "averages"
"""Key of averages of the weights in a checkpoint: name -> parameter -> tensor, sharded like the parameter."""
_WEIGHT, _STATE, _AVERAGE = "weight", "optimizer", "average"


def save_sharded(
    checkpoint: Mapping[str, Any], path: Path, names: list[list[str]], barrier: Callable[[], None], first: bool
) -> None:
    """Write a checkpoint whose tensors are shards. A collective call.

    It is written beside the target and replaces it once everything is on disk: a killed run leaves the old or the new.

    Args:
        checkpoint: Lightning's.
        path: of the directory.
        names: for each optimizer, the names of its parameters in order.
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
    tensors, metadata = _split(checkpoint, names)
    try:
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True))
        if first:
            metadata["shares"] = sorted(file.name for file in partial.iterdir())
            with (partial / META).open("wb") as file:
                torch.save(metadata, file)
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


def _split(checkpoint: Mapping[str, Any], names: list[list[str]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint by key, and everything else, step counters of optimizers included."""
    tensors = {f"{_WEIGHT}/{name}": tensor for name, tensor in checkpoint["state_dict"].items()}
    metadata = {key: value for key, value in checkpoint.items() if key != "state_dict"}
    metadata |= {"optimizer_states": [], "optimizer_names": names}
    for number, average in enumerate(checkpoint.get(AVERAGES, {}).values()):
        tensors |= {f"{_AVERAGE}/{number}/{name}": tensor for name, tensor in average.items()}
    if AVERAGES in checkpoint:
        metadata[AVERAGES] = {name: {} for name in checkpoint[AVERAGES]}
    for number, state_dict in enumerate(checkpoint.get("optimizer_states", [])):
        scalars: dict[int, dict[str, Any]] = {}
        for index, state in state_dict["state"].items():
            large = {key for key, value in state.items() if isinstance(value, Tensor) and value.dim()}
            tensors |= {f"{_STATE}/{number}/{names[number][index]}/{key}": state[key] for key in large}
            scalars[index] = {key: value for key, value in state.items() if key not in large}
        metadata["optimizer_states"].append({**state_dict, "state": scalars})
    return tensors, metadata


def replace_directory(new: Path, path: Path) -> None:
    """Put a finished directory in place of an older one, or of a file."""
    old = path.with_name(f"{path.name}.old")
    _remove(old)
    if path.exists():
        path.rename(old)
    new.rename(path)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def load_sharded(
    path: Path, like: Mapping[str, Tensor] | None = None, *, with_optimizers: bool = True
) -> dict[str, Any]:
    """Read a checkpoint back into Lightning's form. A collective call if ``like`` is not None.

    Args:
        path: of the directory.
        like: sharded parameters by name: weights and optimizer states are read in their layout, each rank its shards.
            If a weight has another name or shape, tensors come back empty, for an error message. None: full tensors.
        with_optimizers: also read optimizer states.

    Raises:
        UserError: if the directory is incomplete or damaged.
    """
    try:
        metadata = torch.load(path / META, map_location="cpu", weights_only=True)
        if missing_files := [name for name in metadata.pop("shares") if not (path / name).is_file()]:
            raise ValueError(f"it lacks {', '.join(missing_files)}")
        tensors = _read_tensors(path, like, with_optimizers)
    except LOAD_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"The checkpoint {path} is damaged ({reason}); resume from another one.") from error
    metadata["state_dict"] = {_parameter_name(key): t for key, t in tensors.items() if key.startswith(f"{_WEIGHT}/")}
    for number, average in enumerate(metadata.get(AVERAGES, {}).values()):
        prefix = f"{_AVERAGE}/{number}/"
        average |= {_parameter_name(key): t for key, t in tensors.items() if key.startswith(prefix)}
    names = metadata.pop("optimizer_names")
    for number, state_dict in enumerate(metadata["optimizer_states"]):
        indices = {name: index for index, name in enumerate(names[number])}
        for key, tensor in tensors.items():
            if key.startswith(f"{_STATE}/{number}/"):
                state_dict["state"][indices[_parameter_name(key)]][key.rsplit("/", 1)[1]] = tensor
    return metadata


def _read_tensors(path: Path, like: Mapping[str, Tensor] | None, with_optimizers: bool) -> dict[str, Tensor]:
    metadata = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    templates = {
        key: _template(info, None if like is None else like.get(_parameter_name(key)))
        for key, info in metadata.items()
        if isinstance(info, TensorStorageMetadata) and (with_optimizers or key.startswith(f"{_WEIGHT}/"))
    }
    if like is not None and any(_does_not_fit(key, tensor, like) for key, tensor in templates.items()):
        return templates  # empty; the module will say what does not fit
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # on purpose
        load(templates, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=like is None)
    return templates


def _parameter_name(key: str) -> str:
    """From ``weight/NAME``, ``optimizer/NUMBER/NAME/STATE`` or ``average/NUMBER/NAME``."""
    fields = key.split("/")
    return fields[1] if fields[0] == _WEIGHT else fields[2]


def _template(info: TensorStorageMetadata, like: Tensor | None) -> Tensor:
    """An empty tensor to read into: laid out like a parameter of the same shape, or full on the CPU."""
    if like is not None and like.shape == info.size:
        return torch.zeros_like(like.detach(), dtype=info.properties.dtype)
    return torch.zeros(info.size, dtype=info.properties.dtype)


def _does_not_fit(key: str, tensor: Tensor, like: Mapping[str, Tensor]) -> bool:
    name = _parameter_name(key)
    return key.startswith(f"{_WEIGHT}/") and (name not in like or like[name].shape != tensor.shape)
