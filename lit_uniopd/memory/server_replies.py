"""What teachers on servers take of the host's memory: they name several tokens for each one of an answer."""

from collections.abc import Mapping
from typing import Any

REPLY_BYTES: Mapping[str, int] = {"vllm": 340, "sglang": 160}
"""Of one named token in a reply that was parsed: a mapping in vLLM's, a list in SGLang's (docs/uni_opd.md)."""
KEPT_BYTES = 8
"""Of one that is kept until the update: its id and its log-prob."""


def replies_bytes(http: Any, *, top_k: int, answers: int, row: int, new_tokens: int) -> int:
    """Bytes of the top log-probs of a rollout's answers, and of as many replies as are read at the same time.

    Args:
        http: ``HttpArgs`` of the teacher.
        top_k: tokens that it names for each one of an answer.
        answers: of a rollout, on this rank.
        row: tokens of the longest prompt with its answer.
        new_tokens: of the longest answer.
    """
    at_once = min(answers, http.requests * http.batch)
    tokens = row if http.protocol == "vllm" else new_tokens  # vLLM's reply has the prompt's too
    return top_k * (at_once * tokens * REPLY_BYTES[http.protocol] + answers * new_tokens * KEPT_BYTES)
