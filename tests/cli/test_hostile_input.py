"""Whatever stands in a file of prompts: one output a line, in order, or no file at all."""

from __future__ import annotations

import json
import pathlib
import resource
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.command import ROOT, environment, error_line, mtfrun, succeeded, tiny_experiment

# Each with the number of lines that it has.
FILES = {
    "empty": (b"", 0),
    "empty lines": (b"\n\n\n", 3),
    "one long line": (b"x" * 1_000_000 + b"\nafter\n", 2),
    "invalid utf-8": (b"\xff\xfe\x80\nafter\n", 2),
    "crlf": (b"one\r\ntwo\r\n", 2),
    "nul": (b"a\x00b\n\x00\n", 2),
    "no final newline": (b"one\ntwo", 2),
    "what python takes for line ends": ("a\u2028b\x0cc\x85d\n".encode(), 1),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns the directory of a trained tiny model."""
    directory = tmp_path_factory.mktemp("hostile")
    model_dir = str(directory / "run")
    flags = [*tiny_experiment(directory), "--gin.Decoding.batch_size=7"]
    succeeded(mtfrun("train", *flags, f"--model_dir={model_dir}"))
    return model_dir


def test_every_line_gets_one_output_in_order(run: str, tmp_path: pathlib.Path) -> None:
    # All files in one, for the command takes seconds to start; the last one has no final newline.
    names = [name for name in FILES if name != "no final newline"]
    content = b"".join(FILES[name][0] for name in names) + FILES["no final newline"][0]
    count = sum(lines for _, lines in FILES.values())
    (tmp_path / "prompts.txt").write_bytes(content)
    output = tmp_path / "answers.jsonl"
    flags = [f"--model_dir={run}", f"--input={tmp_path}/prompts.txt", f"--output={output}"]
    succeeded(mtfrun("decode", *flags))
    lines = output.read_bytes().removesuffix(b"\n").split(b"\n")
    answers = [json.loads(line) for line in lines]
    expected = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    assert len(answers) == len(expected) == count
    assert [a["prompt"] for a in answers] == [e.decode("utf-8", "replace") for e in expected]
    assert [a["valid_utf8"] for a in answers].count(False) == 1
    assert answers[3]["truncated_tokens"] > 999_000


def test_an_empty_file_gives_an_empty_file(run: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    output = tmp_path / "answers.jsonl"
    succeeded(
        mtfrun("decode", f"--model_dir={run}", f"--input={tmp_path}/empty", f"--output={output}")
    )
    assert output.read_bytes() == b""


def test_text_output_has_a_line_for_each_prompt(run: str) -> None:
    process = mtfrun(
        "decode", f"--model_dir={run}", "--input=-", "--format=text", stdin=b"a\n\nb\nc"
    )
    assert process.returncode == 0, process.stderr.decode()
    assert process.stdout.count(b"\n") == 4


def test_n_best_outputs_come_best_first(run: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"input": "the "}\n"quick"\n')
    flags = ["--beam_size=4", "--num_outputs=3", f"--input={tmp_path}/prompts.jsonl"]
    answers = succeeded(mtfrun("decode", f"--model_dir={run}", *flags))
    assert [answer["prompt"] for answer in answers] == ["the ", "quick"]
    for answer in answers:
        scores = [output["score"] for output in answer["outputs"]]
        assert 1 <= len(scores) <= 3 and scores == sorted(scores, reverse=True)
        assert answer["output"] == answer["outputs"][0]["text"]


def test_an_interactive_session_answers_line_by_line(run: str) -> None:
    process = mtfrun("decode", f"--model_dir={run}", "--interactive", stdin=b"a\nb\n")
    assert process.returncode == 0, process.stderr.decode()
    assert process.stdout.count(b"\n") == 2 and process.stderr.count(b"> ") == 3


def test_scores_are_in_the_order_of_the_pairs(run: str, tmp_path: pathlib.Path) -> None:
    pairs = [("the quick ", "brown"), ("", "\x00"), ("x" * 1000, "fox"), ("a", "")]
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    scores = succeeded(mtfrun("score", f"--model_dir={run}", f"--input={tmp_path}/pairs.tsv"))
    assert [(s["input"], s["target"]) for s in scores] == pairs
    assert [s["tokens"] for s in scores] == [6, 2, 4, 1]
    assert scores[2]["truncated_tokens"] == 1000 - (32 - 4)
    assert all(s["log_likelihood"] < 0 for s in scores)


@pytest.mark.parametrize("command", ["decode", "score"])
def test_a_line_that_is_no_json_is_named(run: str, command: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"input": "a", "target": "b"}\n{"input": \n')
    line = error_line(mtfrun(command, f"--model_dir={run}", f"--input={file}"))
    assert f"{file}:2: no JSON" in line


@pytest.mark.parametrize("command", ["decode", "score"])
def test_output_that_cannot_be_written_is_said_before_anything_is_decoded(
    run: str, command: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "input.tsv").write_text("a\tb\n")
    flags = [f"--model_dir={run}", f"--input={tmp_path}/input.tsv"]
    # Nothing can be in a file; permissions would not stop root.
    output = tmp_path / "input.tsv" / "output"
    line = error_line(mtfrun(command, *flags, f"--output={output}"))
    assert line.startswith(f"mtfrun: error: cannot write {output}: ")


def test_a_full_disk_leaves_the_old_file(run: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "prompts").write_text("a\n" * 100)
    output = tmp_path / "answers.jsonl"
    output.write_text("old\n")

    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    decode = [sys.executable, "-m", "mtfrun.cli.main", "decode", f"--model_dir={run}"]
    process = subprocess.run(
        [*decode, f"--input={tmp_path}/prompts", f"--output={output}"],
        capture_output=True,
        cwd=ROOT,
        env=environment(),
        preexec_fn=limit_file_size,
    )
    assert error_line(process).startswith(f"mtfrun: error: cannot write {output}: File too large")
    assert output.read_text() == "old\n"
    assert not list(tmp_path.glob(".answers.jsonl.*"))


@pytest.mark.parametrize(
    ("number", "code", "leaves_part"),
    [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, False)]
    + [pytest.param(signal.SIGKILL, -9, True, marks=pytest.mark.slow)],
)
def test_a_signal_leaves_no_file_under_the_final_name(
    number: signal.Signals, code: int, leaves_part: bool, run: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"".join(b"%d\n" % i for i in range(200_000)))
    output = tmp_path / "answers.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "mtfrun.cli.main", "decode", f"--model_dir={run}"]
        + [f"--input={tmp_path}/prompts.txt", f"--output={output}"],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        # A shell lets what it runs in the background ignore SIGINT, and so do its descendants.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    # It says how far it is once it is in the middle of the file.
    said = process.stderr.readline()
    while b"decoded" not in said:
        assert said, "ended too soon"
        said = process.stderr.readline()
    assert list(tmp_path.glob(".answers.jsonl.*"))
    process.send_signal(number)
    process.stderr.close()
    assert process.wait(timeout=60) == code
    assert not output.exists()
    assert bool(list(tmp_path.glob(".answers.jsonl.*"))) == leaves_part


@pytest.mark.slow
def test_ten_thousand_lines_in_batches_of_seven_keep_their_order(
    run: str, tmp_path: pathlib.Path
) -> None:
    lines = [f"{i} " + "y" * (i % 40) for i in range(10_000)]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    started = time.monotonic()
    answers = succeeded(mtfrun("decode", f"--model_dir={run}", f"--input={tmp_path}/prompts.txt"))
    assert [answer["prompt"] for answer in answers] == lines
    assert time.monotonic() - started < 240
