"""A server process with a real model behind it that speaks as vLLM and as SGLang do, and misbehaves on demand.

    python tests/model_server.py NAME=DIRECTORY [NAME=DIRECTORY ...]

Each NAME=DIRECTORY gets a port of its own, also if a directory comes twice; `{"ports": [...]}` is printed once all
listen. The wire formats are those of vLLM 0.2x to 0.3x (`/v1/completions`, `/v1/models`, `/tokenize`, `/health`) and of
SGLang 0.5 (`/generate`, `/model_info`, `/get_model_info`), as far as they are used here; what neither accepts is
answered with their 400. Knows nothing of lit_uniopd: log-probs come from transformers' own forward pass over one row.

    POST /misbehave {"fault": ..., "times": n, "seconds": s}    the next n requests go wrong (-1: all)
    GET /counts                                                 how many requests came, and how many at once

Faults: slow, error (500), busy (503), drop (no answer), html, refuse (400), short (a log-prob is missing), nan, ids
(log-probs of other tokens), logits (no log-probs), tokens (another tokenizer's), model (another model's name).
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_LOGPROBS = 20
"""vLLM's default of --max-logprobs."""


class Refusal(Exception):
    """Answered with status 400 and this message."""


class Served:
    """A model, its tokenizer, and what a server reports about them."""

    def __init__(self, name: str, directory: str, logprobs_mode: str = "raw_logprobs") -> None:
        self.name, self.directory = name, directory
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self.model: Any = AutoModelForCausalLM.from_pretrained(directory).eval()
        self.max_length = int(self.model.config.max_position_embeddings)
        self.logprobs_mode = logprobs_mode

    @torch.no_grad()
    def logits(self, ids: list[int]) -> torch.Tensor:
        """float32 ``[T, V]``."""
        return self.model(torch.tensor([ids])).logits[0].float()

    def check(self, ids: Any, new_tokens: int) -> list[int]:
        if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
            raise Refusal("the prompt must be a non-empty list of token ids")
        if max(ids) >= self.model.config.vocab_size:
            raise Refusal(f"Token id {max(ids)} is out of vocabulary")
        if len(ids) + new_tokens > self.max_length:
            raise Refusal(f"This model's maximum context length is {self.max_length} tokens.")
        return ids

    def write(self, ids: list[int], options: dict[str, Any], new_tokens: int, seed: int) -> tuple[list[int], Any, str]:
        """Sampled ids, the log-probs ``[V]`` that each was reported with, and why it ended."""
        noise = torch.Generator().manual_seed(seed)
        temperature = float(options.get("temperature", 1.0))
        ends = {self.tokenizer.eos_token_id, *(options.get("stop_token_ids") or [])}
        written: list[int] = []
        reported: list[torch.Tensor] = []
        for _ in range(new_tokens):
            logits = self.logits([*ids, *written])[-1]
            scaled = (logits / temperature if temperature > 0 else logits).log_softmax(-1)
            reported.append(scaled if self.logprobs_mode == "processed_logprobs" else logits.log_softmax(-1))
            best = scaled.argmax() if temperature == 0 else torch.multinomial(scaled.exp(), 1, generator=noise)[0]
            written.append(int(best))
            if int(best) in ends and not options.get("ignore_eos"):
                return written, reported, "stop"
        return written, reported, "length"

    def name_of(self, token: int) -> str:
        return self.tokenizer.decode([token])


@dataclass
class Mischief:
    fault: str = ""
    times: int = 0
    seconds: float = 0.0
    requests: int = 0
    now: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> str:
        """The fault of the next request."""
        with self.lock:
            if self.times == 0:
                return ""
            self.times -= self.times > 0
            return self.fault

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        with self.lock:
            self.requests += 1
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        try:
            yield
        finally:
            with self.lock:
                self.now -= 1


