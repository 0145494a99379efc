"""Who judges: a model behind an OpenAI-compatible address, or one that is loaded here."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import torch

from lit_uniopd.benchmarks.judging.args import JudgeArgs
from lit_uniopd.benchmarks.judging.templates import Messages
from lit_uniopd.benchmarks.weights_fingerprint import weights_fingerprint
from lit_uniopd.errors import UserError
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.loading import load_processor
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import Engine, SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.types import Prompt
from lit_uniopd.utils.http import ServerError, Servers

CHARACTERS_PER_TOKEN = 4
"""Of English text, where the judge's tokenizer is not here."""
TOP_LOGPROBS = 5
"""How many of the most probable tokens a server is asked for, as AlpacaEval 2 asks."""
UNFIT = (400, 413, 422)
"""Statuses by which a server refuses one request, a prompt that is too long say, and would answer others."""
MOST_UNFIT = 8
"""So many refusals before the first answer are a wrong setting."""

Letters = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge has answered."""

    text: str = ""
    letter_logps: Mapping[str, float] = field(default_factory=dict)
    """Letter -> log-prob of a reply that is this letter, where letters were asked for."""
    finish: str = "stop"
    served_model: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    refusal: str = ""
    """Why the server took no such question; empty: it did."""


class Judge(ABC):
    """Answers questions about answers, greedily."""

    name: str
    max_tokens: int

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What verdicts depend on, for records; no address and no key."""

    @abstractmethod
    def count_tokens(self, messages: Messages) -> tuple[int, bool]:
        """Tokens of a question, and whether that is an estimate."""

    @abstractmethod
    def ask(self, questions: Sequence[Messages], letters: Letters | None) -> Iterator[tuple[int, Reply]]:
        """Number of a question and the reply to it, in the order in which they come.

        Args:
            questions: each a conversation.
            letters: ask for the probabilities of these two replies; None: for a text.

        Raises:
            UserError: if the judge cannot be asked.
        """


