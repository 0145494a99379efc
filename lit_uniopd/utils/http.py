"""The HTTP client of judges, remote teachers and rollout servers: urllib3, and rounds of attempts over several servers.

urllib3's own `Retry` stays off: it repeats a request at one address, and its jitter would move the run's random state.
"""

import gc
import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProxyError, SSLError

from lit_uniopd.errors import UserError

PAUSE_S = 0.5
"""Before the second round; doubled for each further one."""
LONGEST_PAUSE_S = 30.0
REST_S = 5.0
"""How long a server that cannot be reached is skipped; doubled while it stays away."""
LONGEST_REST_S = 60.0


class ServerError(ConnectionError):
    """No server answered a request, or one refused it.

    Args:
        message: what happened, phrased to follow the server's address.
        status: HTTP status of its answer; None: there was none.
        slow: it did not answer in time.
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
        """Whether the request itself was at fault, so that repeating it is no use."""
        return self.status is not None and self.status < 500 and self.status not in (408, 429)


class Servers:
    """One or several servers that answer alike. Safe to use from many threads.

    A request goes to the next server in turn; if that one is busy, fails or cannot be reached, to the others, and after
    a pause to all of them again. A server that cannot be reached is skipped for a while.

    Args:
        urls: their addresses, `http://host:port`; a path in one is put before the path of every request.
        timeout: seconds that a server may take to answer.
        connect_timeout: seconds until a connection must stand.
        retries: further rounds when all have failed, each after about twice as long a pause.
        headers: sent with every request.

    Raises:
        UserError: if there is no address, or an address, a timeout or the environment's proxy is not valid.
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
        self._managers = {url: self._new_manager(url) for url in self.urls}
        self._rests: dict[str, tuple[float, float]] = {}  # server -> until when, and how long its next rest is
        self._next = 0
        self._lock = threading.Lock()
        self._random = random.Random()  # of its own: jitter must not move the run's seeds

    def get(self, path: str, *, url: str | None = None, retries: int | None = None) -> Any:
        """The answer to a GET request, parsed from JSON; None if it is empty.

        Args:
            path: begins with a slash.
            url: the one of the servers to ask; None: any.
            retries: in place of the servers' own.

        Raises:
            ServerError: if none answers, or one refuses.
        """
        return self._request("GET", path, None, url, retries)

    def post(self, path: str, body: Mapping[str, Any], *, url: str | None = None, retries: int | None = None) -> Any:
        """The answer to a POST request. Result and errors as in `get`.

        Args:
            path: begins with a slash.
            body: sent as JSON.
            url: the one of the servers to ask; None: any.
            retries: in place of the servers' own; 0: the request is sent once only, for what must not be done twice.
        """
        return self._request("POST", path, json.dumps(body).encode(), url, retries)

    def _request(self, method: str, path: str, payload: bytes | None, url: str | None, retries: int | None) -> Any:
        last_error = ServerError("was not asked")
        for attempt in range(1 + (self.retries if retries is None else retries)):
            if attempt:  # about as long as planned, so that many clients do not come back at once
                time.sleep(min(PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S) * (0.5 + self._random.random()))
            for server in self._in_turn() if url is None else [url.rstrip("/")]:
                try:
                    return self._exchange(server, method, path, payload, once=retries == 0)
                except ServerError as error:
                    last_error = error
                    if error.refused:
                        raise
        raise last_error

    def _in_turn(self) -> list[str]:
        """The servers that do not rest, beginning with the next; all if every one rests."""
        with self._lock:
            start, self._next = self._next, (self._next + 1) % len(self.urls)
        order, now = self.urls[start:] + self.urls[:start], time.monotonic()
        return [server for server in order if self._rests.get(server, (0.0, 0.0))[0] <= now] or order

    def _exchange(self, server: str, method: str, path: str, payload: bytes | None, *, once: bool) -> Any:
        # A new connection for what is sent once: the server may be closing an idle one at this moment.
        manager = self._new_manager(server) if once else self._managers[server]
        try:
            response = manager.urlopen(method, server + path, body=payload, redirect=False)
        except HTTPError as error:
            cause = error.__cause__ or error.__context__ or error
            unreachable = isinstance(error, NewConnectionError | ConnectTimeoutError | ProxyError | SSLError)
            if isinstance(cause, TimeoutError) and not unreachable:
                raise ServerError(f"did not answer within {self.timeout:g} s", slow=True) from error
            with self._lock:
                now = time.monotonic()
                until, seconds = self._rests.get(server, (0.0, REST_S))
                if until <= now:  # many requests that fail together count once
                    self._rests[server] = (now + seconds, min(2 * seconds, LONGEST_REST_S))
            event = "cannot be reached" if unreachable else "broke off"
            raise ServerError(f"{event} ({type(cause).__name__}: {cause})", unreachable=unreachable) from error
        self._rests.pop(server, None)
        if not 200 <= response.status < 300:
            message = f"answers {response.status} {response.reason}{_excerpt(response.data)}"
            raise ServerError(message, status=response.status)
        try:
            with collector_paused():
                return json.loads(response.data) if response.data else None
        except ValueError as error:
            raise ServerError(f"does not answer in JSON{_excerpt(response.data)}", status=response.status) from error

    def _new_manager(self, server: str) -> urllib3.PoolManager:
        """Connections to a server, through the proxy that the environment names for it; urllib3 itself reads none."""
        address = urlsplit(server)
        proxy = "" if proxy_bypass(address.netloc) else getproxies().get(address.scheme, "")
        try:
            timeout = urllib3.Timeout(connect=self.connect_timeout, read=self.timeout)
            # maxsize: idle connections that are kept, one for every thread of a caller.
            options: Any = {"headers": self.headers, "timeout": timeout, "retries": False, "maxsize": 256}
            if proxy:
                return urllib3.ProxyManager(proxy if "//" in proxy else f"http://{proxy}", **options)
            return urllib3.PoolManager(**options)
        except ValueError as error:  # a timeout of 0, or a SOCKS proxy
            raise UserError(
                f"The server {server} cannot be asked ({error}); check the timeouts and the environment's proxy."
            ) from error


@contextmanager
def collector_paused() -> Iterator[None]:
    """Read a long reply without garbage collection.

    It is many lists and no garbage, and the collector would look through all of them again and again.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:  # another thread that reads at this moment is slower then, no more
            gc.enable()


def _excerpt(content: bytes) -> str:
    """The beginning of what a server answered, if anything."""
    text = " ".join(content.decode("utf-8", "replace").split())
    return f": {text[:200]}" if text else ""