def vllm_completion(served: Served, body: dict[str, Any], fault: str) -> dict[str, Any]:
    """``/v1/completions``; prompts are token ids."""
    if body.get("model") not in (None, served.name):
        raise KeyError(f"The model `{body['model']}` does not exist.")
    new_tokens = 16 if body.get("max_tokens") is None else body["max_tokens"]
    if new_tokens < 1:
        raise Refusal(f"max_tokens must be at least 1, got {new_tokens}.")
    for option in ("prompt_logprobs", "logprobs"):
        if (body.get(option) or 0) > MAX_LOGPROBS:
            raise Refusal(f"Requested {option} of {body[option]}, which is greater than max allowed: {MAX_LOGPROBS}")
    prompt: Any = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) and prompt and isinstance(prompt[0], list) else [prompt]
    choices, generated = [], 0
    for row, ids in enumerate(prompts):
        served.check(ids, new_tokens)
        scores = None
        if body.get("prompt_logprobs") is not None:
            scores = vllm_prompt_logprobs(served, ids, body["prompt_logprobs"], fault)
        for copy in range(body.get("n") or 1):
            seed = hash((body.get("seed") or 0, row, copy)) % 2**31
            written, reported, reason = served.write(ids, body, new_tokens, seed)
            generated += len(written)
            choices.append(
                {
                    "index": len(choices),
                    "text": served.tokenizer.decode(written, skip_special_tokens=True),
                    "logprobs": vllm_logprobs(served, written, reported, body),
                    "finish_reason": reason,
                    "stop_reason": None,
                    "token_ids": written if body.get("return_token_ids") else None,
                    "prompt_logprobs": scores,
                    "prompt_token_ids": ids if body.get("return_token_ids") else None,
                }
            )
    counts = {"prompt_tokens": sum(map(len, prompts)), "completion_tokens": generated}
    name = "another-model" if fault == "model" else served.name
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 0,
        "model": name,
        "choices": choices,
        "usage": counts,
    }


def vllm_prompt_logprobs(served: Served, ids: list[int], top: int, fault: str) -> list[dict[str, Any] | None]:
    """None for the first token, then token id -> log-prob, rank and text, of the prompt's token and the ``top`` best."""
    logits = served.logits(ids)[:-1]
    logps = logits if fault == "logits" else logits.log_softmax(-1)
    entries: list[dict[str, Any] | None] = [None]
    for token, logps_V in zip(ids[1:], logps, strict=True):
        entry = {}
        for i in dict.fromkeys([token, *logps_V.topk(top).indices.tolist()]):
            rank = int((logps_V > logps_V[i]).sum()) + 1
            text = served.name_of(i + 1 if fault == "tokens" else i)
            entry[str(i + 1 if fault == "ids" else i)] = {
                "logprob": max(float(logps_V[i]), -9999.0),
                "rank": rank,
                "decoded_token": text,
            }
        entries.append(entry)
    if fault == "nan" and entries[-1]:
        entries[-1][str(ids[-1])]["logprob"] = float("nan")
    return entries[:-1] if fault == "short" else entries


def vllm_logprobs(served: Served, written: list[int], reported: list[torch.Tensor], body: dict[str, Any]) -> Any:
    if body.get("logprobs") is None:
        return None
    names = [f"token_id:{i}" if body.get("return_tokens_as_token_ids") else served.name_of(i) for i in written]
    chosen = [float(logps_V[i]) for i, logps_V in zip(written, reported, strict=True)]
    best = [{name: logp} for name, logp in zip(names, chosen, strict=True)]
    return {"text_offset": [0] * len(names), "token_logprobs": chosen, "tokens": names, "top_logprobs": best}


def sglang_generate(served: Served, body: dict[str, Any], fault: str) -> Any:
    """``/generate`` for one list of ids, or a list of such."""
    ids: Any = body.get("input_ids")
    if isinstance(ids, list) and ids and isinstance(ids[0], list):
        rows = []
        for row, row_ids in enumerate(ids):
            row_body = {key: value[row] if isinstance(value, list) else value for key, value in body.items()}
            rows.append(sglang_generate(served, {**row_body, "input_ids": row_ids}, fault if row == 0 else ""))
        return rows
    options = body.get("sampling_params") or {}
    new_tokens = options.get("max_new_tokens", 128)
    served.check(ids, new_tokens)
    written, reported, reason = served.write(ids, options, new_tokens, options.get("sampling_seed") or 0)
    meta: dict[str, Any] = {
        "id": "1",
        "finish_reason": {"type": reason, "length": new_tokens} if reason == "length" else {"type": reason},
        "prompt_tokens": len(ids),
        "weight_version": "default",
        "completion_tokens": len(written),
        "cached_tokens": 0,
        "e2e_latency": 0.01,
    }
    if body.get("return_logprob"):
        text_of = (
            (lambda i: served.name_of(i + 1 if fault == "tokens" else i))
            if body.get("return_text_in_logprobs")
            else None
        )
        start = body.get("logprob_start_len", -1)
        start = len(ids) - 1 if start is None or start < 0 else start
        logits = served.logits(ids)
        logps = logits if fault == "logits" else logits.log_softmax(-1)
        rows = [[None, ids[start]]] if start < len(ids) else []
        rows += [[float(logps[t - 1, ids[t]]), ids[t] + (fault == "ids")] for t in range(start + 1, len(ids))]
        if fault == "nan":
            rows[-1][0] = None  # its JSON has no NaN
        rows = rows[:-1] if fault == "short" else rows
        meta["input_token_logprobs"] = [[*row, text_of(row[1]) if text_of else None] for row in rows]
        if body.get("top_logprobs_num"):
            best = [logps[t - 1].topk(body["top_logprobs_num"]) for t in range(start + 1, len(ids))]
            tops = [list(zip(top.values.tolist(), top.indices.tolist(), strict=True)) for top in best]
            texts = [[[logp, i, text_of(i) if text_of else None] for logp, i in top] for top in tops]
            meta["input_top_logprobs"] = [None, *texts]
        meta["output_token_logprobs"] = [
            [float(logps_V[i]), i, text_of(i) if text_of else None]
            for i, logps_V in zip(written, reported, strict=True)
        ]
    text = served.tokenizer.decode(written, skip_special_tokens=True)
    return {"text": text, "output_ids": written, "meta_info": meta}


