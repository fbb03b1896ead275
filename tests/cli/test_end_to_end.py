"""Training, evaluation and decoding of a tiny model by the command, mostly in its own process."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from mtfrun.rundir import RunDirectory
from tests.cli.command import (
    ROOT,
    environment,
    error_line,
    header_of,
    mtfrun_here,
    succeeded,
    tiny_experiment,
)

SAME_METRICS = {"loss", "accuracy", "perplexity"}


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_experiment(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def trained(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of two steps; tests only add to it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    process = mtfrun_here("train", *flags, f"--model_dir={run}")
    assert process.returncode == 0, process.stderr.decode()
    assert process.stdout == b""
    assert "step 2/2  loss " in process.stderr.decode()
    return run


@pytest.mark.slow
def test_a_run_records_its_size_and_cost(trained: pathlib.Path) -> None:
    status = RunDirectory(trained).record().status()
    assert status is not None
    cost = status.cost
    assert (cost.parameters, cost.active_parameters, cost.tokens_per_step) == (8752, 8752, 256)
    # 6 N + 12 L H Q T: attention, feed-forward and softmax; 4 heads of 4, and 32 positions.
    assert cost.flops_per_token == 6 * (1024 + 1024 + 384 * 16) + 12 * 4 * 4 * 32
    assert cost.seconds is not None and cost.seconds > 0


# In test_sweep.py a process of its own prints no more than this.
def test_training_is_silent_but_for_its_progress(trained: pathlib.Path, flags: list[str]) -> None:
    process = mtfrun_here("train", *flags, f"--model_dir={trained}", "--gin.TRAIN_STEPS=3")
    assert process.returncode == 0, process.stderr.decode()
    changed = "with it optim.CosineDecay.total_steps 2 -> 3; optim.LinearWarmup.total_steps 2 -> 3"
    everything = process.stderr.decode().splitlines()
    lines = [line for line in everything if not line.endswith(changed)]
    assert len(lines) == len(everything) - 1
    header = header_of(process)
    assert header == {
        "run": str(trained),
        "devices": f"CPU:0, {len(os.sched_getaffinity(0))} cores",
        "model": "DecoderOnly, 8,752 parameters; Adafactor",
        "data": header["data"],
        "vocabulary": "ByteVocabulary, 384 ids",
        "batch": "8 rows of 32: 256 tokens a step; 768 tokens in all",
        "curves": header["curves"],
        "start": "resuming from step 2 of 3",
    }
    assert re.fullmatch(
        r"LanguageModelData of TextFiles: 1 document, 1.,... tokens, 1.,... bytes of /.*/train.txt",
        header["data"],
    )
    assert header["curves"].endswith(f"tensorboard --logdir {trained}")
    assert re.fullmatch(r"compiled the training step in \d+ s", lines[len(header) + 1])
    after = [line.split("  ")[0] for line in lines[len(header) :]]
    assert [after[0], *after[2:]] == [
        "compiling the training step",
        "step 3/3",
        "eval step 3",
        *("finished", "last", "best", "checkpoint", "next", "", ""),
    ]


def test_a_run_records_configuration_and_commands(trained: pathlib.Path) -> None:
    assert "TRAIN_STEPS = " in (trained / "config.gin").read_text()
    assert (
        "Adafactor.min_dim_size_to_factor = 128" in (trained / "operative_config.gin").read_text()
    )
    record = json.loads((trained / "commands/0001.json").read_text())
    assert record["shell"].startswith("mtfrun train --gin_file=defaults.gin ")
    # Of a test before, which has trained further.
    present = (trained / "config.gin").read_text().replace("TRAIN_STEPS = 3", "TRAIN_STEPS = 2")
    assert record["configuration"] == present
    assert (record["seed"], record["mesh"]) == (0, "data:1;model:1")
    assert record["devices"] == "CPU:0"


def test_eval_prints_one_object_for_each_checkpoint(trained: pathlib.Path) -> None:
    steps = sorted(int(re.findall(r"\d+", p.name)[0]) for p in trained.glob("checkpoints/*.json"))
    evaluations = succeeded(mtfrun_here("eval", f"--model_dir={trained}", "--checkpoint=all"))
    assert [line["step"] for line in evaluations] == steps
    assert {"step", "bits_per_byte", *SAME_METRICS} <= set(evaluations[0])
    (first,) = succeeded(mtfrun_here("eval", f"--model_dir={trained}", f"--checkpoint={steps[0]}"))
    assert first == evaluations[0]


def test_eval_of_a_step_that_does_not_exist_names_those_that_do(trained: pathlib.Path) -> None:
    line = error_line(mtfrun_here("eval", f"--model_dir={trained}", "--checkpoint=77"))
    assert re.search(r"no checkpoint of step 77 .*; choose one of the steps 2", line)


def test_decode_answers_every_line_whatever_its_bytes(
    trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    lines = [b"line 1: the", b"", b"caf\xe9 \xff", b"dos\r", b"a\x00b", b"x" * 5000, b"last"]
    (tmp_path / "prompts").write_bytes(b"\n".join(lines))
    output = tmp_path / "answers.jsonl"
    mtfrun_decode = ["decode", f"--model_dir={trained}", f"--input={tmp_path}/prompts"]
    process = mtfrun_here(*mtfrun_decode, f"--output={output}")
    assert succeeded(process) == []
    answers = [json.loads(line) for line in output.read_bytes().split(b"\n")[:-1]]
    assert [answer["prompt"] for answer in answers] == [
        "line 1: the",
        "",
        "caf\ufffd \ufffd",
        "dos",
        "a\x00b",
        "x" * 5000,
        "last",
    ]
    assert [answer["valid_utf8"] for answer in answers] == [True, True, False] + [True] * 4
    # 32 tokens, 8 of them for the output.
    assert [answer["truncated_tokens"] for answer in answers] == [0, 0, 0, 0, 0, 4976, 0]
    assert [answer["prompt_tokens"] for answer in answers] == [11, 0, 6, 3, 3, 24, 4]
    assert all(answer["output_tokens"] == 8 or answer["finished"] for answer in answers)
    # Alone, in another place of the batch, from standard input: the same answer.
    alone_decode = ["decode", f"--model_dir={trained}", "--input=-", "--output=-"]
    (alone,) = succeeded(mtfrun_here(*alone_decode, stdin=b"last\n"))
    assert alone == answers[-1]


# By default test_terminal.py ends a training by Ctrl-C, and test_signals.py its evaluation.
@pytest.mark.slow
@pytest.mark.usefixtures("hangup_not_ignored")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_the_run_goes_on(
    number: signal.Signals, code: int, flags: list[str], tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mtfrun.cli.main", "train", *flags),
            *(f"--model_dir={run}", "--gin.TRAIN_STEPS=100000"),
        ],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith("step 1/100000"):
        assert line, "the process ended too early"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert re.search(r"^mtfrun: finishing step \d+, saving; again to stop now$", stderr, re.M)
    assert process.returncode == code, stderr
    stopped = re.search(r"stopped and saved at step (\d+)", stderr)
    assert stopped and (run / f"checkpoints/ckpt-{stopped[1]}.json").exists()


def test_output_without_a_reader_ends_the_command_silently(trained: pathlib.Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mtfrun.cli.main", "checkpoints", "list", f"--model_dir={trained}"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 128 + signal.SIGPIPE
    assert stderr == b""


def test_a_second_trainer_is_refused(flags: list[str], run_copy: pathlib.Path) -> None:
    train = [*flags, f"--model_dir={run_copy}", "--gin.TRAIN_STEPS=3"]
    with RunDirectory(run_copy).lock():
        line = error_line(mtfrun_here("train", *train))
    assert f"{run_copy} is in use by process {os.getpid()}" in line
