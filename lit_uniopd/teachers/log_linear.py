"""A log-linear mixture of teachers, whose log-probs of sampled tokens take whole distributions of all of them."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from lit_uniopd.distributed.sharding import is_sharded
from lit_uniopd.functional.mixture import log_linear_token_logps
from lit_uniopd.teachers.base import Scored, Teacher, encode_each
from lit_uniopd.teachers.cached import CachedTeacher, LogpCache, read_or_score
from lit_uniopd.teachers.local import LocalTeacher
from lit_uniopd.teachers.refusals import refuse_log_linear
from lit_uniopd.types import Rollouts


class LogLinearMixture:
    """Several teachers that score answers as one.

    Where weights of all stay on the device, they read one micro-batch after the other. Where some visit it, or are
    gathered from their shards, each comes once a rollout, and hidden states wait in host memory for the last: ``4 H``
    bytes (2 in 16 bits) for each token and teacher.

    Args:
        name: of the mixture.
        teachers: those that are mixed, at least two; on disk all or none of them.
        shares: of each, 1 together.
    """

    def __init__(self, name: str, teachers: Sequence[LocalTeacher], shares: Sequence[float]) -> None:
        self.name, self.teachers, self.shares = name, teachers, shares
        self._cache: LogpCache | None = None

    @classmethod
    def of(cls, name: str, teachers: Sequence[Teacher], shares: Iterable[float]) -> "LogLinearMixture":
        """A mixture of teachers that live anywhere.

        Raises:
            UserError: naming the flags, if they live where they cannot be mixed.
        """
        refuse_log_linear(name, teachers)
        return cls(name, [teacher for teacher in teachers if isinstance(teacher, LocalTeacher)], list(shares))

    @property
    def foreign_ids(self) -> Tensor:
        """The student's tokens that one of them does not know."""
        return torch.cat([teacher.foreign_ids for teacher in self.teachers]).unique()

    @property
    def by_layer(self) -> bool:
        """Whether all ranks must score together, also those that have nothing to score: to gather weights."""
        return any(not teacher.visits and is_sharded(teacher.policy) for teacher in self.teachers)

    @property
    def _all_stay(self) -> bool:
        """Whether whole weights of all are on the device all the time."""
        return all(teacher.stays for teacher in self.teachers)

    def gathered(self) -> AbstractContextManager[None]:
        """Nothing yet: each is gathered when its turn comes."""
        return nullcontext()

    def send_away(self) -> None:
        """Free the device of those that only visit it."""
        for teacher in self.teachers:
            teacher.send_away()

    def score(self, rollouts: Rollouts, *, temperature: float, max_tokens: int) -> Iterator[Scored]:
        """As ``Teacher.score``; from disk, where all of them are cached and have scored an answer together before."""
        cached = [teacher for teacher in self.teachers if isinstance(teacher, CachedTeacher)]
        if not cached:
            yield from self._computed(rollouts, temperature, max_tokens)
            return
        order = sorted(range(len(cached)), key=lambda i: (cached[i].cache.path.name, self.shares[i]))
        keys = [cached[i].cache_key(rollouts) for i in order]
        inputs = [[list(each)] for each in zip(*keys, strict=True)]
        yield from read_or_score(
            self._cache_of([cached[i] for i in order], [self.shares[i] for i in order]),
            inputs,
            rollouts,
            temperature,
            lambda missing: self._computed(missing, temperature, max_tokens),
        )

    def _cache_of(self, teachers: Sequence[CachedTeacher], shares: Sequence[float]) -> LogpCache:
        """In the directory of the first of them, under a name of all that the log-probs depend on."""
        if self._cache is None:
            inputs = ["log_linear", *([t.cache.path.name, share] for t, share in zip(teachers, shares, strict=True))]
            name = hashlib.blake2b(json.dumps(inputs).encode(), digest_size=16).hexdigest()
            self._cache = LogpCache(Path(teachers[0].cache.path.parent) / f"{name}.jsonl", teachers[0].cache.rank)
        return self._cache

    def _computed(self, rollouts: Rollouts, temperature: float, max_tokens: int) -> Iterator[Scored]:
        for rows in self._blocks(rollouts, max_tokens):
            block = rollouts[rows]
            hidden, heads = [], []
            for teacher in self.teachers:
                with teacher.gathered():
                    states = teacher.hidden_states(block, max_tokens, on_host=not self._all_stay)
                    if states:
                        hidden.append(torch.cat(states))
                        heads.append(teacher.projection(temperature))
                teacher.send_away()
            if rows:
                tokens_N = block.tokens_BT[block.mask_BT]
                logps_N = log_linear_token_logps(hidden, heads, self.shares, tokens_N)
                mask_BT = block.mask_BT.to(logps_N.device)
                yield Scored(rows, logps_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, logps_N).float())

    def _blocks(self, rollouts: Rollouts, max_tokens: int) -> list[list[int]]:
        """Rows of the answers that all read before any reads the next: all of them, where weights come and go."""
        if not (len(rollouts) and self._all_stay):
            return [list(range(len(rollouts)))]
        prompts = [encode_each(teacher, rollouts.prompts) for teacher in self.teachers]
        longest = [max((prompt.tokens for prompt in each), key=len) for each in zip(*prompts, strict=True)]
        vision = [prompt.vision for prompt in prompts[0]]
        first = self.teachers[0].policy
        return first.micro_batches(longest, rollouts.tokens_BT, rollouts.mask_BT, max_tokens, vision=vision)