def handler(served: Served, mischief: Mischief) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept

        def do_GET(self) -> None:
            fault = mischief.next() if self.path != "/counts" else ""
            if self.misbehaves(fault):
                return
            name = "another-model" if fault == "model" else served.name
            card = {"id": name, "object": "model", "created": 0, "owned_by": "vllm", "root": name, "parent": None}
            where = "/models/another-model" if fault == "model" else served.directory
            info = {"model_path": where, "tokenizer_path": where, "is_generation": True, "weight_version": "default"}
            pages = {
                "/health": None,
                "/v1/models": {"object": "list", "data": [{**card, "max_model_len": served.max_length}]},
                "/model_info": info,
                "/get_model_info": info,
                "/counts": {"requests": mischief.requests, "most_at_once": mischief.most_at_once},
            }
            self.reply(200, pages[self.path]) if self.path in pages else self.reply(404, {"detail": "Not Found"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/misbehave":
                with mischief.lock:
                    mischief.fault, mischief.times = body["fault"], body.get("times", -1)
                    mischief.seconds = body.get("seconds", 0.0)
                    mischief.requests = mischief.most_at_once = 0
                return self.reply(200, {})
            with mischief.counting():
                fault = mischief.next()
                if self.misbehaves(fault):
                    return None
                try:
                    return self.reply(200, self.answer(body, fault))
                except Refusal as error:
                    return self.reply(400, {"error": {"message": str(error), "type": "BadRequestError", "code": 400}})
                except KeyError as error:
                    return self.reply(404, {"error": {"message": error.args[0], "type": "NotFoundError", "code": 404}})

        def answer(self, body: dict[str, Any], fault: str) -> Any:
            if self.path == "/v1/completions":
                return vllm_completion(served, body, fault)
            if self.path == "/generate":
                return sglang_generate(served, body, fault)
            if self.path == "/tokenize":
                ids = served.tokenizer(
                    body["prompt"], add_special_tokens=body.get("add_special_tokens", True)
                ).input_ids
                return {"count": len(ids), "max_model_len": served.max_length, "tokens": ids, "token_strs": None}
            raise KeyError("Not Found")

        def misbehaves(self, fault: str) -> bool:
            """Carry out a fault of the reply; whether the request is finished by it."""
            if fault == "slow":
                time.sleep(mischief.seconds)
            if fault == "drop":
                self.close_connection = True
            elif fault in ("error", "busy", "refuse"):
                status = {"error": 500, "busy": 503, "refuse": 400}[fault]
                self.reply(status, {"error": {"message": "out of order", "type": "InternalServerError"}})
            elif fault == "html":
                self.reply(200, None, b"<html>a proxy's page</html>")
            return fault in ("drop", "error", "busy", "refuse", "html")

        def reply(self, status: int, content: Any, raw: bytes | None = None) -> None:
            payload = raw if raw is not None else b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client has given up
                self.wfile.write(payload)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # connections that wait; the default of 5 would be the bottleneck


def main(models: list[str]) -> None:
    torch.set_num_threads(1)
    servers = []
    for name, directory in (model.split("=", 1) for model in models):
        served = Served(name, directory)
        server = Server(("127.0.0.1", 0), handler(served, Mischief()))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    print(json.dumps({"ports": [server.server_port for server in servers]}), flush=True)
    sys.stdin.read()  # until the process that started this one is gone


if __name__ == "__main__":
    main(sys.argv[1:])
