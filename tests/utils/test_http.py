"""The HTTP client, against a server process of its own."""

import gc
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from model_server import Served
from serving import ModelServers
from urllib3.connection import HTTPConnection

from lit_uniopd.errors import UserError
from lit_uniopd.utils.http import ServerError, Servers, collector_paused

HELLO = {"prompt": "hello", "add_special_tokens": False}


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    """Pauses, which take no time."""
    pauses: list[float] = []
    monkeypatch.setattr("lit_uniopd.utils.http.time.sleep", pauses.append)
    return pauses


@pytest.fixture
def nowhere() -> str:
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def tokens(servers: Servers, **options: Any) -> int:
    return servers.post("/tokenize", HELLO, **options)["count"]


def test_connections_are_kept_and_shared_by_threads(model_servers, monkeypatch):
    (url,) = model_servers.urls["student"]
    servers = Servers([url + "/"])
    opened = []
    connect = HTTPConnection.connect
    monkeypatch.setattr(HTTPConnection, "connect", lambda connection: opened.append(connection) or connect(connection))
    assert [tokens(servers) for _ in range(5)] == [5] * 5
    assert len(opened) == 1
    assert tokens(servers, retries=0) == 5
    assert len(opened) == 2  # what is sent once has a connection of its own
    opened.clear()
    model_servers.misbehave(url, "slow", seconds=0.05)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: tokens(servers), range(32))) == {5}
    assert len(opened) <= 8
    assert 2 <= model_servers.counts(url)["most_at_once"] <= 8
    assert servers.get("/health") is None


@pytest.mark.parametrize("fault", ["busy", "error", "drop"])
def test_a_failing_server_is_asked_again_after_longer_and_longer_pauses(model_servers, naps, fault):
    (url,) = model_servers.urls["student"]
    servers = Servers([url], retries=3)
    state = random.getstate()
    model_servers.misbehave(url, fault, times=3)
    assert tokens(servers) == 5
    assert len(naps) == 3
    assert all(0.5 * base <= nap <= 1.5 * base for nap, base in zip(naps, (0.5, 1.0, 2.0), strict=True))
    assert random.getstate() == state  # jitter does not move the run's seeds
    model_servers.misbehave(url, fault)
    with pytest.raises(ServerError, match=r"answers 50|broke off"):
        tokens(servers)
    assert model_servers.counts(url)["requests"] == 4
    model_servers.misbehave(url, fault)
    with pytest.raises(ServerError):
        tokens(servers, retries=0)
    assert model_servers.counts(url)["requests"] == 1


def test_refusals_and_answers_that_are_no_json_are_not_asked_again(model_servers, naps):
    (url,) = model_servers.urls["student"]
    servers = Servers([url])
    for fault, message in (
        ("refuse", "answers 400 Bad Request: .*out of order"),
        ("html", "does not answer in JSON: <html>"),
    ):
        model_servers.misbehave(url, fault)
        with pytest.raises(ServerError, match=message) as caught:
            tokens(servers)
        assert caught.value.refused
        assert model_servers.counts(url)["requests"] == 1
    assert naps == []


def test_a_server_that_takes_too_long_is_given_up(model_servers, naps):
    (url,) = model_servers.urls["student"]
    model_servers.misbehave(url, "slow", seconds=5.0)
    start = time.monotonic()
    with pytest.raises(ServerError, match=r"did not answer within 0\.2 s") as caught:
        tokens(Servers([url], timeout=0.2, retries=1))
    assert time.monotonic() - start < 4
    assert caught.value.slow
    assert not caught.value.refused
    assert len(naps) == 1


def test_servers_are_asked_in_turn_and_a_dead_one_is_left_alone(model_servers, naps, nowhere):
    first, second = model_servers.urls["math"]
    servers = Servers([first, nowhere, second], connect_timeout=1.0)
    model_servers.behave()
    assert [tokens(servers) for _ in range(20)] == [5] * 20
    counts = [model_servers.counts(url)["requests"] for url in (first, second)]
    assert sum(counts) == 20
    assert min(counts) >= 6
    assert set(servers._rests) == {nowhere}
    assert naps == []  # there was always another one to ask
    assert tokens(servers, url=first) == 5
    assert model_servers.counts(first)["requests"] == counts[0] + 1
    with pytest.raises(ServerError, match="cannot be reached"):
        tokens(servers, url=nowhere)


def test_a_server_that_comes_back_is_asked_again(model_servers, naps, monkeypatch):
    first, second = model_servers.urls["math"]
    servers = Servers([first, second])
    model_servers.misbehave(first, "drop")
    for _ in range(4):
        tokens(servers)
    assert model_servers.counts(first)["requests"] == 1  # then it rests
    model_servers.behave()
    now = time.monotonic() + 6
    monkeypatch.setattr("lit_uniopd.utils.http.time.monotonic", lambda: now)
    for _ in range(4):
        tokens(servers)
    assert model_servers.counts(first)["requests"] == 2


def test_a_server_that_dies_while_it_is_asked(model_dirs, naps):
    dying = ModelServers([("student", model_dirs["student"])])
    (url,) = dying.all
    servers = Servers([url], retries=1)
    assert tokens(servers) == 5
    dying.misbehave(url, "slow", seconds=60.0)
    killer = threading.Timer(0.3, dying.close)
    killer.start()
    with pytest.raises(ServerError, match=r"broke off|cannot be reached"):
        tokens(servers)
    killer.join()


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "ftp://host"])
def test_addresses_that_are_none_are_refused(url):
    with pytest.raises(UserError, match="must begin with http:// or https:// and name a host"):
        Servers([url])
    with pytest.raises(UserError, match="at least one server"):
        Servers([])


