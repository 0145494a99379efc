"""The options of sampling, and of the servers that may do it."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import urlsplit

from lit_uniopd.errors import UserError

COLD = 0.05
"""At this temperature a token that is a nat behind the first is drawn once in 500 million times."""
NARROW = 0.05
"""The most probable token has more than this share nearly everywhere."""
Sync = Literal["auto", "adapter", "reload"]
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that are this machine."""


@dataclass
class ServerArgs:
    """vLLM servers that write answers in the student's place."""

    urls: list[str] = field(default_factory=list)
    """Their addresses, `http://host:8000`; prompts are dealt out to them in turn."""
    model: str = ""
    """The name they serve the student under: what `vllm serve` was given, or its `--served-model-name`. Empty: the only
    one that they serve."""
    directory: str = ""
    """Where the student's weights are left for the servers, who must see it under the same path. For one run alone.
    Empty: a directory of this machine's memory (/dev/shm), where all servers are on this machine."""
    sync: Sync = "auto"
    """How servers take the weights. adapter: as a LoRA adapter beside the base model; reload: whole, by vLLM's
    reload_weights. auto: adapter under LoRA, else reload."""
    requests: int = 64
    """Prompts that each process has under way at the same time."""
    timeout: float = 600.0
    """Seconds that the answers to one prompt, or taking new weights, may last."""
    retries: int = 8
    """Further rounds of attempts where servers are busy, break off or cannot be reached, after pauses of 0.5, 1, 2, 4
    ... 30 s. A server that broke off is given the weights again before it is asked."""
    api_key_variable: str | None = None
    """Environment variable that holds the servers' key; null: none is sent."""
    max_drift: float | None = 0.2
    """The run stops when the servers' log-probs are further than this from the trainer's, in nats on average: for a
    probe whenever weights were sent, and for every rollout. They then sample from another model. null: never."""

    def __post_init__(self) -> None:
        rules = {
            "urls": (bool(self.urls), "the address of at least one server"),
            "sync": (self.sync in get_args(Sync), "auto, adapter or reload"),
            "requests": (self.requests >= 1, "at least 1"),
            "timeout": (self.timeout > 0, "above 0"),
            "retries": (self.retries >= 0, "at least 0"),
            "max_drift": (self.max_drift is None or self.max_drift > 0, "above 0, or null"),
        }
        for name, (valid, rule) in rules.items():
            if not valid:
                raise UserError(f"sampling.server.{name} must be {rule}, got {getattr(self, name)!r}.")
        here = (*LOOPBACK, None)  # an address without a host is refused later
        elsewhere = [url for url in self.urls if urlsplit(url).hostname not in here]
        if not self.directory and elsewhere:
            raise UserError(
                f"sampling.server.directory must be named, since {elsewhere[0]} may be another machine: a directory on "
                "a file system that trainer and servers see under the same path."
            )


CPU_CACHE_GIB = 1.0
"""Room for the keys and values of vLLM in the trainer's process on a CPU, where nothing else is said."""


@dataclass
class ColocateArgs:
    """vLLM in the trainer's process: one engine a rank, for `engine: vllm` without servers."""

    gpu_memory_utilization: float = 0.4
    """Share of a GPU's memory that the engine may use, weights included. It is given back between rollouts."""
    kv_cache_gib: float | None = None
    """Room for keys and values, in GiB; null: what that share leaves on a GPU, 1 GiB on a CPU."""
    max_model_len: int | None = None
    """Longest prompt with answer, in tokens; null: the model's positions, or what the cache has room for."""
    max_drift: float | None = 0.2
    """The run stops when the engine's log-probs are further than this from the trainer's, in nats on average: for a
    probe whenever weights were sent, and for every rollout. null: never."""

    def __post_init__(self) -> None:
        rules = {
            "gpu_memory_utilization": (0 < self.gpu_memory_utilization <= 1, "in (0, 1]"),
            "kv_cache_gib": (self.kv_cache_gib is None or self.kv_cache_gib > 0, "above 0, or null"),
            "max_model_len": (self.max_model_len is None or self.max_model_len >= 2, "at least 2, or null"),
            "max_drift": (self.max_drift is None or self.max_drift > 0, "above 0, or null"),
        }
        for name, (valid, rule) in rules.items():
            if not valid:
                raise UserError(f"sampling.colocate.{name} must be {rule}, got {getattr(self, name)!r}.")


