"""Controls of decoding on the command line."""

from __future__ import annotations

import pathlib

import pytest

from tests.cli.command import mtfrun_here, succeeded

WORDS = [
    "--gin_param=Search.controls = @decoding.Controls()",
    "--gin_param=Controls.constraints = [@decoding.ForcedWords()]",
    "--gin.ForcedWords.words=['dab', 'q']",
]


def test_outputs_follow_controls_and_have_log_probabilities(
    language_model_run: pathlib.Path,
) -> None:
    flags = ["--prompt=the ", "--temperature=1", "--num_outputs=8", "--decode_length=20"]
    controls = [*WORDS, "--stop=ab", "--stop=cc", "--log_probs=2"]
    run = f"--model_dir={language_model_run}"
    (answer,) = succeeded(mtfrun_here("decode", run, *flags, *controls))
    assert len({output["text"] for output in answer["outputs"]}) > 4
    for output in answer["outputs"]:
        text, log_probs = output["text"], output["log_probs"]
        assert "ab" not in text and "cc" not in text
        total = sum(token["log_prob"] for token in log_probs)
        assert output["score"] == pytest.approx(total, abs=1e-3)
        assert all(len(token["top"]) == 2 for token in log_probs)
        assert all(t["top"][0]["log_prob"] >= t["top"][1]["log_prob"] for t in log_probs)
