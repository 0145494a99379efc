"""Asking servers over HTTP: kept connections, time-outs, repeated attempts, several servers in turn.

The one HTTP client of the project: judges, remote teachers and rollout servers are asked through it. It stands on the
standard library: the blocking clients that our dependencies bring differ from version to version.
"""

import http.client
import json
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from lit_uniopd.errors import UserError

PAUSE_S = 0.5
"""Before the second attempt; doubled for each further one."""
LONGEST_PAUSE_S = 30.0
REST_S = 5.0
"""How long a server that cannot be reached is left alone; doubled while it stays away."""
LONGEST_REST_S = 60.0


class ServerError(ConnectionError):
    """No server answered a request, or one refused it.

    Args:
        message: what happened, to go on with behind the server's address.
        status: HTTP status of its answer; None: there was none.
        slow: the time was over before it answered.
        unreachable: there was not even a connection.
    """

    def __init__(
        self, message: str, *, status: int | None = None, slow: bool = False, unreachable: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.slow = slow
        self.unreachable = unreachable

    @property
    def refused(self) -> bool:
        """Whether the request itself was at fault, so that asking again is no use."""
        return self.status is not None and self.status < 500 and self.status not in (408, 429)


class Servers:
    """One or several servers that answer alike. Safe to use from many threads.

    A request goes to the next server in turn. If that is busy, fails or cannot be reached, the others are asked, and
    after a pause all of them again. A server that cannot be reached is left alone for a while.

    Args:
        urls: where they are, `http://host:port`, each perhaps with a path that all requests begin with.
        timeout: seconds that a server may take to answer.
        connect_timeout: seconds until a connection must stand.
        retries: further rounds when all have failed, each after about twice as long a pause.
        headers: sent with every request.

    Raises:
        UserError: if there is no address, or one is none.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout: float = 120.0,
        connect_timeout: float = 10.0,
        retries: int = 4,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not urls:
            raise UserError("Give the address of at least one server.")
        for url in urls:
            if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
                raise UserError(f"The server's address {url} must begin with http:// or https:// and name a host.")
        self.urls = [url.rstrip("/") for url in urls]
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.retries = retries
        self.headers = {"Content-Type": "application/json", **(headers or {})}
        self._idle: dict[str, deque[http.client.HTTPConnection]] = {url: deque() for url in self.urls}
        self._rests: dict[str, tuple[float, float]] = {}  # until when, and how long the next rest is
        self._turn = 0
        self._lock = threading.Lock()
        self._random = random.Random()  # of its own: jitter must not move the run's seeds
        weakref.finalize(self, _close, self._idle)

    def get(self, path: str, *, url: str | None = None, retries: int | None = None) -> Any:
        """What is at a path, parsed from JSON; an empty answer is None.

        Args:
            path: begins with a slash.
            url: the one server to ask; None: any.
            retries: in place of the servers' own.

        Raises:
            ServerError: if none answers, or one refuses.
        """
        return self._ask("GET", path, None, url, retries)

    def post(self, path: str, body: Mapping[str, Any], *, url: str | None = None, retries: int | None = None) -> Any:
        """The answer to a request. Arguments and errors as in `get`.

        Args:
            path: begins with a slash.
            body: what to send, as JSON.
            url: the one server to ask; None: any.
            retries: in place of the servers' own; 0: the request is sent once only, for what must not be done twice.
        """
        return self._ask("POST", path, json.dumps(body).encode(), url, retries)

    def close(self) -> None:
        """Close the connections that are kept; the next request opens new ones."""
        _close(self._idle)

    def _ask(self, method: str, path: str, payload: bytes | None, url: str | None, retries: int | None = None) -> Any:
        rounds = 1 + (self.retries if retries is None else retries)
        problem = ServerError("was not asked")
        for attempt in range(rounds):
            for server in [url.rstrip("/")] if url is not None else self._in_turn():
                try:
                    return self._exchange(server, method, path, payload, once=retries == 0)
                except ServerError as error:
                    problem = error
                    if error.refused:
                        raise
            if attempt < rounds - 1:
                time.sleep(self._pause(attempt))
        raise problem

    def _in_turn(self) -> Iterator[str]:
        """The servers that are not left alone, beginning with the next; all if there are none."""
        with self._lock:
            first, self._turn = self._turn, (self._turn + 1) % len(self.urls)
        order = self.urls[first:] + self.urls[:first]
        now = time.monotonic()
        awake = [server for server in order if self._rests.get(server, (0.0, 0.0))[0] <= now]
        yield from awake or order

    def _pause(self, attempt: int) -> float:
        """Between half and one and a half times the nominal pause, so that many clients do not come back at once."""
        return min(PAUSE_S * 2**attempt, LONGEST_PAUSE_S) * (0.5 + self._random.random())

    def _exchange(self, server: str, method: str, path: str, payload: bytes | None, *, once: bool) -> Any:
        """Ask one server once; a kept connection that it has closed meanwhile is no failure."""
        while True:
            kept = None if once else self._kept(server)
            connection = kept or self._connected(server)
            try:
                status, reason, content = self._send(connection, urlsplit(server).path + path, method, payload)
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if kept is not None and isinstance(error, ConnectionError | http.client.BadStatusLine):
                    continue
                if isinstance(error, TimeoutError):
                    raise ServerError(f"did not answer within {self.timeout:g} s", slow=True) from error
                self._leave_alone(server)
                raise ServerError(f"broke off ({_told(error)})") from error
        if connection.sock is not None:
            self._idle.setdefault(server, deque()).append(connection)
        self._rests.pop(server, None)
        if not 200 <= status < 300:
            raise ServerError(f"answers {status} {reason}{_excerpt(content)}", status=status)
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise ServerError(f"does not answer in JSON{_excerpt(content)}", status=status) from error

    def _kept(self, server: str) -> http.client.HTTPConnection | None:
        try:
            return self._idle[server].pop()
        except (KeyError, IndexError):  # another thread may have taken the last one
            return None

    def _connected(self, server: str) -> http.client.HTTPConnection:
        parts = urlsplit(server)
        host = parts.hostname or ""
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        proxy = "" if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme, "")
        if proxy:
            through = urlsplit(proxy if "//" in proxy else f"//{proxy}")
            connection = kind(through.hostname or "", through.port, timeout=self.connect_timeout)
            connection.set_tunnel(host, parts.port)
        else:
            connection = kind(host, parts.port, timeout=self.connect_timeout)
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._leave_alone(server)
            raise ServerError(f"cannot be reached ({_told(error)})", unreachable=True) from error
        connection.sock.settimeout(self.timeout)
        return connection

    def _send(
        self, connection: http.client.HTTPConnection, path: str, method: str, payload: bytes | None
    ) -> tuple[int, str, bytes]:
        connection.request(method, path, body=payload, headers=self.headers)
        reply = connection.getresponse()
        return reply.status, reply.reason, reply.read()

    def _leave_alone(self, server: str) -> None:
        with self._lock:
            now = time.monotonic()
            until, rest = self._rests.get(server, (0.0, REST_S))
            if until <= now:  # many requests that fail together count once
                self._rests[server] = (now + rest, min(2 * rest, LONGEST_REST_S))
        while (connection := self._kept(server)) is not None:
            connection.close()


def _close(idle: dict[str, deque[http.client.HTTPConnection]]) -> None:
    for connections in idle.values():
        while connections:
            connections.pop().close()


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _excerpt(content: bytes) -> str:
    """The beginning of what a server says, where it says anything."""
    said = " ".join(content.decode("utf-8", "replace").split())
    return f": {said[:200]}" if said else ""
