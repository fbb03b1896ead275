"""Prompt files of any bytes: one output for each, in order, or no output file."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.cli.command import error_line, full_disk, mtfrun_here, succeeded


def test_an_empty_file_gives_an_empty_file(quick_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    output = tmp_path / "answers.jsonl"
    flags = [f"--model_dir={quick_run}", f"--input={tmp_path}/empty", f"--output={output}"]
    succeeded(mtfrun_here("decode", *flags))
    assert output.read_bytes() == b""


@pytest.mark.slow
def test_n_best_outputs_come_best_first(quick_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"input": "the "}\n"quick"\n')
    flags = ["--beam_size=4", "--num_outputs=3", f"--input={tmp_path}/prompts.jsonl"]
    answers = succeeded(mtfrun_here("decode", f"--model_dir={quick_run}", *flags))
    assert [answer["prompt"] for answer in answers] == ["the ", "quick"]
    for answer in answers:
        scores = [output["score"] for output in answer["outputs"]]
        assert 1 <= len(scores) <= 3 and scores == sorted(scores, reverse=True)
        assert answer["output"] == answer["outputs"][0]["text"]


def test_an_interactive_session_answers_line_by_line(quick_run: pathlib.Path) -> None:
    process = mtfrun_here("decode", f"--model_dir={quick_run}", "--interactive", stdin=b"a\nb\n")
    assert process.returncode == 0, process.stderr.decode()
    assert process.stdout.count(b"\n") == 2 and process.stderr.count(b"> ") == 3


@pytest.mark.parametrize("command", ["decode", "score"])
def test_output_that_cannot_be_written_is_an_error_before_anything_is_decoded(
    language_model_run: pathlib.Path, command: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "input.tsv").write_text("a\tb\n")
    flags = [f"--model_dir={language_model_run}", f"--input={tmp_path}/input.tsv"]
    # A path below a file cannot exist; permissions would not stop root.
    output = tmp_path / "input.tsv" / "output"
    line = error_line(mtfrun_here(command, *flags, f"--output={output}"))
    assert line.startswith(f"mtfrun: error: cannot write {output}: ")


def test_a_full_disk_leaves_the_old_file(quick_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "prompts").write_text("a\n" * 100)
    output = tmp_path / "answers.jsonl"
    output.write_text("old\n")
    flags = [f"--model_dir={quick_run}", f"--input={tmp_path}/prompts", f"--output={output}"]
    with full_disk(8192):
        process = mtfrun_here("decode", *flags)
    assert process.returncode == 2
    # The record of the command may be too large as well, which is a warning.
    *_, line = process.stderr.decode().splitlines()
    assert line.startswith(f"mtfrun: error: cannot write {output}: File too large")
    assert output.read_text() == "old\n"
    assert not list(tmp_path.glob(".answers.jsonl.*"))


LONG = 1_000_000
# Lines, with the input and the target of each.
TSV = {
    b"the quick \tbrown\n": (b"the quick ", b"brown"),
    b"\t\x00\n": (b"", b"\x00"),
    b"%s\tfox\n" % (b"x" * LONG): (b"x" * LONG, b"fox"),
    b"fox\t%s\n" % (b"y" * LONG): (b"fox", b"y" * LONG),
    b"a\t\n": (b"a", b""),
    b"\n": (b"", b""),
    b"\t\n": (b"", b""),
    b"no tab\n": (b"", b"no tab"),
    b"\xff\xfe\t\x80\n": (b"\xff\xfe", b"\x80"),
    b"dos\tend\r\n": (b"dos", b"end"),
    "a\u2028b\tc\x0cd\n".encode(): ("a\u2028b".encode(), b"c\x0cd"),
    b"no final\tnewline": (b"no final", b"newline"),
}
JSONL = {
    rb'{"input": "a\tb", "target": "c\nd"}' + b"\r\n": (b"a\tb", b"c\nd"),
    b'{"target": "alone"}\n': (b"", b"alone"),
    b'{"inputs": "", "targets": "", "more": [[[]]]}\n': (b"", b""),
    rb'{"prompt": "\u0000", "output": "\u2028"}' + b"\n": (b"\x00", "\u2028".encode()),
    # Half of a pair of surrogates is no text: its bytes are no UTF-8.
    rb'{"input": "\ud800", "target": "x"}' + b"\n": (b"\xed\xa0\x80", b"x"),
    b'{"input": "%s", "target": "y"}\n' % (b"x" * LONG): (b"x" * LONG, b"y"),
    b'{"input": "no final", "target": "newline"}': (b"no final", b"newline"),
}
PAIRS_FILES = {"pairs.tsv": TSV, "pairs.jsonl": JSONL}


def _counts(kind: str, prompt: bytes, target: bytes) -> tuple[int, int]:
    """Returns the number of tokens that are scored, and of those that are truncated."""
    if kind == "encoder-decoder":
        # 24 tokens of each, the ends among them.
        read, scored = min(len(prompt), 23), min(len(target), 23)
    else:
        # 32 tokens together: the input is truncated before the target.
        scored = min(len(target), 31)
        read = min(len(prompt), 31 - scored)
    return scored + 1, len(prompt) - read + len(target) - scored


# By default test_foreign_checkpoints.py has scores of an encoder-decoder.
@pytest.mark.parametrize(
    ("tiny_run", "name"),
    [
        ("language model", "pairs.jsonl"),
        ("language model", "pairs.tsv"),
        pytest.param("encoder-decoder", "pairs.tsv", marks=pytest.mark.slow),
        pytest.param("encoder-decoder", "pairs.jsonl", marks=pytest.mark.slow),
    ],
    indirect=["tiny_run"],
)
def test_every_line_gets_one_score_in_order(
    name: str, tiny_run: pathlib.Path, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    pairs = list(PAIRS_FILES[name].values())
    (tmp_path / name).write_bytes(b"".join(PAIRS_FILES[name]))
    output = tmp_path / "scores.jsonl"
    flags = [f"--model_dir={tiny_run}", f"--input={tmp_path}/{name}", f"--output={output}"]
    assert succeeded(mtfrun_here("score", *flags)) == []
    scores = [json.loads(line) for line in output.read_bytes().splitlines()]
    texts = [tuple(text.decode("utf-8", "replace") for text in pair) for pair in pairs]
    assert [(score["input"], score["target"]) for score in scores] == texts
    kind = request.node.callspec.params["tiny_run"]
    counts = [(score["tokens"], score["truncated_tokens"]) for score in scores]
    assert counts == [_counts(kind, *pair) for pair in pairs]
    assert all(score["log_likelihood"] < 0 for score in scores)


def test_no_pairs_give_no_scores(language_model_run: pathlib.Path) -> None:
    assert succeeded(mtfrun_here("score", f"--model_dir={language_model_run}", "--input=-")) == []
