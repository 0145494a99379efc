"""A run with answers for a judge, and a judge behind HTTP that prefers the longer answer."""

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.benchmarks.report.summary import write_parquet


def write_run(directory: Path, answers: dict[str, list[str]], model: str = "ours") -> Path:
    """A finished run: benchmark -> the answer to each of its bundled rows."""
    directory.mkdir(parents=True, exist_ok=True)
    records, summary = [], {"benchmarks": {}}
    for name, texts in answers.items():
        benchmark = load_benchmark(find_spec(name), "fixture")
        for example, text in zip(benchmark.examples, texts, strict=True):
            records.append(
                Record(
                    benchmark=benchmark.spec.id,
                    protocol=benchmark.spec.protocol,
                    version=benchmark.spec.version,
                    profile="fixture",
                    fingerprint=benchmark.fingerprint,
                    sample_id=example.id,
                    group_id=example.id,
                    sample_idx=0,
                    prompt_hash="p",
                    generation_hash="g",
                    weights="w",
                    model=model,
                    step=0,
                    response=text,
                    gold=example.gold,
                    reason="no_grader",
                )
            )
        summary["benchmarks"][benchmark.key] = {"scores": {}, "judge": benchmark.spec.scoring.judge}
    write_parquet(records, directory / "records.parquet")
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def alpaca_file(path: Path, outputs: list[str]) -> Path:
    """Answers of a baseline as AlpacaEval has them, in another order than the rows."""
    rows = load_benchmark(find_spec("alpaca_eval2"), "fixture").examples
    entries = [
        {"instruction": row.row["question"], "output": output, "generator": "base", "dataset": "x"}
        for row, output in zip(rows, outputs, strict=True)
    ]
    path.write_text(json.dumps(entries[::-1]))
    return path


def shown(message: str, tag: str) -> str:
    """What one of our wordings shows between two tags."""
    return re.findall(rf"<{tag}>\n(.*?)\n</{tag}>", message, re.DOTALL)[0]


def longer(first: str, second: str) -> float:
    """Probability of the first: one in ten for each sign that it is shorter."""
    return 1 / (1 + math.exp((len(second) - len(first)) / 10))


def by_letter(body: dict[str, Any]) -> dict[str, Any]:
    """Log-probs of A and B among others, and the letter."""
    user = body["messages"][-1]["content"]
    share = longer(shown(user, "answer_A"), shown(user, "answer_B"))
    tops = [("A", 0.8 * share), ("B", 0.8 * (1 - share)), ("The", 0.2)]
    content = [{"top_logprobs": [{"token": token, "logprob": math.log(p)} for token, p in tops if p > 0]}]
    return {"message": {"content": "A" if share >= 0.5 else "B"}, "logprobs": {"content": content}}


def by_label(body: dict[str, Any]) -> dict[str, Any]:
    """One of five labels, behind a reason; an empty answer A makes the judge forget it."""
    user = body["messages"][-1]["content"]
    first, second = (len(shown(user, tag)) for tag in ("answer_A", "answer_B"))
    label = "A=B" if first == second else "A>B" if first > second else "B>A"
    label = label.replace(">", ">>") if abs(first - second) > 20 else label
    return {"message": {"content": f"The length says it. [[A=B]] would be wrong. [[{label}]]" if first else "Hm."}}


def by_mark(body: dict[str, Any]) -> dict[str, Any]:
    """1 for the right answer, 0.5 for one that holds it, nonsense for an empty one."""
    user = body["messages"][-1]["content"]
    right, reply = shown(user, "right_answer"), shown(user, "reply")
    mark = "[[1.0]]" if reply == right else "[[0.5]]" if right in reply else "[[0.0]]"
    return {"message": {"content": mark if reply else "[[2.0]]"}}


def by_rubric(body: dict[str, Any]) -> dict[str, Any]:
    """A point for each sign of an answer up to five, as ours and as SedarEval's own prompts want it; none for an x."""
    user = body["messages"][-1]["content"]
    ours = "<answer>" in user
    answer = shown(user, "answer") if ours else user.partition("答案\uff1a\n")[2].rpartition("\n")[0]
    points = min(len(answer), 5)
    final = f"1. fine. [[{points}]]" if ours else f"最终得分\uff1a1分?\n最终得分\uff1a{points}分"
    return {"message": {"content": "no idea" if answer == "x" else final}}


def by_capitals(body: dict[str, Any]) -> dict[str, Any]:
    """Lists the words in capitals of a description."""
    words = re.findall(r"[A-Z]{2,}(?: [A-Z]{2,})*", shown(body["messages"][-1]["content"], "description"))
    return {"message": {"content": f"Here: {json.dumps([word.lower() for word in words])}"}}


class JudgeServer:
    """Chat completions by a function of the request's body.

    Attributes:
        requests: bodies so far.
        paths: and their paths with the key that came along.
        status: of the next replies, instead of an answer, where the function of the body says so.
    """

    def __init__(self, reply: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.reply = reply
        self.status: Callable[[dict[str, Any]], int] = lambda body: 200
        self.requests: list[dict[str, Any]] = []
        self.paths: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.paths.append((self.path, self.headers.get("Authorization")))
                status = outer.status(body)
                content: dict[str, Any] = {"error": {"message": "out of order"}}
                if status == 200:
                    usage = {"prompt_tokens": 11, "completion_tokens": 3}
                    choice = {"finish_reason": "stop", **outer.reply(body)}
                    content = {"model": "judge-2026-01-01", "choices": [choice], "usage": usage}
                payload = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def do_GET(self) -> None:
                self.send_error(404)  # a server need not list its models

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@contextmanager
def judge_server(reply: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[JudgeServer]:
    """A judge for the time of the context."""
    server = JudgeServer(reply)
    threading.Thread(target=server.http.serve_forever, daemon=True).start()
    yield server
    server.http.shutdown()
    server.http.server_close()
