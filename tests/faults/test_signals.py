"""SIGTERM, SIGINT and SIGHUP end every command in time, whatever it is doing."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
import random
import shutil
import signal
import string
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.cli.command import ROOT, TINY, environment
from tests.faults.forked import PATIENCE, ForkedCommand, finished, running
from tests.faults.hooks import announce, slow_calls
from tests.faults.outcome import leftovers
from tests.faults.training_run import TrainingRun

pytestmark = pytest.mark.usefixtures("hangup_not_ignored", "interrupt_not_ignored")

# Seconds from a signal to the end of the process, on a quiet machine.
LIMIT, SECOND_LIMIT = 10.0, 1.0
# Seconds from the beginning of a phase to the signal, at most.
_DELAY_SECS = 0.3

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
SIGNALS = {"TERM": [TERM], "INT": [INT], "HUP": [HUP], "INT INT": [INT, INT]}
SLOW = {("a long host loop", "INT INT"), ("saving", "HUP"), ("building a vocabulary", "TERM")}
# Rounds of hashes that take a third of a second.
_HASH_ROUNDS = 400_000


@dataclasses.dataclass(frozen=True)
class Phase:
    """Something that a command does for seconds.

    Attributes:
      target: the function at whose call it begins, see `announce`.
      arguments: the command's arguments, in which $RUN and others stand for paths.
      call: the number of that call, from 1.
      slow_disk: seconds that every forced write takes.
      text: the name of TEXT, small.txt or large.txt.
    """

    target: str
    arguments: Sequence[str]
    call: int = 1
    slow_disk: float = 0.0
    text: str = "small.txt"


_LONG = ["--gin.TRAIN_STEPS=1000000", "--gin.ITERATIONS_PER_LOOP=1000000", "--gin.LOG_EVERY=1000"]
_MODEL = ["--gin_file=defaults.gin", "--gin_file=models/lm_tiny.gin", *TINY]
_TEXTS = "--gin.TEXT_FILES={'train': '$TEXT', 'validation': '$TEXT'}"
_TEXT = ["--gin_file=data/text_files.gin", _TEXTS]
_TRAIN = ["train", *_MODEL, *_TEXT, "--model_dir=$RUN"]
_RARELY = ["--gin.CHECKPOINT_EVERY=1000000", "--gin.EVAL_EVERY=None"]

PHASES = {
    "compiling": Phase(
        "mtfrun.training.host_loop:HostLoop.run", [*_TRAIN, *_LONG, *_RARELY, "--gin.NUM_LAYERS=6"]
    ),
    "a long host loop": Phase(
        "mtfrun.training.host_loop:HostLoop.run", [*_TRAIN, *_LONG, *_RARELY], call=2
    ),
    "evaluation": Phase(
        "mtfrun.experiment.evaluation.evaluation:Evaluation.__call__",
        [*_TRAIN, "--gin.TRAIN_STEPS=5", "--gin.EVAL_EVERY=4"],
        call=2,  # the first is before the first step
    ),
    "saving": Phase(
        "mtfrun.checkpoints.save:Snapshot.write",
        [*_TRAIN, "--gin.TRAIN_STEPS=1000000", "--gin.CHECKPOINT_EVERY=10"],
        call=3,
        slow_disk=0.2,
    ),
    "eval": Phase(
        "mtfrun.data.rows.infeed:Infeed.next",
        ["eval", "--model_dir=$TRAINED", _TEXTS, "--gin.Evaluation.max_batches=None"],
        call=3,
    ),
    "decode": Phase(
        "mtfrun.experiment.inference.decoding_batches:DecodingBatches._decode_batch",
        ["decode", "--model_dir=$TRAINED", "--input=$PROMPTS", "--output=$OUTPUT"],
        call=2,
    ),
    "scoring": Phase(
        "mtfrun.experiment.inference.scoring:Scoring._batch",
        ["score", "--model_dir=$TRAINED", "--input=$PAIRS", "--output=$OUTPUT"],
        call=2,
    ),
    "building data": Phase(
        "mtfrun.data.cache.tokens:_Writer.write", [*_TRAIN], call=2, text="large.txt"
    ),
    "building a vocabulary": Phase(
        "sentencepiece:SentencePieceTrainer.train",
        ["data", "vocab", *_MODEL, *_TEXT, "--size=4000", "--output=$OUTPUT"],
        text="large.txt",
    ),
    "sweep": Phase(
        "mtfrun.extras.sweeps.trainer:Display.advance",
        ["sweep", *_TRAIN[1:], *_LONG, *_RARELY, "--gin.LEARNING_RATE=0.1,0.2"],
    ),
}


@pytest.fixture
def interrupt_not_ignored() -> Iterator[None]:
    """Makes descendants of this process receive SIGINT, which shells let background jobs ignore."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("files")
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(5000)]
    lines = [" ".join(rng.choices(words, k=12)) for _ in range(40_000)]
    (directory / "small.txt").write_text("\n".join(lines[:4000]))
    (directory / "large.txt").write_text("\n".join(lines * 4))
    (directory / "prompts").write_text("\n".join(lines[:4000]))
    (directory / "pairs.tsv").write_text("".join(f"{line}\t{line}\n" for line in lines[:4000]))
    command = TrainingRun(steps=10).command(directory, directory / "run")
    finished(command, directory / "trained")
    return directory


