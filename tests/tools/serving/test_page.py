"""The page in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import math
import pathlib
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import uvicorn

from mtfrun.tools.serving.app import make_app
from mtfrun.tools.serving.generation import Generation, Limits
from mtfrun.tools.serving.served_model import Piece, Token
from tests.browser import needs_browser, open_page


class _Echo:
    """A model that continues a prompt with its words, one at a time."""

    name, step, adapter, engine = "echo", 3, "formal", None
    features = ("chat", "logprobs")

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
            token = Token(f"<b>{word}</b> ", math.log(0.25))
            yield Piece(0, token.text, 1, [token], None)
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
@needs_browser
def test_a_browser_shows_what_is_decoded(tmp_path: pathlib.Path) -> None:
    with _server() as port:
        shown = open_page(f"http://127.0.0.1:{port}/#one%20two", tmp_path, secs=5)
    parts = re.findall(r'<span title="(.*?): 25.0 %">(.*?)</span>', shown)
    assert [text for _, text in parts] == ["&lt;b&gt;one&lt;/b&gt; ", "&lt;b&gt;two&lt;/b&gt; "]
    assert "access token" in shown and '<p id="modes">' in shown
    assert "echo, step 3, adapter formal" in shown and "2 tokens in" in shown
