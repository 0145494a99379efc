"""Hash of a model's weights."""

import hashlib

import torch
from torch import Tensor, nn

from lit_uniopd.distributed.sharding import weights_of

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
        # A copy: memory shared with numpy could not be freed when sharded weights are released.
        some = bits[:: max(1, bits.numel() // _SAMPLED)].clone().cpu().numpy().tobytes()
        digest.update(f"{name}{tuple(tensor.shape)}{int(bits.sum(dtype=torch.int64))}".encode() + some)
    return digest.hexdigest()[:16]
