"""How model servers are asked for log-probs, and how they reply: vLLM's and SGLang's interfaces.

Both get token ids, so that nothing is tokenised twice. Both reply with log-probs at temperature 1: neither divides the
logits of prompt tokens by a request's temperature, which is sent all the same. Those at another temperature do not
follow from the top log-probs: what they are divided by is a sum over the whole vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from lit_uniopd.teachers.base import TopLogps
from lit_uniopd.utils.http import ServerError, Servers

Row = tuple[list[int], list[int]]
"""Token ids of a prompt and of the answer to it."""

ROUNDING = 1e-3
"""How far above 0 rounding may put a log-prob."""


IMPOSSIBLE = -9999.0
"""What vLLM writes for minus infinity, which JSON does not have."""


class BadReply(Exception):
    """A server's reply does not fit the request; the message says what it sent instead."""


class Token(NamedTuple):
    """A server's reply on one token of an answer."""

    id: int
    logp: float
    """NaN if the reply has none."""
    text: str | None
    top_ids: Sequence[int] = ()
    """The likeliest tokens in its place, as many as were asked for."""
    top_logps: Sequence[float] = ()


class ServerProtocol(ABC):
    """The log-prob interface of one kind of server."""

    @abstractmethod
    def models(self, servers: Servers, url: str) -> dict[str, str]:
        """The models at one address: every name of theirs -> the name that requests must give.

        Raises:
            ServerError: if it cannot be reached, or is another kind of server.
        """

    @abstractmethod
    def request(self, model: str, rows: Sequence[Row], top_k: int = 0) -> tuple[str, dict[str, Any]]:
        """Path and body of a request for the log-probs of some answers, and of the ``top_k`` likeliest tokens."""

    @abstractmethod
    def tokens(self, reply: Any, model: str, rows: Sequence[Row], top_k: int) -> list[list[Token]]:
        """The answers' tokens in the reply; on a malformed one any lookup or type error may be raised."""

    def read(self, reply: Any, model: str, rows: Sequence[Row], top_k: int = 0) -> list[list[Token]]:
        """The answers' tokens in the reply, checked against the request.

        Raises:
            BadReply: if it is not about these tokens, one log-prob for each, and ``top_k`` others.
        """
        try:
            answers = self.tokens(reply, model, rows, top_k)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise BadReply("replies that cannot be read") from error
        if len(answers) != len(rows):
            raise BadReply("too many or too few answers")
        for tokens, (_, answer) in zip(answers, rows, strict=True):
            if len(tokens) != len(answer):
                raise BadReply("too many or too few log-probs")
            if [token.id for token in tokens] != answer:
                raise BadReply("log-probs of other tokens")
            if any(token.logp > ROUNDING for token in tokens):
                raise BadReply("log-probs above 0")
            if any(len(token.top_ids) != top_k or len(token.top_logps) != top_k for token in tokens):
                raise BadReply("too many or too few log-probs")
        return answers


def top_logps(tokens: Sequence[Token]) -> TopLogps:
    """The likeliest tokens at each token of an answer, checked against each other and against the sampled token.

    Raises:
        BadReply: if they are not the likeliest, or are no probabilities.
    """
    ids_TK = torch.tensor([token.top_ids for token in tokens], dtype=torch.int32)
    logps_TK = torch.tensor([token.top_logps for token in tokens], dtype=torch.float32).clamp(min=IMPOSSIBLE)
    sampled_T1 = torch.tensor([[token.logp] for token in tokens])
    ids_T1 = torch.tensor([[token.id] for token in tokens])
    if bool((ids_TK.sort(dim=1).values.diff(dim=1) == 0).any()):
        raise BadReply("one of the top tokens twice")
    if bool((logps_TK.double().exp().sum(dim=1) > 1 + ROUNDING).any()):
        raise BadReply("top log-probs of more than all probability")
    beyond_T1 = sampled_T1 > logps_TK.min(dim=1, keepdim=True).values + ROUNDING
    if bool((beyond_T1 & (ids_TK != ids_T1).all(dim=1, keepdim=True)).any()):
        raise BadReply("top log-probs that are not the largest")
    return TopLogps(ids_TK, logps_TK)