class ServerJudge(Judge):
    """A model behind an OpenAI-compatible address (vLLM, SGLang, or a provider).

    Args:
        url: of the API, up to and with `/v1`.
        model: its name there.
        max_tokens: of a reply.
        options: more entries of each request; null removes one.
        api_key_variable: environment variable with the key; if it is not set, none is sent.
        requests: at the same time.
        timeout: seconds for one reply.

    Raises:
        UserError: if the address is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        max_tokens: int,
        options: Mapping[str, Any],
        *,
        api_key_variable: str = "OPENAI_API_KEY",
        requests: int = 16,
        timeout: float = 300.0,
    ) -> None:
        self.name, self.max_tokens, self.options = model, max_tokens, dict(options)
        self.url, self.api_key_variable, self.requests = url.rstrip("/"), api_key_variable, requests
        self.server = server_of(url, api_key_variable, timeout)

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "kind": "server", "max_tokens": self.max_tokens, "options": self.options}

    def count_tokens(self, messages: Messages) -> tuple[int, bool]:
        return -(-sum(len(message["content"]) for message in messages) // CHARACTERS_PER_TOKEN), True

    def ask(self, questions: Sequence[Messages], letters: Letters | None) -> Iterator[tuple[int, Reply]]:
        refusals, answered = 0, False
        with ThreadPoolExecutor(self.requests) as pool:
            futures = {pool.submit(self._reply, question, letters): i for i, question in enumerate(questions)}
            try:
                for future in as_completed(futures):
                    reply = future.result()
                    answered, refusals = answered or not reply.refusal, refusals + bool(reply.refusal)
                    if not answered and refusals >= min(MOST_UNFIT, len(questions)):
                        raise UserError(
                            f"--url {self.url} {reply.refusal}; mend the request by --options, e.g. "
                            "'{max_tokens: null, max_completion_tokens: 512}', or give another --judge."
                        )
                    yield futures[future], reply
            finally:
                for future in futures:
                    future.cancel()

    def _reply(self, question: Messages, letters: Letters | None) -> Reply:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": question,
            "temperature": 0.0,
            "max_tokens": self.max_tokens,
        }
        if letters is not None:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        body = {name: value for name, value in (body | self.options).items() if value is not None}
        try:
            reply = self.server.post("/chat/completions", body)
        except ServerError as error:
            if error.status in UNFIT:
                return Reply(refusal=str(error))
            raise UserError(
                f"--url {self.url} {error}; check --url, --judge and the key in ${self.api_key_variable}, and give the "
                "same command again: verdicts so far are kept."
            ) from error
        try:
            choice, usage = reply["choices"][0], reply.get("usage") or {}
            return Reply(
                text=choice["message"]["content"] or "",
                letter_logps={} if letters is None else self._letter_logps(choice),
                finish=choice.get("finish_reason") or "stop",
                served_model=str(reply.get("model", "")),
                tokens_in=usage.get("prompt_tokens"),
                tokens_out=usage.get("completion_tokens"),
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                f"--url {self.url} replies with something else than a chat completion; check it."
            ) from error

    def _letter_logps(self, choice: Mapping[str, Any]) -> dict[str, float]:
        """Log-probs of the most probable first tokens."""
        content = (choice.get("logprobs") or {}).get("content")
        if not content:
            raise UserError(
                f"--url {self.url} gives no log-probs with its replies; ask by --verdict text, whose win rate is "
                "another one, or give another --judge."
            )
        return {entry["token"]: float(entry["logprob"]) for entry in content[0]["top_logprobs"]}


class LocalJudge(Judge):
    """A model that is loaded here.

    Args:
        path: hub id, directory or `playground:NAME`.
        max_tokens: of a reply.
        options: further fields of `PolicyArgs`.
        engine: that writes its replies.
        max_rows: questions that are answered at the same time.

    Raises:
        UserError: if it cannot be loaded, or an option is none.
    """

    def __init__(
        self, path: str, max_tokens: int, options: Mapping[str, Any], *, engine: Engine = "auto", max_rows: int = 16
    ) -> None:
        args = _policy_args(path, options)
        self.name, self.max_tokens, self.options, self.max_rows = path, max_tokens, dict(options), max_rows
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.policy = Policy.load(args, trainable=False, flag="judge").to(device)
        self.sampling = SamplingArgs(n=1, max_new_tokens=max_tokens, temperature=0.0, max_rows=max_rows, engine=engine)
        self._weights = weights_fingerprint(self.policy.model)

    @property
    def identity(self) -> dict[str, Any]:
        settings = {"weights": self._weights, "max_tokens": self.max_tokens, "options": self.options}
        return {"name": self.name, "kind": "local", **settings}

    def count_tokens(self, messages: Messages) -> tuple[int, bool]:
        return len(self.policy.render(_prompt(messages))), False

    def ask(self, questions: Sequence[Messages], letters: Letters | None) -> Iterator[tuple[int, Reply]]:
        tokens = [self.policy.render(_prompt(question)) for question in questions]
        self._refuse_long(tokens)
        order = sorted(range(len(questions)), key=lambda i: -len(tokens[i]))
        for start in range(0, len(order), self.max_rows):
            rows = order[start : start + self.max_rows]
            batch = [questions[i] for i in rows]
            replies = self._written(batch) if letters is None else self._chosen([tokens[i] for i in rows], letters)
            yield from zip(rows, replies, strict=True)

    def _written(self, questions: Sequence[Messages]) -> list[Reply]:
        answers = write_answers(self.policy, [_prompt(question) for question in questions], self.sampling, seed=0)
        lengths = answers.lengths_B.tolist()
        return [
            Reply(text, finish=finish, tokens_in=len(prompt), tokens_out=length)
            for text, finish, prompt, length in zip(
                answers.text, answers.finish, answers.prompt_tokens, lengths, strict=True
            )
        ]

    def _chosen(self, prompts: list[list[int]], letters: Letters) -> list[Reply]:
        """Log-probs of both letters behind each question, from one pass."""
        policy = self.policy
        ids = [policy.tokenizer(letter, add_special_tokens=False).input_ids for letter in letters]
        width = max(map(len, ids))
        pair_2T = torch.tensor([row + [policy.pad_id] * (width - len(row)) for row in ids])
        mask_2T = torch.arange(width) < torch.tensor([[len(row)] for row in ids])
        tokens_BT, mask_BT = pair_2T.repeat(len(prompts), 1), mask_2T.repeat(len(prompts), 1)
        with policy.gathered(), policy.answering():
            logps_BT, _ = policy.token_logps([prompt for prompt in prompts for _ in letters], tokens_BT, mask_BT)
        logps = logps_BT.double().sum(dim=1).view(-1, 2).tolist()
        return [
            Reply(
                text=letters[0] if pair[0] >= pair[1] else letters[1],
                letter_logps=dict(zip(letters, pair, strict=True)),
                tokens_in=len(prompt),
                tokens_out=1,
            )
            for prompt, pair in zip(prompts, logps, strict=True)
        ]

    def _refuse_long(self, tokens: list[list[int]]) -> None:
        positions = getattr(self.policy.model.config.get_text_config(), "max_position_embeddings", None)
        room = (positions or 2**31) - self.max_tokens
        if long := sum(len(row) > room for row in tokens):
            raise UserError(
                f"--judge {self.name} has {positions} positions, and {long} of {len(tokens)} questions do not fit "
                f"beside replies of {self.max_tokens} tokens; take a judge with more, or lower --max_tokens."
            )


def reach(judge: JudgeArgs) -> None:
    """Look whether a judge is there, before answers are written for it.

    Raises:
        UserError: naming the option, if it is not, or does not take the key.
    """
    if judge.url is None:
        load_processor(_policy_args(judge.judge, judge.options), "judge")
        return
    try:
        server_of(judge.url, judge.api_key_variable).get("/models", retries=0)
    except ServerError as error:
        if error.status in (None, 401, 403):  # a server need not list its models
            raise UserError(
                f"--url {judge.url} {error}; start it, or check --url and the key in ${judge.api_key_variable}."
            ) from error


def server_of(url: str, api_key_variable: str, timeout: float = 300.0) -> Servers:
    """The server at an address, with the key that the environment has for it.

    Raises:
        UserError: if the address is none.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--url {url} must begin with http:// or https://, and end in /v1.")
    key = os.environ.get(api_key_variable)
    return Servers([url], timeout=timeout, headers={"Authorization": f"Bearer {key}"} if key else {})


def _policy_args(path: str, options: Mapping[str, Any]) -> PolicyArgs:
    try:
        return PolicyArgs(path=path, **options)
    except TypeError as error:
        raise UserError(f"--options {dict(options)} are not those of a model ({error}); mend them.") from error


def _prompt(messages: Messages) -> Prompt:
    return Prompt(id="judge", messages=tuple(messages))  # type: ignore[arg-type]  # plain dicts are messages
