"""Sends the student's weights to inference servers, through a directory that trainer and servers see.

Weights are named by a fingerprint of their values. Before sampling, a process checks that the servers have the weights
of that name; a lock in the directory lets one process (of all ranks) send them while the others wait.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.utils import logging as transformers_logging

from lit_uniopd.errors import UserError
from lit_uniopd.policy.backbone import unwrap
from lit_uniopd.policy.chat_template import EncodedPrompt
from lit_uniopd.policy.lora import has_adapters, merged_state
from lit_uniopd.policy.multimodal import tower_parameters
from lit_uniopd.sampling.args import Sync
from lit_uniopd.sampling.vllm_pictures import REMEDY, check_tokens, prompt_logps_of, route_of, server_prompt
from lit_uniopd.sampling.weight_directory import PREFIX, delete_weights
from lit_uniopd.sampling.weight_probe import WeightProbe
from lit_uniopd.utils.http import ServerError, Servers

STARTED = time.time()
"""Of this process. What an earlier process recorded about the servers may no longer be true."""
NO_ROUTE = (404,)
"""What an older server answers to a request that it does not know."""


class WeightSync:
    """Sends a model's weights to servers, and knows which server has which.

    Args:
        servers: vLLM servers.
        model: the name that they serve the untrained student under.
        directory: on a file system that all of them and this process see under this path, for this run alone.
        sync: adapter: a LoRA adapter beside the base model. reload: `reload_weights`. auto: adapter for a model with
            adapters, else reload.
    """

    def __init__(self, servers: Servers, model: str, directory: str | Path, sync: Sync) -> None:
        self.servers, self.model, self.sync = servers, model, sync
        self.directory = Path(directory).absolute()
        self._name, self._adapter = "", False
        self._probes: dict[str, WeightProbe] = {}
        self._prompt = EncodedPrompt([])
        self._max_drift: float | None = None
        self._lock = threading.Lock()
        atexit.register(delete_weights, self.directory)  # it may be in memory

    def publish(self, model: nn.Module, prompt: EncodedPrompt | None = None, max_drift: float | None = None) -> str:
        """Make sure that every server has exactly these weights.

        Args:
            model: not sharded; adapters are sent alone, or merged.
            prompt: by which a server that got weights is compared with the student; None: none.
            max_drift: nats by which their log-probs may differ on average; None: any.

        Returns:
            The model name that requests must give.

        Raises:
            UserError: if they cannot be written, or a server did not take them.
        """
        adapter = self._adapter = self._is_adapter(model)
        self._prompt, self._max_drift = prompt or EncodedPrompt([]), max_drift
        if adapter and self._prompt.vision:
            _refuse_tower_adapters(model)
        self._name = PREFIX + fingerprint(_adapter_parameters(model) if adapter else _all_parameters(model))
        with self._lock, self._locked():
            record = self._read_record()
            missing = []
            for url in self.servers.urls:
                try:
                    missing += [] if self._has_weights(url, adapter, record) else [url]
                except ServerError as error:
                    raise UserError(
                        f"The server {url} of sampling.server.urls {error}; start it again, and resume."
                    ) from error
            if missing:
                self._write(model, adapter)
            for url in missing:
                self._send(url, model, record)
        return self._served_name(model)

    def _served_name(self, model: nn.Module) -> str:
        return self._name if self._is_adapter(model) else self.model

    def _check(self, url: str, model: nn.Module) -> None:
        """Compare the log-probs of a server that has got weights with the student's."""

        def prompt_logps(prompt: EncodedPrompt) -> Tensor:
            fields: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0, "return_token_ids": True}
            body = {"model": self._served_name(model), **server_prompt(prompt), **fields}
            answer = self.servers.post(route_of(body), body, url=url)
            if prompt.vision:
                check_tokens(prompt, answer["prompt_token_ids"], name, REMEDY)
            return torch.tensor(prompt_logps_of(answer, prompt))

        name = f"The server {url}"
        probe = self._probes.setdefault(url, WeightProbe(prompt_logps, name, "sampling.server.max_drift"))
        probe.engine_logps = prompt_logps  # every version of an adapter has a name of its own
        try:
            probe.check(model, self._prompt, self._max_drift)
        except (ServerError, KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{name} of sampling.server.urls did not say how probable a prompt is ({error}); start vLLM there, and "
                "resume."
            ) from error

    def restore(self, url: str, model: nn.Module | None) -> None:
        """Send the published weights again to a server that may have been restarted.

        Args:
            url: its address.
            model: with the published weights; None: it is being trained, so that the server cannot get them again.

        Raises:
            ServerError: if it cannot be reached yet, or has lost weights that it cannot get again.
            UserError: if it did not take them.
        """
        self.servers.get("/v1/models", url=url, retries=0)  # other servers can answer in the meantime
        with self._lock, self._locked():
            record = self._read_record()
            record.pop(url, None)
            if self._has_weights(url, self._adapter, record):
                return
            if model is None:
                raise ServerError("has lost the weights that write this rollout, which the trainer has changed by now")
            self._write(model, self._adapter)
            self._send(url, model, record)

    def confirm(self, gone: Collection[str]) -> None:
        """Check after a rollout that no server has lost or changed the weights, where servers report them.

        Args:
            gone: servers that broke off and were not asked again.

        Raises:
            UserError: naming the server that has.
        """
        for url in () if self._adapter else [url for url in self.servers.urls if url not in gone]:
            try:
                version = self._version(url, retries=0)
            except ServerError:  # gone by now; its weights are checked before the next rollout anyway
                continue
            if version not in (None, self._name):
                raise UserError(
                    f"The server {url} has changed its weights during the rollout (to version {version!r}): it was "
                    "restarted, or somebody else trains with it; give each run servers of its own, and resume."
                )

    # --- the servers ---

    def _is_adapter(self, model: nn.Module) -> bool:
        if self.sync == "adapter" and not has_adapters(model):
            raise UserError("sampling.server.sync adapter needs a student with adapters; set its lora, or sync reload.")
        return self.sync == "adapter" or (self.sync == "auto" and has_adapters(model))

    def _has_weights(self, url: str, adapter: bool, record: dict[str, Any]) -> bool:
        if adapter:
            return self._name in served_names(self.servers, url)
        version = self._version(url)
        if version is not None:
            return version == self._name
        entry = record.get(url, {})
        return entry.get("name") == self._name and entry.get("at", 0) >= STARTED

    def _version(self, url: str, retries: int | None = None) -> str | None:
        """The version of its weights that a server reports; None: it reports none."""
        try:
            return str(self.servers.get("/weight_info", url=url, retries=retries)["weight_version"])
        except (ServerError, KeyError, TypeError) as error:
            if isinstance(error, ServerError) and not error.refused:
                raise
            return None

    def _send(self, url: str, model: nn.Module, record: dict[str, Any]) -> None:
        """Bring the weights, compare, and only then let the server and the record say that it has them."""
        adapter = self._is_adapter(model)
        path = str(self.directory / self._name)
        old = record.pop(url, {}).get("name")
        self._write_record(record)  # if this process dies now, no other one relies on what the server had
        try:
            if adapter:
                self._load_adapter(url, path, old)
            else:
                self._reload(url, path, pictures=getattr(unwrap(model).config, "vision_config", None) is not None)
        except ServerError as error:
            kind = "adapter" if adapter else "weights"
            raise UserError(
                f"The server {url} did not take the student's new {kind} from {path} ({error}); going on would sample "
                "from old ones, so check that it sees sampling.server.directory under that path and how it was started."
            ) from error
        try:
            self._check(url, model)
        except UserError:
            if adapter:  # the server lists it, and would be believed
                _post(self.servers, "/v1/unload_lora_adapter", {"lora_name": self._name}, url, accept=(400, 404))
            raise
        if not adapter:
            self._name_version(url)
        record[url] = {"name": self._name, "at": time.time()}
        self._write_record(record)

    def _load_adapter(self, url: str, path: str, old: str | None) -> None:
        # Every version has a name of its own: servers cache prompts by adapter name.
        if old is not None and old != self._name:
            _post(self.servers, "/v1/unload_lora_adapter", {"lora_name": old}, url, accept=(400, 404))
        load_error: ServerError | None = None
        try:
            _post(self.servers, "/v1/load_lora_adapter", {"lora_name": self._name, "lora_path": path}, url)
        except ServerError as error:  # it may be loaded all the same, and only the answer lost
            load_error = error
        if self._name not in served_names(self.servers, url):
            raise load_error or ServerError("does not list the adapter afterwards")

    def _reload(self, url: str, path: str, *, pictures: bool) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": path}, "timeout": self.servers.timeout}
        _post(self.servers, "/pause?mode=wait", {}, url, accept=NO_ROUTE)
        try:
            self.servers.post("/collective_rpc", body, url=url, retries=0)
            self._forget_prompts(url)
            if pictures:  # their features are those of the old weights; pausing has cleared them, where it is known
                _post(self.servers, "/reset_encoder_cache", {}, url, accept=NO_ROUTE)
        finally:
            _post(self.servers, "/resume", {}, url, accept=NO_ROUTE)

    def _name_version(self, url: str) -> None:
        """Let a server say that it has these weights; older ones cannot."""
        _post(self.servers, "/update_weight_version", {"new_version": self._name}, url, accept=NO_ROUTE)
        version = self._version(url)
        if version not in (None, self._name):
            raise UserError(
                f"The server {url} reports version {version!r} of its weights instead of {self._name}; give each run "
                "servers of its own, start it again, and resume."
            )

    def _forget_prompts(self, url: str) -> None:
        """Clear the cached keys and values of prompts, which are those of the old weights."""
        answer = self.servers.post("/reset_prefix_cache", {}, url=url)
        if isinstance(answer, dict) and answer.get("success") is False:
            raise ServerError("did not forget the prompts that it had read with the old weights")

    # --- the directory ---

    def _write(self, model: nn.Module, adapter: bool) -> None:
        """Delete older weights; write these beside their place, then rename."""
        target = self.directory / self._name
        delete_weights(self.directory, keep=target)
        if target.exists():
            return
        partial = tempfile.mkdtemp(prefix=".writing-", dir=self.directory)
        try:
            with _without_progress_bars():
                if adapter:
                    state = dict(model.named_parameters())
                    model.save_pretrained(partial, state_dict=state, save_embedding_layers=False)  # type: ignore[operator]
                else:
                    base = unwrap(model)
                    with _writing_on_any_rank(base):
                        base.save_pretrained(partial, state_dict=merged_state(base))
            os.chmod(partial, 0o755)  # the server may run as another user
            os.replace(partial, target)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(
                f"Cannot write the student's weights to sampling.server.directory {self.directory} "
                f"({str(error).splitlines()[0]}); make room there, or name another directory."
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; the system releases the lock of a process that dies."""
        import fcntl  # not on Windows, where vLLM does not run either

        with self._file(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _file(self, name: str) -> Path:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self.directory / name
            path.touch()
        except OSError as error:
            raise UserError(
                f"Cannot write to sampling.server.directory {self.directory} ({error.strerror}); name another one."
            ) from error
        return path

    def _read_record(self) -> dict[str, Any]:
        """Server -> the name of the weights that were sent to it last, and when."""
        text = self._file("published.json").read_text()
        try:
            return json.loads(text) if text else {}
        except json.JSONDecodeError:  # its writer was killed
            return {}

    def _write_record(self, record: dict[str, Any]) -> None:
        self._file("published.json").write_text(json.dumps(record))


@contextmanager
def _writing_on_any_rank(model: Any) -> Iterator[None]:
    """Let this process write, since it holds the lock: transformers would only write on rank 0."""
    model.should_save_on_this_rank = lambda is_main_process: True
    try:
        yield
    finally:
        del model.should_save_on_this_rank


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Hide transformers' progress bars: there would be one for every rollout."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


@torch.no_grad()
def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """16 hexadecimal digits that change when any tensor does (by its sum and its norm, in float64).

    Of a sharded tensor, this rank's shard is looked at.
    """
    names, values = [], []
    for name, tensor in tensors:
        names.append(name)
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        values += [local.sum(dtype=torch.float64), torch.linalg.vector_norm(local, dtype=torch.float64)]
    digest = hashlib.blake2b("\n".join(names).encode(), digest_size=8)
    digest.update(torch.stack([value.to(values[0].device) for value in values]).cpu().numpy().tobytes())
    return digest.hexdigest()


def served_names(servers: Servers, url: str) -> dict[str, int | None]:
    """Names of all models that a server serves, adapters included -> longest prompt with answer, in tokens.

    Raises:
        ServerError: if it does not answer, or not with its models.
    """
    answer = servers.get("/v1/models", url=url)
    try:
        return {card["id"]: card.get("max_model_len") for card in answer["data"]}
    except (KeyError, TypeError) as error:
        raise ServerError("does not answer with its models, as vLLM would") from error


def _refuse_tower_adapters(model: nn.Module) -> None:
    """VLLM loads adapters of layers that read pictures, says nothing, and reads pictures without them."""
    tower = tower_parameters(model)
    if tower:
        raise UserError(
            f"sampling.server.sync adapter reaches the language model alone, and {len(tower)} adapters are on layers "
            f"that read pictures ({next(iter(tower))} for one); name layers of the language model in "
            "lora.target_modules, or set sync reload."
        )


def _adapter_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad or "lora_" in name)


def _all_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            raise UserError(
                "sampling.server.sync sends whole weights, and quantised ones cannot be merged; set sync adapter."
            )
        yield name, parameter


def _post(servers: Servers, path: str, body: dict[str, Any], url: str, accept: tuple[int, ...] = ()) -> None:
    """A request whose answer does not matter: vLLM answers some with a sentence instead of JSON."""
    try:
        servers.post(path, body, url=url)
    except ServerError as error:
        if error.status not in (200, *accept):
            raise
