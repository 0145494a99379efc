"""A teacher whose log-probs are kept on disk, so that answers are scored once and the teacher is rarely loaded."""

import hashlib
import json
import logging
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_uniopd.policy.loading import weights_fingerprint
from lit_uniopd.teachers.args import TeacherArgs
from lit_uniopd.teachers.base import Scored, encode_each
from lit_uniopd.teachers.local import LocalTeacher
from lit_uniopd.types import Rollouts
from lit_uniopd.utils.images import image_digest
from lit_uniopd.utils.jsonl import append_lines, as_line, parse_line, rank_file, rank_files

log = logging.getLogger(__name__)


class LogpCache:
    """Log-probs of answers' tokens, under keys of all that they depend on.

    Only the entries' positions in the files are held in memory. An entry carries a digest of itself; one that does not
    match it counts as missing.

    Args:
        path: of the file of rank 0; other ranks write beside it, and all are read.
        rank: of this process.

    Attributes:
        corrupt: how many entries were damaged.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path = path
        self.rank = rank
        self.corrupt = 0
        self._positions: dict[str, tuple[Path, int]] = {}
        for file in rank_files(path):
            with file.open("rb") as lines:
                position = 0
                for line in lines:
                    entry = parse_line(line)
                    if entry is None or not isinstance(entry.get("answer"), str):
                        self.corrupt += line.endswith(b"\n")  # the last line of a killed run is only torn
                    else:
                        self._positions[entry["answer"]] = (file, position)
                    position += len(line)

    def __len__(self) -> int:
        return len(self._positions)

    def get(self, key: str, length: int) -> Tensor | None:
        """The log-probs ``[length]`` of an answer; None if there are none, or they are damaged."""
        if key not in self._positions:
            return None
        file, position = self._positions[key]
        try:
            with file.open("rb") as lines:
                lines.seek(position)
                entry = parse_line(lines.readline()) or {}
            content = b64decode(entry["logps"], validate=True)
            stored = (entry["answer"], entry["check"])
        except (OSError, KeyError, TypeError, ValueError):
            content, stored = b"", ()
        if stored != (key, _check(key, content)) or len(content) != 4 * length:
            self.corrupt += 1
            del self._positions[key]
            return None
        return torch.frombuffer(bytearray(content), dtype=torch.float32)

    def add(self, entries: Mapping[str, Tensor]) -> None:
        """Store the log-probs of some answers; they are on disk when this returns."""
        file = rank_file(self.path, self.rank)
        lines = []
        for key, logps_T in entries.items():
            content = logps_T.to(device="cpu", dtype=torch.float32).numpy().tobytes()
            lines.append({"answer": key, "check": _check(key, content), "logps": b64encode(content).decode()})
        position = append_lines(file, lines)
        for line in lines:
            self._positions[line["answer"]] = (file, position)
            position += len(as_line(line).encode())


class CachedTeacher(LocalTeacher):
    """A local teacher behind a cache of its log-probs.

    An answer's key is a digest of the weights' files, their type and quantisation, the token ids of prompt (what
    the teacher reads, in its chat template) and answer, its pictures and the temperature.
    """

    scores_distributions = False

    def __init__(self, name: str, args: TeacherArgs) -> None:
        super().__init__(name, args)
        self._cache: LogpCache | None = None

    @property
    def cache(self) -> LogpCache:
        if self._cache is None:
            directory = Path(self.args.cache or "")
            inputs = [
                weights_fingerprint(self.args, self.flag, directory / "weights.jsonl"),
                self.args.dtype,
                self.args.quantization,
                self.args.max_pixels,
            ]
            name = hashlib.blake2b(json.dumps(inputs).encode(), digest_size=16).hexdigest()
            rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
            self._cache = LogpCache(directory / f"{name}.jsonl", rank)
            log.info("Teacher %r: %d answers are in %s.", self.name, len(self._cache), self._cache.path)
            self._warn(self._cache.corrupt)
        return self._cache

    def load(self) -> None:
        """Open the cache; the model is loaded when an answer is missing."""
        _ = self.cache

    def cache_key(self, rollouts: Rollouts) -> list[list[Any]]:
        """What the log-probs of each answer depend on beside the weights, the answer and the temperature."""
        prompts = encode_each(self, rollouts.prompts)
        return [
            [encoded.tokens, *(image_digest(image) for image in self.reading(prompt).images)]
            for encoded, prompt in zip(prompts, rollouts.prompts, strict=True)
        ]

    def score(self, rollouts: Rollouts, *, temperature: float, max_tokens: int) -> Iterator[Scored]:
        compute = partial(super().score, temperature=temperature, max_tokens=max_tokens)
        corrupt_before = self.cache.corrupt
        yield from read_or_score(self.cache, self.cache_key(rollouts), rollouts, temperature, compute)
        self._warn(self.cache.corrupt - corrupt_before)

    def _warn(self, corrupt: int) -> None:
        if corrupt:
            path = self.cache.path
            log.warning("Teacher %r: %d entries in %s are damaged and not used.", self.name, corrupt, path)


def read_or_score(
    cache: LogpCache,
    inputs: Sequence[Sequence[Any]],
    rollouts: Rollouts,
    temperature: float,
    compute: Callable[[Rollouts], Iterator[Scored]],
) -> Iterator[Scored]:
    """Log-probs of answers from a cache, and of those that it lacks from a model, which are added to it.

    Args:
        cache: of all that the log-probs depend on and is the same for all answers.
        inputs: what each answer's depend on beside its tokens: what was read before it.
        rollouts: the answers.
        temperature: divides the logits.
        compute: scores some of the answers.
    """
    lengths, keys, cached = rollouts.lengths_B.tolist(), [], {}
    for row, ((prompt, *images), tokens) in enumerate(zip(inputs, rollouts.tokens_BT.tolist(), strict=True)):
        key = [prompt, tokens[: lengths[row]], temperature, *images]
        keys.append(hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest())
        logps_T = cache.get(keys[row], lengths[row])
        if logps_T is not None:
            cached[row] = logps_T
    if cached:
        yield Scored(list(cached), pad_sequence(list(cached.values()), batch_first=True), cached=True)
    missing = [row for row in range(len(rollouts)) if row not in cached]
    for scored in compute(rollouts[missing]) if missing else ():
        rows = [missing[row] for row in scored.rows]
        if scored.logps_BT is not None:
            cache.add(
                {
                    keys[row]: logps_T[: lengths[row]]
                    for row, logps_T in zip(rows, scored.logps_BT, strict=True)
                    if logps_T.isfinite().all()
                }
            )
        yield Scored(rows, scored.logps_BT, scored.problem)


def _check(key: str, content: bytes) -> str:
    return hashlib.blake2b(key.encode() + content, digest_size=8).hexdigest()
