"""Controls of decoding on the command line."""

from __future__ import annotations

import pathlib
import re

import pytest

from tests.cli.command import error_line, mtfrun_here, succeeded

REGEX = [
    "--gin_param=Search.controls = @decoding.Controls()",
    "--gin_param=Controls.constraints = [@decoding.Regex()]",
]


def test_outputs_follow_controls_and_have_log_probabilities(
    language_model_run: pathlib.Path,
) -> None:
    flags = ["--prompt=the ", "--temperature=1", "--num_outputs=8", "--decode_length=20"]
    controls = [*REGEX, "--gin.Regex.pattern='[a-c]+d'", "--stop=ab", "--stop=cc", "--log_probs=2"]
    run = f"--model_dir={language_model_run}"
    (answer,) = succeeded(mtfrun_here("decode", run, *flags, *controls))
    assert len({output["text"] for output in answer["outputs"]}) > 4
    for output in answer["outputs"]:
        text, log_probs = output["text"], output["log_probs"]
        assert output["finished"]
        assert re.fullmatch("[a-c]*d?", text) and not re.search("ab|cc", text)
        written = "".join(token["token"] for token in log_probs)
        assert written.startswith(text) and written.removeprefix(text) in ("", "ab", "cc")
        total = sum(token["log_prob"] for token in log_probs)
        assert output["score"] == pytest.approx(total, abs=1e-3)
        assert all(len(token["top"]) == 2 for token in log_probs)
        assert all(t["top"][0]["log_prob"] >= t["top"][1]["log_prob"] for t in log_probs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ([*REGEX, "--gin.Regex.pattern='('"], "decoding.Regex cannot use '('"),
        ([*REGEX, "--gin.Regex.pattern='^a'"], "without look-behind, back-references and anchors"),
        (["--stop="], "Controls.stop is ('',): it must be a list of texts"),
        (["--log_probs=-1"], "--log_probs=-1 must be at least 0"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    language_model_run: pathlib.Path, flags: list[str], complaint: str
) -> None:
    run = f"--model_dir={language_model_run}"
    assert complaint in error_line(mtfrun_here("decode", run, "--prompt=a", *flags))
