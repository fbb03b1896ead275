"""Controls of decoding on the command line."""

from __future__ import annotations

import pathlib

import pytest

from tests.cli.command import error_line, mtfrun_here, succeeded

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--stop="], "Controls.stop is ('',): it must be a list of texts"),
        (["--log_probs=-1"], "--log_probs=-1 must be at least 0"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    language_model_run: pathlib.Path, flags: list[str], complaint: str
) -> None:
    run = f"--model_dir={language_model_run}"
    assert complaint in error_line(mtfrun_here("decode", run, "--prompt=a", *flags))
