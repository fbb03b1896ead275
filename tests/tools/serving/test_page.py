"""The page in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import uvicorn

from mtfrun.tools.serving.app import make_app
from mtfrun.tools.serving.generation import Generation, Limits
from mtfrun.tools.serving.served_model import Piece

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


class _Echo:
    """A model that continues a prompt with its words, one at a time."""

    name, step, engine = "echo", 3, None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        yield

    @property
    def is_running(self) -> bool:
        return True

    async def prepare(self, generation: Generation) -> Any:
        class Prepared:
            prompt_tokens = 2
            rows = generation.prompts

        prepared = Prepared()
        cast(Any, prepared).generation = generation
        return prepared

    async def outputs(self, prepared: Any) -> AsyncIterator[Piece]:
        words = prepared.generation.prompts[0].split()
        for word in words:
            await asyncio.sleep(0.01)
            yield Piece(0, f"<b>{word}</b> ", 1, (), None)
        yield Piece(0, "", 0, (), "stop")


@contextlib.contextmanager
def _server() -> Iterator[int]:
    app = make_app(cast(Any, _Echo()), Limits(), None)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_what_is_decoded(tmp_path: pathlib.Path) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    with _server() as port:
        shown = subprocess.run(
            [
                *(str(CHROMIUM), *flags, "--enable-logging=stderr", "--virtual-time-budget=5000"),
                *("--dump-dom", f"http://127.0.0.1:{port}/#one%20two"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert shown.returncode == 0, shown.stderr
    console = [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if "Uncaught" in line or "Content Security" in line]
    assert '<span id="output">&lt;b&gt;one&lt;/b&gt; &lt;b&gt;two&lt;/b&gt; </span>' in shown.stdout
    assert "echo, step 3" in shown.stdout and "2 tokens in" in shown.stdout
