"""Pages in a headless Chromium, for tests of what the program shows in a browser."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
needs_browser = pytest.mark.skipif(_CHROMIUM is None, reason="needs Chromium")


def open_page(url: str, directory: pathlib.Path, *, secs: int) -> str:
    """Returns a page as it is after so many seconds; its console must have no error."""
    shown = subprocess.run(
        [
            *(str(_CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={directory / 'user'}", "--enable-logging=stderr"),
            *("--window-size=1200,3000", f"--virtual-time-budget={1000 * secs}"),
            *("--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shown.returncode == 0, shown.stderr
    console = [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if "Uncaught" in line or "Content Security" in line]
    return shown.stdout
