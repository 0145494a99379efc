"""What do questions to model servers cost on this side: connections, and replies with top log-probs?

    python benchmarks/server_replies.py --requests 400 --threads 16 --tokens 4096 --repeats 5

A server in the same process answers at once. Prints connections and milliseconds of a request where connections are
kept, as `Servers` does, and where each request has one of its own, in turn in one run (median of the repeats); then, of
replies as vLLM and SGLang write them and for each token of an answer, bytes on the wire, microseconds to parse and
check with the garbage collector and while it pauses, and bytes held when parsed.
"""

import argparse
import json
import random
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import Any

from lit_uniopd.teachers.protocols import PROTOCOLS, top_logps
from lit_uniopd.utils.http import Servers, collector_paused

REPLY = b'{"ok": true, "padding": "' + b"x" * 2000 + b'"}'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(REPLY)))
        self.end_headers()
        self.wfile.write(REPLY)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Counting(ThreadingHTTPServer):
    """Counts connections."""

    daemon_threads = True
    request_queue_size = 256
    connections = 0

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()


def connections(requests: int, threads: int, repeats: int) -> None:
    server = Counting(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kept: dict[bool, list[float]] = {True: [], False: []}
    opened: dict[bool, list[int]] = {True: [], False: []}
    for _ in range(repeats):
        for keep in (True, False):
            servers, before = Servers([f"http://127.0.0.1:{server.server_port}"]), server.connections
            start = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda i: servers.post("/", {"i": i}, retries=None if keep else 0), range(requests)))  # noqa: B023
            kept[keep].append(1000 * (time.perf_counter() - start) / requests)
            opened[keep].append(server.connections - before)
    for keep, name in ((True, "kept"), (False, "one each")):
        print(f"{name}: {max(opened[keep])} connections, {median(kept[keep]):.2f} ms a request")
    server.shutdown()
    server.server_close()


def reply(protocol: str, tokens: int, k: int) -> Any:
    """Of a prompt of one token and an answer; ids and log-probs as long as those of a real vocabulary."""
    draw = random.Random(0)
    tops = []
    for _ in range(tokens):
        logps = sorted((-3.0012345678901234 - 20 * draw.random() for _ in range(k)), reverse=True)
        tops.append(list(zip(draw.sample(range(1000, 150_000), k), logps, strict=True)))
    if protocol == "vllm":
        entries = [
            {
                str(i): {"logprob": logp, "rank": rank, "decoded_token": " token"}
                for rank, (i, logp) in enumerate([(7, -30.012345678901234), *top])
            }
            for top in tops
        ]
        return {"model": "m", "choices": [{"index": 0, "prompt_logprobs": [None, *entries]}]}
    sampled = [[None, 7, None], *[[-30.012345678901234, 7, None]] * tokens]
    named = [None, *([[logp, i, None] for i, logp in top] for top in tops)]
    return [{"meta_info": {"input_token_logprobs": sampled, "input_top_logprobs": named}}]


def replies(tokens: int, repeats: int) -> None:
    for protocol in PROTOCOLS:
        for k in (0, 20, 64):
            raw = json.dumps(reply(protocol, tokens, k), separators=(",", ":")).encode()
            seconds: dict[str, list[float]] = {"collected": [], "paused": []}
            for _ in range(repeats):
                for name, how in (("collected", nullcontext), ("paused", collector_paused)):
                    start = time.perf_counter()
                    with how():
                        (answer,) = PROTOCOLS[protocol].read(json.loads(raw), "m", [([7], [7] * tokens)], k)
                        if k:
                            top_logps(answer)
                    seconds[name].append(time.perf_counter() - start)
                    del answer
            tracemalloc.start()
            parsed: Any = json.loads(raw)
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            del parsed
            times = ", ".join(f"{name} {1e6 * median(values) / tokens:.0f} us" for name, values in seconds.items())
            print(f"{protocol}, top {k}: {len(raw) / tokens:.0f} bytes, {times}, {held / tokens:.0f} bytes held")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    connections(args.requests, args.threads, args.repeats)
    replies(args.tokens, args.repeats)


if __name__ == "__main__":
    main()