class VllmProtocol(ServerProtocol):
    """``vllm serve``: OpenAI's completions with ``prompt_logprobs``.

    The reply has, for each token of prompt and answer, a mapping from token ids (as text) to log-prob, rank and text;
    that of the token itself is always in it, beside or among the likeliest, and none for the first token. Minus
    infinity is written as -9999.
    """

    def models(self, servers: Servers, url: str) -> dict[str, str]:
        servers.get("/health", url=url)
        names = {}
        for card in servers.get("/v1/models", url=url)["data"]:
            names |= {str(card.get("root") or card["id"]): str(card["id"]), str(card["id"]): str(card["id"])}
        return names

    def request(self, model: str, rows: Sequence[Row], top_k: int = 0) -> tuple[str, dict[str, Any]]:
        texts = [[*prompt, *answer] for prompt, answer in rows]
        body = {"model": model, "prompt": texts, "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": top_k}
        return "/v1/completions", body

    def tokens(self, reply: Any, model: str, rows: Sequence[Row], top_k: int) -> list[list[Token]]:
        if reply["model"] != model:
            raise BadReply("answers of another model")
        answers = []
        for choice, (prompt, answer) in zip(_in_order(reply["choices"]), rows, strict=True):
            entries = choice["prompt_logprobs"]
            if len(entries) != len(prompt) + len(answer):
                raise BadReply("too many or too few log-probs")
            answers.append(
                [_vllm_token(i, entry, top_k) for i, entry in zip(answer, entries[len(prompt) :], strict=True)]
            )
        return answers


class SglangProtocol(ServerProtocol):
    """``sglang.launch_server``: the native ``/generate`` with ``return_logprob``.

    The reply has ``[log-prob, token id, text]`` for each token from ``logprob_start_len`` on, the first without a
    log-prob; so we begin with the last token of the prompt. The likeliest tokens are a list of such in its place.
    """

    def models(self, servers: Servers, url: str) -> dict[str, str]:
        servers.get("/health", url=url)
        try:
            info = servers.get("/model_info", url=url)
        except ServerError as error:
            if error.status != 404:
                raise
            info = servers.get("/get_model_info", url=url)  # its name before SGLang 0.5
        served = [str(card["id"]) for card in servers.get("/v1/models", url=url)["data"]]
        return {name: name for name in (*served, str(info["model_path"]))}

    def request(self, model: str, rows: Sequence[Row], top_k: int = 0) -> tuple[str, dict[str, Any]]:
        body = {
            "input_ids": [[*prompt, *answer] for prompt, answer in rows],
            "sampling_params": {"temperature": 1.0, "max_new_tokens": 0},
            "return_logprob": True,
            "logprob_start_len": [max(len(prompt) - 1, 0) for prompt, _ in rows],
            "top_logprobs_num": top_k,
            "return_text_in_logprobs": not top_k,  # texts of so many tokens are long, and nobody reads them
        }
        return "/generate", body

    def tokens(self, reply: Any, model: str, rows: Sequence[Row], top_k: int) -> list[list[Token]]:
        answers = []
        for row in reply:
            first, *tokens = row["meta_info"]["input_token_logprobs"]
            if first[0] is not None:
                raise BadReply("too many or too few log-probs")
            answer = [Token(int(i), _number(logp), text) for logp, i, text in tokens]
            if top_k:
                candidates = row["meta_info"]["input_top_logprobs"][1:]
                answer = [_with_top(token, best) for token, best in zip(answer, candidates, strict=True)]
            answers.append(answer)
        return answers


PROTOCOLS: dict[str, ServerProtocol] = {"vllm": VllmProtocol(), "sglang": SglangProtocol()}


def _in_order(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(choices, key=lambda choice: choice["index"])


def _vllm_token(i: int, candidates: dict[str, Any] | None, top_k: int) -> Token:
    if candidates is None:
        return Token(i, float("nan"), None, range(top_k), [float("nan")] * top_k)
    entry = candidates.get(str(i))
    if entry is None:
        raise BadReply("log-probs of other tokens")
    logp = _number(entry["logprob"])
    token = Token(i, float("-inf") if logp == IMPOSSIBLE else logp, entry.get("decoded_token"))
    if not top_k:
        return token
    # The token itself comes first; among the likeliest it is one of the top_k, else one more.
    others = candidates if len(candidates) == top_k else {j: other for j, other in candidates.items() if int(j) != i}
    return _with_top(token, [(other["logprob"], j, None) for j, other in others.items()])


def _with_top(token: Token, best: Sequence[Sequence[Any]]) -> Token:
    """A token with the likeliest in its place, as (log-prob, id, text)."""
    return token._replace(top_ids=[int(i) for _, i, _ in best], top_logps=[_number(logp) for logp, _, _ in best])


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
