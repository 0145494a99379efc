"""Start model servers in a process of their own, and make them misbehave."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen


class ModelServers:
    """A process of `model_server.py`; each (name, directory) has an address of its own.

    Args:
        models: names and directories, each perhaps with `@PORT`.
        script: another server with the same interface.
        options: of the script.
    """

    def __init__(
        self, models: list[tuple[str, str]], script: str = "model_server.py", options: tuple[str, ...] = ()
    ) -> None:
        path = Path(__file__).with_name(script)
        self.process = subprocess.Popen(
            [sys.executable, str(path), *options, *(f"{name}={directory}" for name, directory in models)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        ports = json.loads(self.process.stdout.readline())["ports"]
        self.all = [f"http://127.0.0.1:{port}" for port in ports]
        self.urls: dict[str, list[str]] = {}
        for (name, _), url in zip(models, self.all, strict=True):
            self.urls.setdefault(name, []).append(url)

    def misbehave(self, url: str, fault: str, times: int = -1, seconds: float = 0.0) -> None:
        """Make the next requests to a server go wrong (-1: all), and count them from now on."""
        self.tell(url, "/misbehave", {"fault": fault, "times": times, "seconds": seconds})

    def tell(self, url: str, path: str, body: dict[str, Any]) -> None:
        """Send a request and drop the answer."""
        with urlopen(Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}), timeout=60):
            pass

    def behave(self) -> None:
        for url in self.all:
            self.misbehave(url, "", times=0)

    def counts(self, url: str) -> dict[str, Any]:
        """Requests since the last ``misbehave``: their number (``requests``), and how many came at once (``most_at_once``)."""
        with urlopen(f"{url}/counts", timeout=60) as reply:
            return json.load(reply)

    def close(self) -> None:
        """End the process, as a crash would."""
        self.process.kill()
        self.process.communicate()
