"""Log-probs of the reference on disk, so that it is read once per pair and not once per epoch.

Each pair has an entry of its own, named by a digest of all that its two numbers depend on: the reference's weights, the
token ids of prompt and answers (so tokenizer, template and lengths), and the pictures. A pair that is added costs one
entry, a pair that has changed finds none.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_uniopd.distributed.sharding import full_tensor, weights_of
from lit_uniopd.errors import UserError
from lit_uniopd.types import EncodedPair
from lit_uniopd.utils.images import image_digest
from lit_uniopd.utils.jsonl import append_lines, rank_file, read_lines


class ReferenceCache:
    """Sums of the reference's token log-probs, by pair.

    Args:
        directory: of the files; one for each reference.
        reference: digest of its weights, of `weights_digest`, and whatever else changes its numbers.
        rank: of this process, which writes a file of its own.
    """

    def __init__(self, directory: str | Path, reference: str, rank: int = 0) -> None:
        self.reference = reference
        self.path = Path(directory) / f"{reference}.jsonl"
        self.rank = rank
        self.known: dict[str, tuple[float, float]] = {}

    def load(self) -> None:
        """Read what all ranks have written.

        Raises:
            UserError: if an entry is none.
        """
        for line in read_lines(self.path):
            try:
                chosen, rejected = line["logps"]
                self.known[line["pair"]] = (float(chosen), float(rejected))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{self.path} has a line that is no reference log-prob; delete the file.") from error

    def missing(self, pairs: Iterable[EncodedPair]) -> list[EncodedPair]:
        """Pairs without an entry, each once."""
        by_key = {self.key(pair): pair for pair in pairs}
        return [pair for key, pair in by_key.items() if key not in self.known]

    def add(self, pairs: Sequence[EncodedPair], sums_P2: Tensor) -> None:
        """Keep the log-probs of some pairs; they are on disk when this returns."""
        values = sums_P2.double().tolist()
        entries = {self.key(pair): (chosen, rejected) for pair, (chosen, rejected) in zip(pairs, values, strict=True)}
        append_lines(rank_file(self.path, self.rank), [{"pair": key, "logps": sums} for key, sums in entries.items()])
        self.known.update(entries)

    def sums(self, pairs: Sequence[EncodedPair], device: torch.device) -> Tensor:
        """Log-probs ``[P, 2]`` of chosen and rejected answers, summed over their tokens.

        Raises:
            KeyError: if a pair has no entry.
        """
        return torch.tensor([self.known[self.key(pair)] for pair in pairs], device=device)

    def key(self, pair: EncodedPair) -> str:
        """Digest of what the pair's numbers depend on."""
        identity: list[Any] = [self.reference, pair.prompt_tokens, pair.chosen_tokens, pair.rejected_tokens]
        if pair.pair.prompt.images:
            identity += [[dict(message) for message in pair.pair.prompt.messages]]
            identity += [image_digest(image) for image in pair.pair.prompt.images]
        return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """Digest of a model's names, types and weights, without adapters. A collective call if they are sharded."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights_of(model).items()):
        if ".lora_" not in name and isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(full_tensor(tensor).contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
