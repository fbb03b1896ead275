"""A real TensorBoard server shows the events of a run."""

from __future__ import annotations

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

import pytest

from tests.cli.command import mtfrun_here, succeeded, tiny_experiment


class _Server:
    """TensorBoard's answers over HTTP."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/data/plugin"

    def get(self, path: str, **query: str) -> Any:
        """Returns the JSON of a page."""
        url = f"{self._base}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)

    def wait_for(self, path: str, runs: set[str]) -> Any:
        """Returns the JSON of a page about runs, once all of them are in it."""
        for _ in range(240):
            try:
                page = self.get(path)
                if runs <= set(page):
                    return page
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.25)
        raise AssertionError(f"TensorBoard never showed {runs}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of two steps, whose evaluation decodes a sample."""
    run = tmp_path_factory.mktemp("runs") / "run"
    flags = tiny_experiment(tmp_path_factory.mktemp("texts"))
    samples = '--gin.Samples.prompts=["the "]'
    succeeded(mtfrun_here("train", *flags, samples, f"--model_dir={run}"))
    return run


@pytest.fixture(scope="module")
def server(run: pathlib.Path) -> Iterator[_Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tensorboard.main", "--logdir", str(run)),
            *("--port", str(port), "--host=127.0.0.1"),
        ],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield _Server(port)
    finally:
        process.terminate()
        process.wait()


def test_train_and_eval_have_the_same_tags(server: _Server) -> None:
    tags = server.wait_for("scalars/tags", {"train", "eval"})
    assert set(tags["train"]) >= {
        "loss",
        "accuracy",
        "perplexity",
        "learning_rate",
        "grad_norm",
        "perf/steps_per_sec",
        "perf/tokens_per_sec",
    }
    assert set(tags["eval"]) >= {"loss", "accuracy", "perplexity", "bits_per_byte"}


def test_curves_have_the_values_that_eval_prints(server: _Server, run: pathlib.Path) -> None:
    server.wait_for("scalars/tags", {"train", "eval"})
    points = server.get("scalars/scalars", run="train", tag="loss")
    assert [step for _, step, _ in points] == [1, 2]
    (shown,) = server.get("scalars/scalars", run="eval", tag="bits_per_byte")
    (printed,) = succeeded(mtfrun_here("eval", f"--model_dir={run}"))
    assert shown[1] == printed["step"] == 2
    assert shown[2] == pytest.approx(printed["bits_per_byte"], rel=1e-5)


def test_configuration_command_and_samples_are_shown_as_text(server: _Server) -> None:
    tags = server.wait_for("text/tags", {"train", "eval"})
    assert set(tags["train"]) == {"config", "operative_config", "command"}
    assert tags["eval"] == ["samples"]
    (config,) = server.get("text/text", run="train", tag="operative_config")
    assert "TrainOptions.train_steps = %TRAIN_STEPS" in config["text"]
    (command,) = server.get("text/text", run="train", tag="command")
    assert "mtfrun train --gin_file=defaults.gin" in command["text"]
    samples = server.get("text/text", run="eval", tag="samples")
    assert "<strong>the </strong>" in samples[0]["text"] or "the " in samples[0]["text"]