def _arguments(phase: Phase, files: pathlib.Path, directory: pathlib.Path) -> list[str]:
    # Its own text, so that no cache is there yet.
    shutil.copy(files / phase.text, directory / "text.txt")
    paths = {
        "TEXT": directory / "text.txt",
        "RUN": directory / "run",
        "TRAINED": files / "run",
        "PROMPTS": files / "prompts",
        "PAIRS": files / "pairs.tsv",
        "OUTPUT": directory / "output" / "file",
    }
    (directory / "output").mkdir()
    return [string.Template(argument).substitute(paths) for argument in phase.arguments]


@pytest.mark.parametrize(
    ("name", "signals"),
    [
        pytest.param(
            name, signals, marks=pytest.mark.slow if (name, signals) in SLOW else pytest.mark.faults
        )
        for name in PHASES
        for signals in SIGNALS
    ],
)
def test_a_signal_ends_every_phase(
    name: str, signals: str, files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The command ends in time, and leaves no half file."""
    phase, numbers = PHASES[name], SIGNALS[signals]
    begun = tmp_path / "begun"
    preparations = [functools.partial(announce, phase.target, phase.call, begun)]
    if phase.slow_disk:
        preparations.append(functools.partial(slow_calls, phase.slow_disk, "os:fsync"))
    arguments = _arguments(phase, files, tmp_path)
    before = slowdown()
    with running(arguments, tmp_path / "printed", *preparations) as command:
        while not begun.exists():
            assert not command.has_ended, command.stderr
            time.sleep(0.005)
        time.sleep(random.Random(f"{name} {signals}").uniform(0.05, _DELAY_SECS))
        assert not command.has_ended, command.stderr
        secs = _signalled(command, numbers)
        code = command.wait()
    allowed = max(before, slowdown())
    limit = LIMIT if len(numbers) == 1 else SECOND_LIMIT
    assert code == 128 + numbers[-1], command.stderr
    assert "Traceback" not in command.stderr
    assert secs <= limit * allowed, f"{secs:.1f} s, {allowed:.1f} times slower than alone"
    assert list((tmp_path / "output").iterdir()) == []
    if len(numbers) == 1:
        for checkpoints in (tmp_path / "run").rglob("checkpoints"):
            assert leftovers(checkpoints.parent) == []


def _signalled(command: ForkedCommand, numbers: Sequence[int]) -> float:
    """Sends signals, and returns the seconds from the last one to the end of the process."""
    for number in numbers[:-1]:
        command.send(number)
        time.sleep(0.1)
    start = time.monotonic()
    command.send(numbers[-1])
    while not command.has_ended:
        assert time.monotonic() - start < PATIENCE, command.stderr
        time.sleep(0.005)
    return time.monotonic() - start


def slowdown() -> float:
    """Returns the wall time of some work divided by its CPU time, 1.0 on a quiet machine."""
    wall, cpu = time.perf_counter(), time.thread_time()
    hashlib.pbkdf2_hmac("sha256", b"", b"", _HASH_ROUNDS)
    return max(1.0, (time.perf_counter() - wall) / (time.thread_time() - cpu))


@pytest.mark.faults
@pytest.mark.parametrize("signals", SIGNALS)
def test_a_signal_ends_the_start(signals: str, tmp_path: pathlib.Path) -> None:
    """In a process that has not been forked: it is importing TensorFlow."""
    command = TrainingRun().command(tmp_path, tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, "-m", "mtfrun", *command],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        libraries = pathlib.Path(f"/proc/{process.pid}/maps")
        while "tensorflow" not in libraries.read_text():
            assert process.poll() is None
            time.sleep(0.01)
        start = time.monotonic()
        for number in SIGNALS[signals]:
            process.send_signal(number)
            time.sleep(0.05)
        _, stderr = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    secs = time.monotonic() - start
    last = SIGNALS[signals][-1]
    assert process.returncode in (128 + last, -last), stderr.decode()
    assert stderr == b""
    assert secs <= LIMIT * slowdown()
    assert not (tmp_path / "run").exists()
