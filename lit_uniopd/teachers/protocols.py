"""What model servers are asked for log-probs, and what they answer: vLLM's and SGLang's interfaces.

Both get token ids, so that nothing is tokenised twice, and both give log-probs at temperature 1: neither divides the
logits of given tokens by a request's temperature. It is sent all the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from lit_uniopd.utils.http import ServerError, Servers

Row = tuple[list[int], list[int]]
"""Token ids of a prompt and of the answer to it."""

ROUNDING = 1e-3
"""Log-probs are not above 0 by more than this."""


class BadReply(Exception):
    """A server has answered something else than it was asked for; the message says what."""


class Token(NamedTuple):
    """What a server says about one token of an answer."""

    id: int
    logp: float
    """NaN where it gives none."""
    text: str | None


class Wire(ABC):
    """One kind of server."""

    @abstractmethod
    def models(self, servers: Servers, url: str) -> dict[str, str]:
        """The models at one address: every name that they have -> the one to ask for them by.

        Raises:
            ServerError: if it cannot be reached, or is another kind of server.
        """

    @abstractmethod
    def request(self, model: str, rows: Sequence[Row]) -> tuple[str, dict[str, Any]]:
        """Path and body of a request for the log-probs of some answers."""

    @abstractmethod
    def tokens(self, reply: Any, model: str, rows: Sequence[Row]) -> list[list[Token]]:
        """The answers' tokens in the reply; whatever error a malformed one leads to."""

    def read(self, reply: Any, model: str, rows: Sequence[Row]) -> list[list[Token]]:
        """The answers' tokens in the reply, compared with what was asked.

        Raises:
            BadReply: if it is not about these tokens, one log-prob for each.
        """
        try:
            found = self.tokens(reply, model, rows)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise BadReply("replies that cannot be read") from error
        if len(found) != len(rows):
            raise BadReply("too many or too few answers")
        for tokens, (_, answer) in zip(found, rows, strict=True):
            if len(tokens) != len(answer):
                raise BadReply("too many or too few log-probs")
            if [token.id for token in tokens] != answer:
                raise BadReply("log-probs of other tokens")
            if any(token.logp > ROUNDING for token in tokens):
                raise BadReply("log-probs above 0")
        return found


class Vllm(Wire):
    """``vllm serve``: OpenAI's completions with ``prompt_logprobs``.

    The reply has, for each token of prompt and answer, a mapping from token ids (as text) to log-prob, rank and text;
    that of the token itself is always in it, and none for the first token. Minus infinity is written as -9999.
    """

    def models(self, servers: Servers, url: str) -> dict[str, str]:
        servers.get("/health", url=url)
        names = {}
        for card in servers.get("/v1/models", url=url)["data"]:
            names |= {str(card.get("root") or card["id"]): str(card["id"]), str(card["id"]): str(card["id"])}
        return names

    def request(self, model: str, rows: Sequence[Row]) -> tuple[str, dict[str, Any]]:
        whole = [[*prompt, *answer] for prompt, answer in rows]
        body = {"model": model, "prompt": whole, "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
        return "/v1/completions", body

    def tokens(self, reply: Any, model: str, rows: Sequence[Row]) -> list[list[Token]]:
        if reply["model"] != model:
            raise BadReply("answers of another model")
        found = []
        for choice, (prompt, answer) in zip(_in_order(reply["choices"]), rows, strict=True):
            places = choice["prompt_logprobs"]
            if len(places) != len(prompt) + len(answer):
                raise BadReply("too many or too few log-probs")
            found.append([_vllm_token(i, place) for i, place in zip(answer, places[len(prompt) :], strict=True)])
        return found


class Sglang(Wire):
    """``sglang.launch_server``: the native ``/generate`` with ``return_logprob``.

    The reply has ``[log-prob, token id, text]`` for each token from ``logprob_start_len`` on, the first without a
    log-prob; so we begin with the last token of the prompt.
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

    def request(self, model: str, rows: Sequence[Row]) -> tuple[str, dict[str, Any]]:
        body = {
            "input_ids": [[*prompt, *answer] for prompt, answer in rows],
            "sampling_params": {"temperature": 1.0, "max_new_tokens": 0},
            "return_logprob": True,
            "logprob_start_len": [max(len(prompt) - 1, 0) for prompt, _ in rows],
            "return_text_in_logprobs": True,
        }
        return "/generate", body

    def tokens(self, reply: Any, model: str, rows: Sequence[Row]) -> list[list[Token]]:
        found = []
        for row in reply:
            before, *tokens = row["meta_info"]["input_token_logprobs"]
            if before[0] is not None:
                raise BadReply("too many or too few log-probs")
            found.append([Token(int(i), _number(logp), text) for logp, i, text in tokens])
        return found


WIRES: dict[str, Wire] = {"vllm": Vllm(), "sglang": Sglang()}


def _in_order(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(choices, key=lambda choice: choice["index"])


def _vllm_token(i: int, place: dict[str, Any] | None) -> Token:
    if place is None:
        return Token(i, float("nan"), None)
    told = place.get(str(i))
    if told is None:
        raise BadReply("log-probs of other tokens")
    logp = _number(told["logprob"])
    return Token(i, float("-inf") if logp == -9999.0 else logp, told.get("decoded_token"))


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
