"""The command `sweep`: its grid, its record, its processes, its table."""

from __future__ import annotations

import io
import json
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from mtfrun.errors import InputError
from mtfrun.rundir import RunRecord, Status
from mtfrun.tools.runs import summary_of
from mtfrun.tools.sweep.grid import Grid, alternatives
from mtfrun.tools.sweep.trainer import LOG, Display, TrainedRun, Trainer
from tests.cli.command import error_line, mtfrun_here, succeeded, tiny_experiment

# Writes the record of a run as training does, and waits for a signal if its name says so.
PROGRAM = """
import pathlib, signal, sys, time
from mtfrun.rundir import RunRecord, Status
directory = pathlib.Path(sys.argv[1])
record = RunRecord(directory)
(directory / "config.gin").write_text("X = 1\\n")
signal.signal(signal.SIGINT, lambda *_: stop())
def stop():
    record.write_status(Status("stopped", 3, 9))
    sys.exit(130)
print("started", flush=True)
record.write_status(Status("running", 3, 9, {"loss": 2.0}))
if "waits" in directory.name:
    time.sleep(300)
if "fails" in directory.name:
    print("mtfrun: error: the loss of step 3 is not finite; use a smaller rate", file=sys.stderr)
    sys.exit(3)
record.write_metrics({9: {"eval/loss": 1.5}})
record.write_status(Status("finished", 9, 9))
"""


def _grid(*flags: str, files: Sequence[str] = ()) -> Grid:
    pairs = [flag.removeprefix("--gin.").partition("=") for flag in flags]
    return Grid.of(files, [(f, f"{p[0]} = {p[2]}") for f, p in zip(flags, pairs, strict=True)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.01, 0.03,1e-1", ["0.01", "0.03", "1e-1"]),
        ("[1,2],[3,4]", ["[1,2]", "[3,4]"]),
        ("'a,b','c'", ["'a,b'", "'c'"]),
        ('"a\'b,",3', ['"a\'b,"', "3"]),
        ("@optim.Adam(),@scope/optim.SGD()", ["@optim.Adam()", "@scope/optim.SGD()"]),
        ("{'a': (1, 2)},None", ["{'a': (1, 2)}", "None"]),
        ("(1,2)", ["(1,2)"]),
    ],
)
def test_commas_outside_of_brackets_and_quotes_separate_alternatives(
    text: str, expected: list[str]
) -> None:
    assert alternatives("--gin.X", text) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gin.X=1,"], "nothing stands beside a comma"),
        (["--gin.X=[1,2"], "a bracket or a quote is left open"),
        (["--gin.X='a,b"], "a bracket or a quote is left open"),
        (["--gin.X=data:2,model:2"], "--gin.X=\"'data:2,model:2'\""),
        (["--gin.X=0.1,0.10"], "0.1 is there twice"),
        (["--gin.X=1,2", "--gin.X=3"], "--gin.X is given twice"),
        (["--gin.X=1,2", "--gin.X=3,4"], "--gin.X is given twice"),
        (["--gin.X=[1,2]", "--gin.Y=3"], "nothing varies"),
    ],
)
def test_what_is_ambiguous_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(InputError) as raised:
        _grid(*flags)
    assert message in str(raised.value)


def test_names_say_what_differs_and_need_no_quotes() -> None:
    runs = _grid("--gin.RATE=0.1,0.2", "--gin.Z=5", "--gin.O=@optim.Adam(),'a b/c'").runs()
    assert [run.name for run in runs] == [
        "RATE=0.1,O=optim.Adam",
        "RATE=0.1,O=a-b-c",
        "RATE=0.2,O=optim.Adam",
        "RATE=0.2,O=a-b-c",
    ]
    assert runs[1].flags == ["--gin.RATE=0.1", "--gin.O='a b/c'"]
    similar = _grid("--gin.X='a/b','a b','" + 300 * "c" + "'").runs()
    assert [run.name for run in similar][:2] == ["X=a-b", "X=a-b-2"]
    assert len(similar[2].name) <= 120


