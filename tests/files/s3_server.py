"""A local S3 server, of moto, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

BUCKET = "runs"
_START_SECS = 60.0


class S3Server(NamedTuple):
    """A server with one empty bucket; s3fs finds it by the environment variables."""

    environment: dict[str, str]
    pid: int


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _START_SECS
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < deadline, "no S3 server"
            time.sleep(0.1)
        environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        _make_bucket(environment)
        yield S3Server(environment, process.pid)
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def _make_bucket(environment: dict[str, str]) -> None:
    """In a process of its own: the libraries of S3 read the variables when they are imported."""
    program = f"import s3fs; s3fs.S3FileSystem().mkdir({BUCKET!r})"
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, **environment})
