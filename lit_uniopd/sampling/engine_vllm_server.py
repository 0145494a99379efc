"""vLLM servers, behind ``sampling.engine: vllm``: they run in an environment of their own and answer over HTTP.

They get the weights before a rollout (``weight_sync``). Their kernels, and often their precision, differ from the
trainer's, so it computes the log-probs of their answers again.
"""

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_uniopd.errors import UserError
from lit_uniopd.policy.backbone import head_of
from lit_uniopd.sampling.args import ServerArgs, Sync
from lit_uniopd.sampling.request import AnswerBuffer, GenerationRequest, Progress
from lit_uniopd.sampling.vllm_pictures import REMEDY, check_tokens, logps_of, route_of, server_prompt
from lit_uniopd.sampling.weight_directory import PREFIX, directory_in_memory
from lit_uniopd.sampling.weight_sync import WeightSync, served_names
from lit_uniopd.utils.http import ServerError, Servers

PAUSE_S = 0.5
"""Before the second round of attempts; doubled for each further one."""


def write(request: GenerationRequest) -> AnswerBuffer:
    """Answer a request.

    Raises:
        UserError: if a prompt is too long, a server makes other tokens of its pictures, or weights or answers do not
            arrive.
    """
    pending = PendingAnswers(request)
    try:
        return pending.collect(request.on_progress, request.on_tokens)
    finally:
        pending.leave()


class PendingAnswers:
    """Answers that servers are writing; this process can do something else until it collects them.

    Args:
        request: what they are asked. They have got the weights when this returns.
        trained_meanwhile: whether the model's weights may change before all answers are there. A server that loses
            those of this request is then not given them again; others answer in its place.

    Attributes:
        begun_at: when they were asked, by ``time.perf_counter``.

    Raises:
        UserError: if a prompt is too long, or weights do not arrive.
    """

    def __init__(self, request: GenerationRequest, *, trained_meanwhile: bool = False) -> None:
        if request.args.server is None:
            raise UserError("sampling.engine=vllm needs sampling.server.")
        self.request = request
        self._pool = pool = connect(request.args.server)
        pool.check_length(max(map(len, request.prompt_tokens)), request.args.max_new_tokens)
        name = pool.weights.publish(request.model, request.probe, request.args.max_drift)
        model = None if trained_meanwhile else request.model
        self._buffer, self._finished = AnswerBuffer(request), 0
        self.begun_at = time.perf_counter()
        self._calls = _Calls(
            lambda prompt: pool.complete(_completion_body(request, prompt, name), prompt, model),
            range(len(request.prompt_tokens)),
            request.args.server.requests,
        )

    @property
    def last_at(self) -> float:
        """When the last of the answers so far came."""
        return self._calls.last_at

    def collect(
        self, on_progress: Callable[[int, int], None] | None, on_tokens: Callable[[int], None] | None
    ) -> AnswerBuffer:
        """Wait for the answers. One that was interrupted can be called again.

        Args:
            on_progress: as in ``GenerationRequest``.
            on_tokens: likewise.

        Raises:
            UserError: if a server makes other tokens of a prompt's pictures, or answers do not arrive.
        """
        request = self.request
        progress = Progress(replace(request, on_progress=on_progress, on_tokens=on_tokens))
        for prompt, (url, answer) in self._calls.results(while_waiting=lambda: progress(self._finished)):
            tokens = _store(self._buffer, request, prompt, answer, url)
            self._finished += request.answers
            progress(self._finished, tokens)
        self._pool.weights.confirm(gone=self._pool.disconnected)
        return self._buffer

    def leave(self) -> None:
        """Ask nothing more; what is under way is dropped when it comes."""
        self._calls.stop()


