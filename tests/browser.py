"""Pages in a headless Chromium, for tests of what the program shows in a browser."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import time
from typing import Any, BinaryIO

import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
needs_browser = pytest.mark.skipif(_CHROMIUM is None, reason="needs Chromium")

_SECS = 60  # to wait for a condition


def open_page(url: str, directory: pathlib.Path, *, until: str) -> str:
    """Returns a page as it is when a JavaScript expression holds; its console must have no error.

    Chromium is controlled by the DevTools protocol over two pipes, its file descriptors 3 and 4
    (https://chromedevtools.github.io/devtools-protocol/): messages of JSON that end with a zero.
    """
    read_end, commands = os.pipe()
    answers, write_end = os.pipe()
    program = [
        *(str(_CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"),
        *(f"--user-data-dir={directory / 'user'}", "--enable-logging=stderr"),
        *("--window-size=1200,3000", "--remote-debugging-pipe"),
    ]
    log = directory / "chromium.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read_end} 4>&{write_end}', "bash", *program],
            pass_fds=(read_end, write_end),
            stderr=stderr,
        )
    os.close(read_end)
    os.close(write_end)
    try:
        with os.fdopen(commands, "wb", 0) as to_browser, os.fdopen(answers, "rb") as from_browser:
            text = _text_of(_Tab(to_browser, from_browser, url), until)
    finally:
        process.kill()
        process.wait()
    console = [line for line in log.read_text("utf-8").splitlines() if "CONSOLE" in line]
    assert not [line for line in console if "Uncaught" in line or "Content Security" in line]
    return text


class _Tab:
    """A page in the browser."""

    def __init__(self, to_browser: BinaryIO, from_browser: BinaryIO, url: str) -> None:
        self._to_browser = to_browser
        self._from_browser = from_browser
        self._number = 0
        self._session: dict[str, str] = {}
        target = self._ask("Target.createTarget", url=url)["targetId"]
        session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}

    def value(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _ask(self, method: str, **params: object) -> dict[str, Any]:
        self._number += 1
        request = {"id": self._number, "method": method, "params": params, **self._session}
        self._to_browser.write(json.dumps(request).encode() + b"\0")
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self._number:
                result: dict[str, Any] = answer["result"]
                return result

    def _message(self) -> bytes:
        content = bytearray()
        while (byte := self._from_browser.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            content += byte
        return bytes(content)


def _text_of(tab: _Tab, until: str) -> str:
    end = time.monotonic() + _SECS
    while not tab.value(f"Boolean({until})"):
        assert time.monotonic() < end, tab.value("document.documentElement.outerHTML")
        time.sleep(0.1)
    text: str = tab.value("document.documentElement.outerHTML")
    return text