def test_a_misspelt_macro_is_refused_before_a_run_is_started(tmp_path: pathlib.Path) -> None:
    flags = ["--gin_file=runs/quickstart.gin", f"--model_dir={tmp_path}/sweep"]
    line = error_line(mtfrun_here("sweep", *flags, "--gin.LEARNIN_RATE=0.1,0.2"))
    assert "no gin file has this macro, did you mean 'LEARNING_RATE'?" in line
    assert "nothing varies" in error_line(mtfrun_here("sweep", *flags))
    process = mtfrun_here("sweep", *flags, "--gin.LEARNING_RATE=0.1,0.2", "--dry_run")
    assert process.returncode == 0
    assert process.stdout.decode().splitlines()[1].split() == [
        *("0.1", "waiting", "LEARNING_RATE=0.1")
    ]
    assert not (tmp_path / "sweep").exists()


def test_the_same_command_goes_on_and_another_is_refused(tmp_path: pathlib.Path) -> None:
    first = _grid("--gin.X=1,2", "--gin.Y=3", files=["a.gin"])
    first.write(tmp_path)
    read = Grid.read(tmp_path)
    assert read == first
    more = _grid("--gin.X=2,4", "--gin.Y=3", files=["a.gin"])
    assert read.continue_with(more, tmp_path).varied == {"X": ["1", "2", "4"]}
    # The names of runs do not depend on the order of flags.
    two, swapped = _grid("--gin.A=1,2", "--gin.B=3,4"), _grid("--gin.B=3,4", "--gin.A=1,2")
    order = two.continue_with(swapped, tmp_path).varied
    assert swapped.runs(order) == two.runs()
    for flags, files, message in [
        (["--gin.X=1,2", "--gin.Y=4"], ["a.gin"], "Y 3 -> 4"),
        (["--gin.X=1,2"], ["a.gin"], "Y 3 -> (none)"),
        (["--gin.X=1,2", "--gin.Y=3"], ["b.gin"], "gin files a.gin -> b.gin"),
        (["--gin.X=1,2", "--gin.Z=1,2", "--gin.Y=3"], ["a.gin"], "varied X -> X, Z"),
    ]:
        with pytest.raises(InputError) as raised:
            read.continue_with(_grid(*flags, files=files), tmp_path)
        assert message in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "[" * 100_000, "[]", "{", '{"files": [], "fixed": {}, "varied": {}, "more": 1}'),
        *('{"files": "a", "fixed": {}, "varied": {}}', '{"files": [], "fixed": [], "varied": {}}'),
        *(
            '{"files": [1], "fixed": {}, "varied": {}}',
            '{"files": [], "fixed": {"a": 1}, "varied": {}}',
        ),
        '{"files": [], "fixed": {}, "varied": {"a": "b"}}',
    ],
)
def test_a_forged_record_of_a_sweep_is_one_line(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(InputError, match=r"sweep.json is not a record of a sweep"):
        Grid.read(tmp_path)


def _trained(directory: pathlib.Path, *names: str) -> tuple[Trainer, list[TrainedRun], io.StringIO]:
    """Returns a trainer of runs that are the program above, and what it prints."""
    stream = io.StringIO()
    program = [sys.executable, "-c", PROGRAM]
    trainer = Trainer(2, Display(len(names), stream), "loss", program)
    runs = [
        TrainedRun(number, name, directory / name, [str(directory / name)])
        for number, name in enumerate(names, 1)
    ]
    return trainer, runs, stream


def test_a_run_that_fails_does_not_end_the_others(tmp_path: pathlib.Path) -> None:
    trainer, runs, stream = _trained(tmp_path, "fails", "a", "b")
    trainer.train(runs)
    assert trainer.codes == {"fails": 3, "a": 0, "b": 0} and trainer.signal is None
    lines = stream.getvalue().splitlines()
    log = runs[0].directory / LOG
    failure = f"failed: the loss of step 3 is not finite (all of its output: {log})"
    assert f"[1/3] fails: {failure}" in lines
    assert "[2/3] a: finished, step 9, loss 1.5000" in lines
    assert (tmp_path / "b" / LOG).read_text() == "started\n"
    assert summary_of(tmp_path / "fails", "fails").state == "killed"  # it has not said how it ended


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("../victim")])
def test_output_is_not_written_through_a_link_or_a_pipe(
    make: Callable[[pathlib.Path], object], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / LOG)
    trainer, runs, _ = _trained(tmp_path, "run")
    with pytest.raises(InputError, match=rf"cannot write .*{LOG}: .*; remove it"):
        trainer.train(runs)
    assert (tmp_path / "victim").read_text() == "untouched"