def connect(args: ServerArgs) -> "ServerPool":
    """The servers, checked once for the model that they serve.

    Raises:
        UserError: if one cannot be reached, or serves something else.
    """
    variable = args.api_key_variable
    if variable is not None and variable not in os.environ:
        raise UserError(f"sampling.server.api_key_variable {variable} is not set in the environment; set it.")
    key = None if variable is None else os.environ[variable]
    directory = Path(args.directory).absolute() if args.directory else directory_in_memory(args.urls)
    return _pool(tuple(args.urls), args.model, str(directory), args.sync, args.timeout, args.retries, key)


@cache
def _pool(urls: tuple[str, ...], *args: Any) -> "ServerPool":
    return ServerPool(urls, *args)


class ServerPool:
    """Servers with the same weights, which share the requests."""

    def __init__(
        self,
        urls: Sequence[str],
        model: str,
        directory: str,
        sync: Sync,
        timeout: float,
        retries: int,
        key: str | None = None,
    ) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.servers = Servers(urls, timeout=timeout, retries=retries, headers=headers)
        self.disconnected: set[str] = set()
        self._recovering = threading.Lock()
        self.limits: list[int] = []
        for url in self.servers.urls:
            try:
                served = served_names(self.servers, url)
            except ServerError as error:
                raise UserError(
                    f"The server {url} of sampling.server.urls {error}; start it, or correct the address."
                ) from error
            model = model or _only_model(url, served)
            if model not in served:
                raise UserError(
                    f"The server {url} serves {', '.join(served) or 'nothing'}, not sampling.server.model {model}; "
                    "correct the name, or start the server with the student."
                )
            self.limits += [limit for limit in [served[model]] if limit is not None]
        self.weights = WeightSync(self.servers, model, directory, sync)

    def check_length(self, prompt: int, answer: int) -> None:
        """Refuse prompts and answers that would not fit.

        Raises:
            UserError: naming both lengths.
        """
        limit = min(self.limits, default=prompt + answer)
        if prompt + answer > limit:
            raise UserError(
                f"sampling.max_new_tokens={answer} does not fit: the servers take {limit} tokens and the longest "
                f"prompt has {prompt}; lower it to {limit - prompt}, or start them with a larger --max-model-len."
            )

    def complete(self, body: dict[str, Any], number: int, model: nn.Module | None) -> tuple[str, Any]:
        """The server that answered a completion request, and its answer; servers take turns by the request's number.

        Raises:
            UserError: if a server refuses it, or none answers.
        """
        urls = self.servers.urls
        url, last_error = urls[0], ServerError("was not asked")
        for attempt in range((self.servers.retries + 1) * len(urls)):
            rounds = attempt // len(urls)
            if attempt and attempt % len(urls) == 0:
                time.sleep(min(PAUSE_S * 2 ** (rounds - 1), 30.0))
            url = urls[(number + attempt) % len(urls)]
            try:
                self._recover(url, model)
                return url, self.servers.post(route_of(body), body, url=url, retries=0)
            except ServerError as error:
                last_error = error
                adapter_missing = error.status == 404 and body["model"] != self.weights.model
                if adapter_missing or (error.status is None and not error.slow):
                    self.disconnected.add(url)
                elif error.refused:
                    break
        raise UserError(
            f"The server {url} {last_error}; no answer could be had from any of sampling.server.urls, so start it "
            "again and resume."
        ) from last_error

    def _recover(self, url: str, model: nn.Module | None) -> None:
        """Give a server that broke off the weights again: it may have been restarted without them."""
        with self._recovering:
            if url in self.disconnected:
                self.weights.restore(url, model)
                self.disconnected.discard(url)


def _only_model(url: str, served: Iterable[str]) -> str:
    """The model of a server that has one, the adapters of earlier runs aside.

    Raises:
        UserError: if it has several.
    """
    names = [name for name in served if not name.startswith(PREFIX)]
    if len(names) != 1:
        raise UserError(
            f"The server {url} serves {', '.join(names) or 'nothing'}; name the student among them by "
            "sampling.server.model."
        )
    return names[0]


