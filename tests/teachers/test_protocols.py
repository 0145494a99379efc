"""What servers say about top tokens, and what may be wrong with it."""

import json
import math
from typing import Any

import pytest
import torch

from lit_uniopd.teachers.protocols import PROTOCOLS, BadReply, top_logps

ROW = ([5, 6], [7, 8])
"""A prompt of two tokens and an answer of two."""


def vllm_reply(*tops: dict[int, float]) -> Any:
    """As vLLM writes it: of the answer's tokens the log-prob of each id, the token itself first; none for the first."""
    entries: list[Any] = [None, {"6": {"logprob": -3.0, "rank": 9, "decoded_token": "f"}}]
    for top in tops:
        entries.append(
            {str(i): {"logprob": logp, "rank": r, "decoded_token": "x"} for r, (i, logp) in enumerate(top.items())}
        )
    return json.loads(json.dumps({"model": "m", "choices": [{"index": 0, "prompt_logprobs": entries}]}))


def sglang_reply(sampled: list[float], tops: list[list[tuple[float | None, int]]]) -> Any:
    tokens = [[None, 6, None], *([logp, i, None] for logp, i in zip(sampled, ROW[1], strict=True))]
    top = [None, *([[logp, i, None] for logp, i in top] for top in tops)]
    meta = {"input_token_logprobs": tokens, "input_top_logprobs": top}
    return json.loads(json.dumps([{"meta_info": meta}]))


def read(protocol: str, reply: Any, k: int) -> tuple[list[float], list[dict[int, float]]]:
    (tokens,) = PROTOCOLS[protocol].read(reply, "m", [ROW], k)
    top = top_logps(tokens)
    assert top.ids_TK.dtype == torch.int32
    assert top.logps_TK.dtype == torch.float32
    pairs = zip(top.ids_TK.tolist(), top.logps_TK.tolist(), strict=True)
    return [token.logp for token in tokens], [dict(zip(ids, logps, strict=True)) for ids, logps in pairs]


def test_vllm_adds_the_sampled_token_where_it_is_not_among_the_likeliest():
    reply = vllm_reply({7: -4.0, 1: -0.5, 2: -1.0}, {8: -1.5, 3: -0.75})
    logps, tops = read("vllm", reply, 2)
    assert logps == [-4.0, -1.5]
    assert tops == [{1: -0.5, 2: -1.0}, {8: -1.5, 3: -0.75}]


def test_a_token_that_ties_with_the_last_is_there_or_not():
    tie = {7: -2.0, 1: -0.5, 2: -2.0}
    reply = vllm_reply(tie, {8: -2.0, 1: -0.5})
    assert read("vllm", reply, 2)[1] == [{1: -0.5, 2: -2.0}, {8: -2.0, 1: -0.5}]
    reply = sglang_reply([-2.0, -2.0], [[(-0.5, 1), (-2.0, 2)], [(-0.5, 1), (-2.0, 8)]])
    assert read("sglang", reply, 2)[1] == [{1: -0.5, 2: -2.0}, {1: -0.5, 8: -2.0}]


def test_impossible_tokens_are_finite():
    """-9999 is vLLM's minus infinity, and SGLang's may come as JavaScript's."""
    top = {7: -9999.0, 1: 0.0, 2: -9999.0}
    logps, tops = read("vllm", vllm_reply(top, {8: 0.0, 3: -9999.0}), 2)
    assert logps == [-math.inf, 0.0]
    assert tops == [{1: 0.0, 2: -9999.0}, {8: 0.0, 3: -9999.0}]
    reply = sglang_reply([0.0, 0.0], [[(0.0, 7), (-math.inf, 2)], [(0.0, 8), (-math.inf, 2)]])
    assert read("sglang", reply, 2)[1] == [{7: 0.0, 2: -9999.0}, {8: 0.0, 2: -9999.0}]


def test_numbers_that_are_none_stay_so():
    """They are counted where finite ones are asked for."""
    _, tops = read("vllm", vllm_reply({7: -0.5, 1: math.nan}, {8: -0.5, 3: -1.0}), 2)
    assert math.isnan(tops[0][1])
    _, tops = read("sglang", sglang_reply([-0.5, -0.5], [[(-0.5, 7), (None, 1)], [(-0.5, 8), (-1.0, 3)]]), 2)
    assert math.isnan(tops[0][1])


FINE = {8: -1.5, 3: -0.75}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (vllm_reply({7: -4.0, 1: -0.5}, FINE), None),  # two: the sampled one is said to be among the likeliest
        (vllm_reply({7: -4.0}, FINE), "too many or too few log-probs"),
        (vllm_reply({7: -4.0, 1: -0.5, 2: -1.0, 3: -1.0}, FINE), "too many or too few log-probs"),
        (vllm_reply({7: -0.7, 1: -0.5, 2: -1.0}, FINE), "top log-probs that are not the largest"),
        (vllm_reply({7: -4.0, 1: -0.1, 2: -0.1}, FINE), "top log-probs of more than all probability"),
        (vllm_reply({7: -4.0, 1: 8.0, 2: 7.0}, FINE), "top log-probs of more than all probability"),
        (vllm_reply({1: -0.5, 2: -1.0}, FINE), "log-probs of other tokens"),
    ],
)
def test_vllm_replies_that_cannot_be_the_likeliest(reply, reason):
    if reason is None:
        assert read("vllm", reply, 2)[1][0] == {7: -4.0, 1: -0.5}
        return
    with pytest.raises(BadReply, match=f"^{reason}$"):
        read("vllm", reply, 2)


@pytest.mark.parametrize(
    ("tops", "reason"),
    [
        ([[(-0.5, 1), (-1.0, 1)], [(-0.5, 1), (-1.0, 2)]], "one of the top tokens twice"),
        ([[(-0.5, 1)], [(-0.5, 1)]], "too many or too few log-probs"),
        ([[(-0.5, 1), (-1.0, 2)]], "replies that cannot be read"),
        ([None, None], "replies that cannot be read"),
    ],
)
def test_sglang_replies_that_cannot_be_the_likeliest(tops, reason):
    reply = sglang_reply([-3.0, -3.0], [top or [] for top in tops])
    if tops[0] is None:
        reply[0]["meta_info"]["input_top_logprobs"] = None
    with pytest.raises(BadReply, match=f"^{reason}$"):
        read("sglang", reply, 2)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_without_top_tokens_replies_are_read_as_before(protocol):
    reply = vllm_reply({7: -4.0}, {8: -1.5}) if protocol == "vllm" else sglang_reply([-4.0, -1.5], [])
    (tokens,) = PROTOCOLS[protocol].read(reply, "m", [ROW])
    assert [token.logp for token in tokens] == [-4.0, -1.5]
    assert all(len(token.top_ids) == 0 for token in tokens)