def test_a_signal_lets_runs_save_and_starts_no_others(tmp_path: pathlib.Path) -> None:
    trainer, runs, stream = _trained(tmp_path, "waits 1", "waits 2", "a")

    def interrupt() -> None:
        while not all((run.directory / "status.json").exists() for run in runs[:2]):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    trainer.train(runs)
    thread.join()
    assert trainer.signal == signal.SIGINT
    assert trainer.codes == {"waits 1": 130, "waits 2": 130}
    assert "[2/3] waits 2: stopped and saved at step 3" in stream.getvalue().splitlines()
    assert not runs[2].directory.exists()


def test_a_sweep_trains_its_runs_and_prints_a_table(tmp_path: pathlib.Path) -> None:
    experiment = [*tiny_experiment(tmp_path), "--gin.EVAL_AT_START=False"]
    flags = [*experiment, f"--model_dir={tmp_path}/sweep", "--jobs=2"]
    # The first run has been trained, as by a sweep that was interrupted.
    first_run = f"--model_dir={tmp_path}/sweep/LEARNING_RATE=0.01"
    succeeded(mtfrun_here("train", *experiment, "--gin.LEARNING_RATE=0.01", first_run))
    command = ["sweep", *flags, "--gin.LEARNING_RATE=0.01,0.3"]
    process = mtfrun_here(*command)
    assert process.returncode == 0, process.stderr.decode()
    assert process.stderr.decode().startswith("1 of 2 runs are finished\n")
    heading, first, second, board = process.stdout.decode().splitlines()
    assert heading.split()[:4] == ["LEARNING_RATE", "state", "step", "loss"]
    for row, rate in ((first, "0.01"), (second, "0.3")):
        assert row.split()[:3] == [rate, "finished", "2/2"]
    losses = [row.split()[3] for row in (first, second)]
    best = min(losses, key=lambda text: float(text.strip("*")))
    assert best.endswith("*") and sum(text.endswith("*") for text in losses) == 1
    assert board == f"TensorBoard: tensorboard --logdir {tmp_path}/sweep"
    record = (tmp_path / "sweep" / "LEARNING_RATE=0.3" / "commands" / "0001.json").read_text()
    assert "mtfrun train " in record and "--gin.LEARNING_RATE=0.3" in record
    # The whole output of a process: the lines of a training, no others.
    log = (tmp_path / "sweep" / "LEARNING_RATE=0.3" / LOG).read_text().splitlines()
    labels = [line.split("  ")[0] for line in log]
    compiling = labels.index("compiling the training step")
    header = {"run", "devices", "model", "data", "vocabulary", "batch", "curves", "note", "start"}
    assert set(labels[:compiling]) == header
    steps = ["step 1/2", "step 2/2", "eval step 2"]
    end = ["finished", "last", "best", "checkpoint", "next", "", ""]
    assert labels[compiling + 2 :] == [*steps, *end]
    (hparams,) = (tmp_path / "sweep").glob("events.*.hparams")
    # Metrics have the tags of their curves, else the page would show none of their values.
    for text in (b"LEARNING_RATE", b"eval loss", b"eval perplexity", b"loss/perplexity"):
        assert text in hparams.read_bytes()
    # Nothing is left to do, and another command is not mixed in.
    again = mtfrun_here(*command)
    assert again.stdout == process.stdout
    assert again.stderr.decode().splitlines() == ["2 of 2 runs are finished"]
    line = error_line(mtfrun_here(*command, "--gin.SEED=1"))
    assert "has the sweep of another command: SEED (none) -> 1" in line
    (row, _) = json.loads(mtfrun_here("runs", f"{tmp_path}/sweep", "--json").stdout)
    assert row["state"] == "finished" and set(row["differs"]) == {"LEARNING_RATE"}
    assert row["best"]["loss"]["value"] == row["last"]["loss"] and row["speed_unit"] == "tok/s"


def test_a_bar_is_a_line_for_each_run(tmp_path: pathlib.Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    display = Display(2, stream)
    display.start(1, "RATE=0.1")
    display.advance("RATE=0.1", Status("running", 5, 10, {"loss": 1.25}))
    display.end(1, "RATE=0.1", "finished")
    assert " 50% |" in stream.getvalue() and "RATE=0.1: step 5/10, loss 1.2500" in stream.getvalue()
    assert stream.getvalue().endswith("[1/2] RATE=0.1: finished\n")
    assert RunRecord(tmp_path).status() is None
