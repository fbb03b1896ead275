"""A TensorBoard server, and its answers over HTTP."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

# The two programs that read event files: TensorBoard's own, and the data server.
LOADERS = {"python": "--load_fast=false", "data server": "--load_fast=true"}


class TensorBoard:
    """TensorBoard's answers over HTTP."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/data/plugin"

    def get_bytes(self, path: str, body: dict[str, Any] | None = None, /, **query: str) -> bytes:
        """Returns the content of a page; with a body, of a POST request."""
        url = f"{self._base}/{path}?{urllib.parse.urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            content: bytes = response.read()
            return content

    def get(self, path: str, body: dict[str, Any] | None = None, /, **query: str) -> Any:
        """Returns the JSON of a page."""
        return json.loads(self.get_bytes(path, body, **query))

    def wait_for(self, path: str, runs: set[str]) -> Any:
        """Returns the JSON of a page about runs, once all of them are in it."""
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                page = self.get(path)
                if runs <= set(page):
                    return page
            time.sleep(0.25)
        raise AssertionError(f"TensorBoard never showed {runs}")


@contextlib.contextmanager
def serving(directory: pathlib.Path, loader: str) -> Iterator[TensorBoard]:
    """Runs TensorBoard on a directory, with one of `LOADERS`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tensorboard.main", "--logdir", str(directory)),
            *("--port", str(port), "--host=127.0.0.1", LOADERS[loader]),
        ],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield TensorBoard(port)
    finally:
        process.terminate()
        process.wait()
