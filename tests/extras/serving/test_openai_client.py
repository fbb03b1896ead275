"""Clients of the server: that of OpenAI, and the page."""

from __future__ import annotations

import asyncio
import contextlib
import math
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import uvicorn

from mtfrun.experiment.inference.answers import LogProb
from mtfrun.extras.serving.app import make_app
from mtfrun.extras.serving.generation import Generation, Limits
from mtfrun.extras.serving.served_model import Piece
from tests.browser import needs_browser, open_page
from tests.cli.command import environment, mtfrun_here, succeeded
from tests.extras.serving.tiny_models import run_server

openai = pytest.importorskip("openai")

_FLAGS = [
    *("--gin_file=defaults.gin", "--gin_file=models/lm_tiny.gin", "--gin_file=data/text_files.gin"),
    *("--gin.TRAIN_STEPS=2", "--gin.EVAL_AT_START=False", "--gin.SEQUENCE_LENGTH=64"),
    *("--gin.BATCH_SIZE=2", "--gin.Evaluation.max_batches=1", "--gin.NUM_LAYERS=1"),
    "--gin.EVAL_EVERY=None",
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("the quick brown fox\n" * 2000)
    files = f"--gin.TEXT_FILES={str(folder / 'text.txt')!r}"
    process = mtfrun_here("train", *_FLAGS, files, f"--model_dir={folder / 'tiny'}")
    assert process.returncode == 0, process.stderr.decode()
    return folder / "tiny"


@contextlib.contextmanager
def _server(model_dir: pathlib.Path, **variables: str) -> Iterator[tuple[str, Any]]:
    words = [sys.executable, "-m", "mtfrun", "serve", f"--model_dir={model_dir}"]
    words += ["--port=0", "--places=2"]
    process = subprocess.Popen(
        words, env={**environment(), **variables}, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if match := re.search(r"http://\S+", line):
                yield match[0], process
                return
        raise AssertionError("".join(lines))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.mark.slow
def test_the_client_completes_and_streams(model_dir: pathlib.Path) -> None:
    words = ["--prompt=the ", "--decode_length=12", "--temperature=0"]
    (expected,) = succeeded(mtfrun_here("decode", f"--model_dir={model_dir}", *words))
    with _server(model_dir, MTFRUN_TOKEN="secret") as (url, process):
        client = openai.OpenAI(base_url=f"{url}v1", api_key="secret", max_retries=0)
        request = {"model": "tiny", "prompt": "the ", "max_tokens": 12, "temperature": 0}
        whole = client.completions.create(**request)
        parts = list(client.completions.create(**request, stream=True))
        assert whole.choices[0].text == expected["output"]
        assert "".join(part.choices[0].text for part in parts) == expected["output"]
        assert whole.usage.completion_tokens == expected["output_tokens"]
        beams = client.completions.create(**request, extra_body={"beam_size": 2})
        assert beams.choices[0].finish_reason in ("stop", "length")
        assert [model.id for model in client.models.list()] == ["tiny"]
        vectors = client.embeddings.create(model="tiny", input=["the ", "fox"]).data
        assert sum(x * x for x in vectors[1].embedding) == pytest.approx(1.0, abs=1e-4)
        with pytest.raises(openai.BadRequestError, match="max_tokens is 0"):
            client.completions.create(**{**request, "max_tokens": 0})
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert process.wait(60) == 128 + signal.SIGTERM
        assert time.monotonic() - begin < 30


class _Echo:
    """A model that continues a prompt with its words, one at a time."""

    name, step, adapter, engine = "echo", 3, "formal", None
    features = ("chat", "logprobs")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
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
            token = LogProb(0, f"<b>{word}</b> ", math.log(0.25))
            yield Piece(0, token.token, 1, [token], None)
        yield Piece(0, "", 0, (), "stop")


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_what_is_decoded(tmp_path: pathlib.Path) -> None:
    app = make_app(cast(Any, _Echo()), Limits(), None)
    with run_server(uvicorn.Config(app, log_config=None)) as port:
        url = f"http://127.0.0.1:{port}/#one%20two"
        shown = open_page(url, tmp_path, until="document.body.innerText.includes('tokens in')")
    parts = re.findall(r'<span title="(.*?): 25.0 %">(.*?)</span>', shown)
    assert [text for _, text in parts] == ["&lt;b&gt;one&lt;/b&gt; ", "&lt;b&gt;two&lt;/b&gt; "]
    assert "access token" in shown and '<p id="modes">' in shown
    assert "echo, step 3, adapter formal" in shown and "2 tokens in" in shown
