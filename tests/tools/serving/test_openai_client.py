"""OpenAI's client talks to the command, over a socket."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.command import environment

openai = pytest.importorskip("openai")

pytestmark = pytest.mark.slow
_FLAGS = [
    *("--gin_file=defaults.gin", "--gin_file=models/lm_tiny.gin", "--gin_file=data/text_files.gin"),
    *("--gin.TRAIN_STEPS=2", "--gin.EVAL_AT_START=False", "--gin.SEQUENCE_LENGTH=64"),
    *("--gin.BATCH_SIZE=2", "--gin.Evaluation.max_batches=1", "--gin.NUM_LAYERS=1"),
]


def _mtfrun(*words: str) -> list[str]:
    return [sys.executable, "-m", "mtfrun", *words]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("the quick brown fox\n" * 2000)
    files = f"--gin.TEXT_FILES={str(folder / 'text.txt')!r}"
    words = _mtfrun("train", *_FLAGS, files, f"--model_dir={folder / 'tiny'}")
    subprocess.run(words, check=True, env=environment(), capture_output=True)
    return folder / "tiny"


@contextlib.contextmanager
def _server(model_dir: pathlib.Path, **variables: str) -> Iterator[tuple[str, Any]]:
    words = _mtfrun("serve", f"--model_dir={model_dir}", "--port=0", "--places=2")
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


def test_the_client_completes_and_streams(model_dir: pathlib.Path) -> None:
    words = ["--prompt=the ", "--decode_length=12", "--temperature=0"]
    decoded = subprocess.run(
        _mtfrun("decode", f"--model_dir={model_dir}", *words),
        env=environment(),
        capture_output=True,
        check=True,
    )
    expected = json.loads(decoded.stdout)
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