Engine = Literal["auto", "loop", "generate", "vllm"]


@dataclass
class SamplingArgs:
    """How answers are written."""

    n: int = 16
    """Answers per prompt."""
    max_new_tokens: int = 1024
    """Longest answer in tokens; a longer one is cut, and counts as truncated."""
    temperature: float = 1.0
    """Divides the logits; 0 always takes the most probable token."""
    top_p: float = 1.0
    """Sample from the fewest tokens whose probability reaches this; 1 for all. Log-probs stay those over all tokens."""
    top_k: int = 0
    """Sample from so many most probable tokens; 0 for all. Log-probs stay those over all tokens."""
    max_rows: int = 256
    """Answers written at the same time: fewer need less memory. The answers themselves do not depend on it."""
    engine: Engine = "auto"
    """auto: vllm where servers are named, or on a GPU if it is installed and can run the student, else loop. loop: our
    own, which drops finished answers; generate: the one of transformers, slower, to compare with; vllm: vLLM in this
    process or as servers."""
    server: ServerArgs | None = None
    """vLLM's servers; null: its engine is in this process."""
    colocate: ColocateArgs = field(default_factory=ColocateArgs)
    """vLLM's engine in this process."""
    lag: int = 0
    """1: the servers write the next rollout while this one is trained on, by the weights from before its updates; 0:
    each is written by the weights that are trained on it. Of training only."""

    def __post_init__(self) -> None:
        rules = {
            "n": (self.n >= 1, "at least 1"),
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 (greedy) or more"),
            "top_p": (0 < self.top_p <= 1, "in (0, 1]"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "max_rows": (self.max_rows >= 1, "at least 1"),
            "engine": (self.engine in get_args(Engine), "auto, loop, generate or vllm"),
            "lag": (self.lag in (0, 1), "0 or 1"),
        }
        for name, (valid, rule) in rules.items():
            if not valid:
                raise UserError(f"sampling.{name} must be {rule}, got {getattr(self, name)}.")
        if self.server is not None and self.engine not in ("auto", "vllm"):
            raise UserError("sampling.server needs sampling.engine=vllm; set both, or leave the servers out.")
        if self.server is not None:
            self.engine = "vllm"
        elif self.lag:
            raise UserError(
                "sampling.lag 1 needs sampling.server: an engine in this process would write the next rollout on the "
                "devices that train; name servers on others, or set lag 0."
            )
        if self.colocate != ColocateArgs() and (self.engine not in ("auto", "vllm") or self.server is not None):
            raise UserError(
                "sampling.colocate is of vLLM in this process; set sampling.engine=vllm without sampling.server, or "
                "leave it out."
            )

    @property
    def colocates(self) -> bool:
        """Whether vLLM in this process writes."""
        return self.engine == "vllm" and self.server is None

    @property
    def max_drift(self) -> float | None:
        """Nats on average by which vLLM's log-probs may be off; None: by any."""
        return (self.server or self.colocate).max_drift if self.engine == "vllm" else None

    def greedy_option(self, flag: str) -> str | None:
        """The option by which every answer takes the most probable token, or nearly so; None: there is none.

        Args:
            flag: where the options came from, `model.sampling`.
        """
        options = {
            f"temperature {self.temperature:g}": self.temperature <= COLD,
            "top_k 1": self.top_k == 1,
            f"top_p {self.top_p:g}": self.top_p <= NARROW,
        }
        return next((f"--{flag}.{option}" for option, holds in options.items() if holds), None)
