"""Telling models, prompts and settings apart by their content."""

import hashlib
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from lit_uniopd.benchmarks.records import content_hash
from lit_uniopd.benchmarks.spec import Example, Generation
from lit_uniopd.distributed.sharding import weights_of
from lit_uniopd.utils.seeding import derive_seed

_SAMPLED = 256
_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def weights_fingerprint(model: nn.Module) -> str:
    """Hash of all weights: equal weights give equal hashes on any device, one changed bit gives another.

    Bit patterns are added up as integers, which no order of summation changes, and some of them are hashed as they
    are, so that moved values show too.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights_of(model).items()):
        if not isinstance(tensor, Tensor) or tensor.numel() == 0:
            continue
        bits = tensor.detach().contiguous().view(-1).view(_INTEGER[tensor.element_size()])
        # A copy: memory that numpy has seen can no longer be freed when sharded weights are let go of.
        some = bits[:: max(1, bits.numel() // _SAMPLED)].clone().cpu().numpy().tobytes()
        digest.update(f"{name}{tuple(tensor.shape)}{int(bits.sum(dtype=torch.int64))}".encode() + some)
    return digest.hexdigest()[:16]


def prompt_hash(example: Example, chat: Any) -> str:
    """Hash of what the model is shown."""
    return content_hash(list(example.messages), [image_hash(image) for image in example.images], chat)


def image_hash(image: Any) -> str:
    """A path as it is, embedded pictures by their bytes, loaded ones by their pixels."""
    if isinstance(image, str):
        return image
    return hashlib.sha256(image if isinstance(image, bytes) else image.tobytes()).hexdigest()[:16]


def generation_hash(generation: Generation, seed: int, engine: str) -> str:
    """Hash of how answers are written; greedy answers depend neither on seed nor on engine."""
    return content_hash(asdict(generation), (seed, engine) if generation.temperature > 0 else None)


def noise_key(benchmark: str, sample_id: str) -> int:
    """Key of the sampling noise of one row: the same on every rank and in every batch."""
    return derive_seed(0, benchmark, sample_id)