def _completion_body(request: GenerationRequest, prompt: int, name: str) -> dict[str, Any]:
    args = request.args
    return {
        "model": name,
        **server_prompt(request.prompt(prompt)),
        "n": request.answers,
        "max_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "seed": request.vllm_seed(prompt),
        "logprobs": bool(request.vision[prompt]) or 0,  # of the sampled tokens alone, as each route asks for them
        "return_token_ids": True,
        # The trainer decides what ends an answer; the model's own generation defaults must not leak in.
        "ignore_eos": True,
        "stop_token_ids": list(request.eos_ids),
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        **({"logit_bias": {str(token): -100.0 for token in request.banned}} if request.banned else {}),
    }


def _store(buffer: AnswerBuffer, request: GenerationRequest, prompt: int, answer: Any, url: str) -> int:
    """Check the answers to one prompt, write them into their rows, and return how many tokens they have."""
    try:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        rows = [(choice["token_ids"], logps_of(choice["logprobs"]), choice["finish_reason"]) for choice in choices]
        defect = _defect(request, rows)
        if not defect and request.vision[prompt]:
            check_tokens(request.prompt(prompt), answer["prompt_token_ids"], f"The server {url}", REMEDY)
    except (KeyError, TypeError) as error:
        defect = f"without {error}" if isinstance(error, KeyError) else "in another form"
        rows = []
    if defect:
        raise UserError(
            f"The server {url} answers {defect}; use a vLLM that knows return_token_ids (0.10.2 or newer), started "
            "with the student's model."
        )
    for row, (tokens, logps, _) in enumerate(rows, start=prompt * request.answers):
        buffer.put(row, torch.tensor(tokens), torch.tensor(logps))
    return sum(len(tokens) for tokens, _, _ in rows)


def _defect(request: GenerationRequest, rows: list[tuple[list[int], list[float], str]]) -> str:
    """What is wrong with the answers to one prompt; empty if nothing is."""
    if len(rows) != request.answers:
        return f"{len(rows)} times instead of {request.answers} times"
    vocabulary, ends = head_of(request.model).weight_VH.shape[0], set(request.eos_ids)
    for tokens, logps, reason in rows:
        if not tokens or len(tokens) != len(logps):
            return f"with {len(tokens)} tokens and {len(logps)} log-probs"
        if not all(isinstance(token, int) and 0 <= token < vocabulary for token in tokens):
            return "with tokens that the student does not have"
        if not all(isinstance(logp, int | float) and math.isfinite(logp) for logp in logps):
            return "with log-probs that are no numbers"
        ends_as_told = (
            tokens[-1] in ends
            if reason == "stop"
            else reason == "length" and len(tokens) == request.args.max_new_tokens
        )
        if not ends_as_told:
            return f"with {len(tokens)} tokens that end in {tokens[-1]} for the reason {reason!r}"
    return ""


class _Calls:
    """``call(item)`` of every item, at most ``count`` at a time, in threads of their own.

    Daemon threads: an interrupted run ends at once instead of waiting for answers that it no longer needs.

    Attributes:
        last_at: when the last call so far was over, by ``time.perf_counter``.
    """

    def __init__(self, call: Callable[[int], Any], items: Sequence[int], count: int) -> None:
        self._call, self._left = call, len(items)
        self._todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self.last_at = time.perf_counter()
        for item in items:
            self._todo.put(item)
        size = min(count, len(items))
        self._threads = [threading.Thread(target=self._work, name="rollout", daemon=True) for _ in range(size)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                item = self._todo.get_nowait()
            except queue.Empty:
                return
            try:
                result, error = self._call(item), None
            except BaseException as raised:
                result, error = None, raised
            self.last_at = time.perf_counter()
            self._done.put((item, result, error))

    def results(self, while_waiting: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        """``(item, call(item))`` as they finish, those that were not had before."""
        while self._left:
            try:
                item, result, error = self._done.get(timeout=1.0)
            except queue.Empty:
                while_waiting()
                continue
            self._left -= 1
            if error is not None:
                raise error
            yield item, result
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Begin no further call."""
        self._stopped.set()