def test_a_proxy_is_used_where_the_environment_names_one(model_servers, monkeypatch, nowhere):
    (url,) = model_servers.urls["student"]
    monkeypatch.setenv("http_proxy", nowhere)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert tokens(Servers([url])) == 5
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ServerError, match="cannot be reached"):
        tokens(Servers([url], retries=0))


def test_timeouts_and_proxies_that_cannot_be_used_are_refused_at_once(monkeypatch):
    with pytest.raises(UserError, match=r"read timeout to 0.*; check the timeouts"):
        Servers(["http://host"], timeout=0.0)
    monkeypatch.setenv("http_proxy", "socks5://proxy:1080")
    with pytest.raises(UserError, match=r"unsupported scheme socks5.*check the timeouts and the environment's proxy"):
        Servers(["http://host"])


def test_the_fixture_speaks_as_vllm_does(model_servers, model_dirs):
    """Shapes as in vLLM's protocol; numbers as by transformers."""
    (url,) = model_servers.urls["student"]
    student, ids = Served("student", model_dirs["student"]), [1, 30, 31, 32]
    body = {"model": "student", "prompt": [ids, ids[:2]], "max_tokens": 2, "prompt_logprobs": 1, "logprobs": 0}
    reply = Servers([url]).post("/v1/completions", {**body, "temperature": 0, "return_token_ids": True})
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    long, short = (choice["prompt_logprobs"] for choice in reply["choices"])
    assert long[0] is None
    assert (len(long), len(short)) == (4, 2)
    expected = student.logits(ids).log_softmax(-1)
    for place, entry in enumerate(long[1:]):
        assert 1 <= len(entry) <= 2  # the prompt's token and the best, which may be the same
        assert entry[str(ids[place + 1])]["logprob"] == pytest.approx(float(expected[place, ids[place + 1]]), abs=1e-5)
        assert any(token["rank"] == 1 for token in entry.values())
    first = reply["choices"][0]
    assert first["token_ids"][0] == int(expected[-1].argmax())
    assert first["logprobs"]["token_logprobs"][0] == pytest.approx(float(expected[-1].max()), abs=1e-5)
    with pytest.raises(ServerError, match=r"404.*does not exist"):
        Servers([url]).post("/v1/completions", {**body, "model": "other"})
    with pytest.raises(ServerError, match=r"400.*max_tokens"):
        Servers([url]).post("/v1/completions", {**body, "max_tokens": 0})
    assert Servers([url]).get("/v1/models")["data"][0]["id"] == "student"


def test_the_fixture_speaks_as_sglang_does(model_servers, model_dirs):
    (url,) = model_servers.urls["student"]
    student, ids = Served("student", model_dirs["student"]), [1, 30, 31, 32]
    body = {"input_ids": ids, "return_logprob": True, "logprob_start_len": 1, "sampling_params": {"max_new_tokens": 0}}
    meta = Servers([url]).post("/generate", {**body, "return_text_in_logprobs": True})["meta_info"]
    expected = student.logits(ids).log_softmax(-1)
    first, *others = meta["input_token_logprobs"]
    assert first == [None, 30, student.name_of(30)]
    assert others == [
        [pytest.approx(float(expected[t - 1, ids[t]]), abs=1e-5), ids[t], student.name_of(ids[t])] for t in (2, 3)
    ]
    rows = Servers([url]).post("/generate", {**body, "input_ids": [ids, ids[:3]], "logprob_start_len": [0, 2]})
    assert [len(row["meta_info"]["input_token_logprobs"]) for row in rows] == [4, 1]
    assert Servers([url]).get("/get_model_info")["model_path"] == model_dirs["student"]
    written = Servers([url]).post("/generate", {**body, "sampling_params": {"max_new_tokens": 3, "temperature": 0.0}})
    assert written["output_ids"][0] == int(torch.argmax(expected[-1]))
    assert len(written["meta_info"]["output_token_logprobs"]) == len(written["output_ids"])


class Hasty(BaseHTTPRequestHandler):
    """Keeps connections, but none that is idle for long."""

    protocol_version = "HTTP/1.1"
    timeout = 0.1

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_connections_that_the_server_has_closed_meanwhile_are_replaced_without_an_error(naps, monkeypatch):
    """As uvicorn does after 5 s, and steps are longer than that."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hasty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    opened = []
    connect = HTTPConnection.connect
    monkeypatch.setattr(HTTPConnection, "connect", lambda connection: opened.append(connection) or connect(connection))
    servers = Servers([f"http://127.0.0.1:{server.server_port}"], retries=0)
    options: dict[str, Any] = {"retries": 1}
    assert [servers.get("/", **options) for _ in range(3)] == [{}] * 3
    assert len(opened) == 1
    threading.Event().wait(0.5)  # time.sleep takes no time here
    assert servers.get("/", **options) == {}
    assert len(opened) == 2
    assert naps == []
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("collecting", [True, False])
def test_large_replies_are_read_without_the_garbage_collector_which_stays_as_it_was(collecting):
    collections: list[str] = []
    gc.callbacks.append(lambda phase, info: collections.append(phase))
    was = gc.isenabled()
    try:
        gc.enable() if collecting else gc.disable()
        text = json.dumps([[i, 0.5, None] for i in range(20_000)]).encode()
        collections.clear()
        with collector_paused():
            assert json.loads(text)[-1] == [19_999, 0.5, None]
        assert collections == []
        assert gc.isenabled() == collecting
        with pytest.raises(ValueError, match="Expecting"), collector_paused():
            json.loads(b"<html>")
        assert gc.isenabled() == collecting
    finally:
        gc.callbacks.pop()
        gc.enable() if was else gc.disable()
