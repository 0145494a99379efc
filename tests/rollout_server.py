"""A model server process whose weights can be changed, as vLLM's can: what rollouts need beyond `model_server`.

    python tests/rollout_server.py [--raw] [--old] NAME=DIRECTORY[@PORT] ...

Adds top_p, top_k, stop_token_ids and logit_bias to `/v1/completions`; `/v1/load_lora_adapter` and its opposite;
`/pause`, `/resume`, `/weight_info`, `/update_weight_version`, `/collective_rpc` with `reload_weights`, and
`/reset_prefix_cache`. Prompts are cached by model name, and forgotten only when a request says so, as in vLLM.
--raw: log-probs before temperature and cuts, its default, where this server's is --logprobs-mode processed_logprobs.
--old: without pauses and versions.

    POST /restart {}    forgets adapters, weights and caches, as a new process would

Further faults: stale (new weights are accepted and ignored), half (one answer is missing), unended (the last token is
cut off), abort (the finish reason).
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from model_server import Mischief, Refusal, Served, handler, vllm_completion
from peft import PeftModel
from transformers import AutoModelForCausalLM


class Plain(str):
    """An answer that is a sentence instead of JSON."""


class Broken(Exception):
    """Answered with status 500 and this message."""


class Trained(Served):
    """A model whose weights can be replaced."""

    def __init__(self, name: str, directory: str, *, raw: bool = False, old: bool = False) -> None:
        super().__init__(name, directory, "raw_logprobs" if raw else "processed_logprobs")
        self.old = old
        self.restart()

    def restart(self) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(self.directory).eval()
        self.adapters: dict[str, Trained] = {}
        self.cached: dict[tuple[int, ...], torch.Tensor] = {}
        self.version = "default"
        self.running = threading.Event()
        self.running.set()

    def with_adapter(self, name: str, path: str, *, ignored: bool) -> "Trained":
        adapted = object.__new__(Trained)
        adapted.__dict__ |= self.__dict__ | {"name": name, "cached": {}}
        base = AutoModelForCausalLM.from_pretrained(self.directory)
        adapted.model = base.eval() if ignored else PeftModel.from_pretrained(base, path).eval()
        return adapted

    def forget_prompts(self) -> None:
        for served in (self, *self.adapters.values()):
            served.cached.clear()

    def write(self, ids: list[int], options: dict[str, Any], new_tokens: int, seed: int) -> tuple[list[int], Any, str]:
        noise = torch.Generator().manual_seed(seed)
        temperature = float(options.get("temperature", 1.0))
        ends = set(options.get("stop_token_ids") or [])
        ends |= set() if options.get("ignore_eos") else {self.tokenizer.eos_token_id}
        written: list[int] = []
        reported: list[torch.Tensor] = []
        while len(written) < new_tokens:
            if not written:
                self.cached.setdefault(tuple(ids), self.logits(ids)[-1])
            logits = self.logits([*ids, *written])[-1] if written else self.cached[tuple(ids)].clone()
            scores = logits / temperature if temperature > 0 else logits.clone()
            for token, bias in (options.get("logit_bias") or {}).items():
                scores[int(token)] += bias
            if temperature > 0:
                scores = truncate(scores, int(options.get("top_k") or 0), float(options.get("top_p") or 1.0))
            processed = scores.log_softmax(-1)
            reported.append(processed if self.logprobs_mode == "processed_logprobs" else logits.log_softmax(-1))
            token = (
                processed.argmax() if temperature == 0 else torch.multinomial(processed.exp(), 1, generator=noise)[0]
            )
            written.append(int(token))
            if written[-1] in ends:
                return written, reported, "stop"
        return written, reported, "length"


def truncate(scores_V: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    ranked = scores_V.sort(descending=True)
    dropped_V = torch.zeros_like(scores_V, dtype=torch.bool)
    if top_k > 0:
        dropped_V[ranked.indices[top_k:]] = True
    probs = scores_V.masked_fill(dropped_V, -torch.inf).softmax(-1)[ranked.indices]
    dropped_V[ranked.indices[probs.cumsum(0) - probs >= top_p]] = True
    return scores_V.masked_fill(dropped_V, -torch.inf)


def rollout_handler(served: Trained, mischief: Mischief) -> type[BaseHTTPRequestHandler]:
    plain_handler: Any = handler(served, mischief)

    class Handler(plain_handler):
        def do_GET(self) -> None:
            if mischief.times and mischief.fault in ("model", "slow", "drop", "error", "busy", "html", "refuse"):
                super().do_GET()
            elif self.path == "/v1/models":
                cards = [
                    {"id": name, "object": "model", "max_model_len": served.max_length if name == served.name else None}
                    for name in (served.name, *served.adapters)
                ]
                self.reply(200, {"object": "list", "data": cards})
            elif self.path == "/weight_info" and not served.old:
                self.reply(200, {"weight_version": served.version})
            else:
                super().do_GET()

        def do_POST(self) -> None:
            try:
                super().do_POST()
            except Broken as error:
                self.reply(500, {"error": {"message": str(error), "type": "InternalServerError", "code": 500}})

        def answer(self, body: dict[str, Any], fault: str) -> Any:
            route = self.path.partition("?")
            if route[0] == "/v1/completions":
                if not served.running.wait(timeout=5):
                    raise Broken("paused")
                answer = vllm_completion(served.adapters.get(body["model"], served), body, fault)
                return spoil(answer, fault)
            post = getattr(self, f"post_{route[0].strip('/').replace('/', '_')}", None)
            if post is None or (served.old and route[0] not in OLD):
                raise KeyError("Not Found")
            return post(body, fault, route[2])

        def post_v1_load_lora_adapter(self, body: dict[str, Any], fault: str, query: str) -> Any:
            name, path = body["lora_name"], body["lora_path"]
            if name in served.adapters:
                raise Refusal(f"The lora adapter '{name}' has already been loaded.")
            if not Path(path, "adapter_config.json").exists():
                raise KeyError(f"Loading lora {name} failed: No adapter found for {path}")
            served.adapters[name] = served.with_adapter(name, path, ignored=fault == "stale")
            return Plain(f"Success: LoRA adapter '{name}' added successfully.")

        def post_v1_unload_lora_adapter(self, body: dict[str, Any], fault: str, query: str) -> Any:
            if served.adapters.pop(body["lora_name"], None) is None:
                raise KeyError(f"The lora adapter '{body['lora_name']}' cannot be found.")
            return Plain(f"Success: LoRA adapter '{body['lora_name']}' removed successfully.")

        def post_pause(self, body: dict[str, Any], fault: str, query: str) -> Any:
            served.running.clear()
            if "clear_cache=true" in query:
                served.forget_prompts()
            return {"status": "paused"}

        def post_resume(self, body: dict[str, Any], fault: str, query: str) -> Any:
            served.running.set()
            return {"status": "resumed"}

        def post_update_weight_version(self, body: dict[str, Any], fault: str, query: str) -> Any:
            served.version = body["new_version"]
            return {"success": True, "new_version": served.version}

        def post_collective_rpc(self, body: dict[str, Any], fault: str, query: str) -> Any:
            if body.get("method") != "reload_weights":
                raise Refusal("unknown method")
            self.load(body["kwargs"]["weights_path"], fault)
            return {"results": [None]}

        def post_reset_prefix_cache(self, body: dict[str, Any], fault: str, query: str) -> Any:
            served.forget_prompts()
            return None if served.old else {"success": True}

        def post_restart(self, body: dict[str, Any], fault: str, query: str) -> Any:
            served.restart()
            return {}

        def load(self, path: str, fault: str) -> None:
            if not Path(path).is_absolute() or not list(Path(path).glob("*.safetensors")):
                raise Broken(f"no safetensors files in {path}")
            if fault != "stale":
                served.model = AutoModelForCausalLM.from_pretrained(path).eval()

        def reply(self, status: int, content: Any, raw: bytes | None = None) -> None:
            super().reply(status, content, content.encode() if isinstance(content, Plain) else raw)

    return Handler


OLD = {"/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/collective_rpc", "/reset_prefix_cache", "/restart"}
"""Routes that servers without versions have too."""


def spoil(answer: dict[str, Any], fault: str) -> dict[str, Any]:
    last = answer["choices"][-1]
    if fault == "half":
        answer["choices"].pop()
    elif fault == "unended":
        last = max(answer["choices"], key=lambda choice: len(choice["token_ids"]))
        last["token_ids"] = last["token_ids"][:-1]
        last["logprobs"]["token_logprobs"] = last["logprobs"]["token_logprobs"][:-1]
    elif fault == "abort":
        last["finish_reason"] = "abort"
    elif fault == "old":
        last["token_ids"] = None
    return answer


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    servers = []
    for model in arguments:
        if model.startswith("--"):
            continue
        name, where = model.split("=", 1)
        directory, _, port = where.partition("@")
        served = Trained(name, directory, raw="--raw" in arguments, old="--old" in arguments)
        server = ThreadingHTTPServer(("127.0.0.1", int(port or 0)), rollout_handler(served, Mischief()))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    print(json.dumps({"ports": [server.server_port for server in servers]}), flush=True)
    sys.stdin.read()  # until the process that started this one is gone


if __name__ == "__main__":
    main(sys.argv[1:])
