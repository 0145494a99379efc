"""A teacher on model servers, which score answers over HTTP."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from lit_uniopd.errors import UserError
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.chat_template import EncodedPrompt, encode, tokenizer_of
from lit_uniopd.policy.loading import load_processor
from lit_uniopd.policy.policy import Policy
from lit_uniopd.teachers.args import HttpArgs, TeacherArgs
from lit_uniopd.teachers.base import Scored, Teacher, encode_each
from lit_uniopd.teachers.protocols import PROTOCOLS, BadReply, Row, top_logps
from lit_uniopd.teachers.tokenizer_match import probe_ids, text_mismatches
from lit_uniopd.types import Prompt, Rollouts
from lit_uniopd.utils.http import ServerError, Servers, collector_paused
from lit_uniopd.utils.paths import resolve_path

log = logging.getLogger(__name__)

NO_CONNECTION = "no answer (no connection)"


class RemoteTeacher(Teacher):
    """A teacher behind vLLM's or SGLang's log-prob interface.

    Prompts are rendered here, in the teacher's chat template, and sent as token ids.

    Attributes:
        top_k: how many of the likeliest tokens it is asked for at each token of an answer.
    """

    scores_distributions = False

    def __init__(self, name: str, args: TeacherArgs) -> None:
        super().__init__(name, args)
        self.http: HttpArgs = args.http or HttpArgs()
        self.protocol = PROTOCOLS[self.http.protocol]
        self.model = ""
        self.top_k = 0
        self._processor: Any = None
        self._template: dict[str, Any] = {}
        self._logged: set[str] = set()
        self._unreachable = False
        variable = self.http.api_key_variable
        if variable is not None and not os.environ.get(variable):
            raise UserError(f"--{self.flag}.http.api_key_variable {variable} is not set in the environment; set it.")
        try:
            self.servers = Servers(
                [url.rstrip("/").removesuffix("/v1") for url in self.http.urls],
                timeout=self.http.timeout,
                connect_timeout=self.http.connect_timeout,
                retries=self.http.retries,
                headers={"Authorization": f"Bearer {os.environ[variable]}"} if variable is not None else {},
            )
        except UserError as error:
            raise UserError(f"--{self.flag}.http.urls: {error}") from error

    def processor_beside(self, student_processor: Any, student_args: PolicyArgs) -> Any:
        source = self.args.path or self.args.tokenizer
        if source:
            self._processor = load_processor(replace(self.args, path=source), self.flag)
            self._template = self.args.chat_template_kwargs
        else:
            self._processor = student_processor
            self._template = student_args.chat_template_kwargs | self.args.chat_template_kwargs
        return self._processor

    def check(self, student_processor: Any, student_args: PolicyArgs) -> None:
        super().check(student_processor, student_args)
        self.model = ""
        for url in self.servers.urls:
            try:
                self.check_model(url)
                self._check_tokens(url)
                self._check_top(url)
            except ServerError as error:
                raise UserError(
                    f"--{self.flag}.http.urls {url} {error}; start a {self.http.protocol} server there, or mend the "
                    "address or http.protocol."
                ) from error
            except BadReply as error:
                raise UserError(
                    f"--{self.flag}.http.urls {url} sends {error} when asked to score a text; see that it is a "
                    f"{self.http.protocol} server with its default options for log-probs."
                ) from error

    def check_model(self, url: str) -> None:
        """Find the teacher's model among those that a server has.

        Raises:
            UserError: if it is not there.
            ServerError: if the server does not answer.
        """
        try:
            served = self.protocol.models(self.servers, url)
        except (KeyError, TypeError) as error:
            raise ServerError("does not name its model") from error
        if not served:
            raise ServerError("serves no model")
        path = self.args.path
        names = [self.http.model] if self.http.model else [path, resolve_path(path)] if path else []
        if not names:
            names = [self.model] if self.model else list(served.values())[:1]
        model = next((served[name] for name in names if name in served), None)
        if model is None:
            raise UserError(
                f"--{self.flag}.http.urls {url} serves {', '.join(sorted(set(served)))} and not {names[0]}; mend the "
                f"address, or set --{self.flag}.http.model to the served name if that is the teacher."
            )
        self.model = model

    def _check_tokens(self, url: str) -> None:
        """Let a server score tokens from all over the vocabulary, and compare their texts with the tokenizer's."""
        tokenizer = tokenizer_of(self._processor)
        first, *ids = probe_ids(tokenizer)
        rows: list[Row] = [([first], ids)]
        path, body = self.protocol.request(self.model, rows)
        (tokens,) = self.protocol.read(self.servers.post(path, body, url=url), self.model, rows)
        texts = [token.text for token in tokens]
        if not any(texts):
            log.warning("The server %s does not tell its tokens' texts; its tokenizer is taken on trust.", url)
        mismatches = text_mismatches(tokenizer, ids, texts)
        if 20 * len(mismatches) > len(ids):
            i, local_text, server_text = mismatches[0]
            raise UserError(
                f"--{self.flag}.http.urls {url} speaks other tokens: {i} is {local_text!r} here and {server_text!r} "
                f"there ({len(mismatches)} of {len(ids)} that were tried differ); choose models of one family."
            )

    def _check_top(self, url: str) -> None:
        """Let a server name as many tokens as the loss compares: vLLM has a limit, and 20 is its default."""
        if not self.top_k:
            return
        tokenizer = tokenizer_of(self._processor)
        if self.top_k >= len(tokenizer):
            raise UserError(
                f"--model.loss.top_k {self.top_k} is not less than the {len(tokenizer)} tokens that --{self.flag} has, "
                "and servers name the likeliest only; lower it."
            )
        first, *ids = probe_ids(tokenizer)
        rows: list[Row] = [([first], ids)]
        path, body = self.protocol.request(self.model, rows, self.top_k)
        try:
            reply = self.servers.post(path, body, url=url)
        except ServerError as error:
            if not error.refused:
                raise
            remedy = f", or start the server with --max-logprobs {self.top_k}" if self.http.protocol == "vllm" else ""
            raise UserError(
                f"--model.loss.top_k {self.top_k} is more than --{self.flag}.http.urls {url} gives, which {error}; "
                f"lower --model.loss.top_k{remedy}."
            ) from error
        top_logps(self.protocol.read(reply, self.model, rows, self.top_k)[0])

    def tokenize(self, prompt: Prompt) -> EncodedPrompt:
        return encode(self._processor, prompt, self._template, self.args.max_pixels)

    @property
    def policy(self) -> Policy:
        raise UserError(
            f"Teacher {self.name!r} is on a server (--{self.flag}.placement http), which scores answers and does "
            "nothing else; choose another placement for what needs the model itself."
        )

    def score(self, rollouts: Rollouts, *, temperature: float, max_tokens: int) -> Iterator[Scored]:
        if temperature != 1.0:
            raise ValueError(f"servers score at temperature 1, got {temperature}")
        queries = [
            (prompt.tokens, tokens[mask].tolist())
            for prompt, tokens, mask in zip(
                encode_each(self, rollouts.prompts), rollouts.tokens_BT.cpu(), rollouts.mask_BT.cpu(), strict=True
            )
        ]
        longest_first = sorted(range(len(queries)), key=lambda row: -len(queries[row][0]) - len(queries[row][1]))
        size = self.http.batch
        self._logged, self._unreachable = set(), False
        threads = ThreadPoolExecutor(self.http.requests, thread_name_prefix="teacher")
        try:
            futures: list[Future[list[Scored]]] = []
            for start in range(0, len(queries), size):
                rows = longest_first[start : start + size]
                futures.append(threads.submit(self._request, rows, [queries[row] for row in rows]))
            for future in as_completed(futures):
                yield from future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # an interrupted run does not wait for slow servers

    def _request(self, numbers: list[int], rows: Sequence[Row]) -> list[Scored]:
        """Send one request; if it fails by its own fault, its answers are sent one by one."""
        if self._unreachable:
            return [Scored(numbers, None, NO_CONNECTION)]
        path, body = self.protocol.request(self.model, rows, self.top_k)
        try:
            reply = self.servers.post(path, body)
            with collector_paused():
                answers = self.protocol.read(reply, self.model, rows, self.top_k)
                top = [top_logps(tokens) for tokens in answers] if self.top_k else None
        except (ServerError, BadReply) as error:
            if len(rows) > 1 and (isinstance(error, BadReply) or error.refused):
                return [scored for i, row in zip(numbers, rows, strict=True) for scored in self._request([i], [row])]
            return [Scored(numbers, None, self._reason(error))]
        logps = [torch.tensor([token.logp for token in tokens], dtype=torch.float32) for tokens in answers]
        return [Scored(numbers, pad_sequence(logps, batch_first=True), top=top)]

    def _reason(self, error: ServerError | BadReply) -> str:
        """A few words, the same for all answers that fail alike, to count them by; details are logged once."""
        if isinstance(error, BadReply):
            return str(error)
        # Every server was tried in vain; the rest of this rollout need not wait for them.
        self._unreachable = self._unreachable or error.unreachable
        reason = NO_CONNECTION if error.status is None else f"no answer ({error.status})"
        reason = "no answer in time" if error.slow else reason
        if reason not in self._logged:
            self._logged.add(reason)
            log.warning("Teacher %r: the server %s.", self.name, error)
        return reason
