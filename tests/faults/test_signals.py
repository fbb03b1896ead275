"""SIGTERM, SIGINT and SIGHUP end every command in time, whatever it is doing."""

from __future__ import annotations

import dataclasses
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.cli.command import ROOT, TINY, environment
from tests.faults.forked import PATIENCE, ForkedCommand, finished, running
from tests.faults.hooks import Announce, Several, SlowDisk
from tests.faults.load import slowdown
from tests.faults.outcome import leftovers
from tests.faults.training_run import TrainingRun

pytestmark = pytest.mark.usefixtures("hangup_not_ignored", "interrupt_not_ignored")

# Seconds from a signal to the end of the process, on a quiet machine.
LIMIT, SECOND_LIMIT = 10.0, 1.0
# Seconds from the beginning of a phase to the signal, at most.
_DELAY_SECS = 0.3

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
SIGNALS = {"TERM": [TERM], "INT": [INT], "HUP": [HUP], "INT INT": [INT, INT]}
Record = Callable[[str, object], None]


@dataclasses.dataclass(frozen=True)
class Phase:
    """Something that a command does for seconds.

    Attributes:
      target: the function at whose call it begins, see `Announce`.
      arguments: of the command; RUN, TEXT, INPUT and OUTPUT stand for paths.
      call: the number of that call.
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
_TEXTS = "--gin.TEXT_FILES={'train': TEXT, 'validation': TEXT}"
_TEXT = ["--gin_file=data/text_files.gin", _TEXTS]
_TRAIN = ["train", *_MODEL, *_TEXT, "--model_dir=RUN"]
_RARELY = ["--gin.CHECKPOINT_EVERY=1000000", "--gin.EVAL_EVERY=None"]

PHASES = {
    "compiling": Phase(
        "mtfrun.training.host_loop:HostLoop.run", [*_TRAIN, *_LONG, *_RARELY, "--gin.NUM_LAYERS=6"]
    ),
    "a long host loop": Phase(
        "mtfrun.training.host_loop:HostLoop.run", [*_TRAIN, *_LONG, *_RARELY], call=3
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
        ["eval", "--model_dir=TRAINED", _TEXTS, "--gin.Evaluation.max_batches=None"],
        call=3,
    ),
    "decode": Phase(
        "mtfrun.experiment.inference.decoding_batches:DecodingBatches._decode_batch",
        ["decode", "--model_dir=TRAINED", "--input=PROMPTS", "--output=OUTPUT"],
        call=2,
    ),
    "scoring": Phase(
        "mtfrun.experiment.inference.scoring:Scoring._batch",
        ["score", "--model_dir=TRAINED", "--input=PAIRS", "--output=OUTPUT"],
        call=2,
    ),
    "building data": Phase(
        "mtfrun.data.cache.tokens:_Writer.write", [*_TRAIN], call=2, text="large.txt"
    ),
    "building a vocabulary": Phase(
        "sentencepiece:SentencePieceTrainer.train",
        ["data", "vocab", *_MODEL, *_TEXT, "--size=4000", "--output=OUTPUT"],
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
    """A directory of texts, prompts, pairs and a run that the phases share."""
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
    """Returns the arguments of the command, with paths in the place of their names."""
    shutil.copy(
        files / phase.text, directory / "text.txt"
    )  # its own, so that no cache is there yet
    paths = {
        "TEXT": repr(str(directory / "text.txt")),
        "RUN": str(directory / "run"),
        "TRAINED": str(files / "run"),
        "PROMPTS": str(files / "prompts"),
        "PAIRS": str(files / "pairs.tsv"),
        "OUTPUT": str(directory / "output" / "file"),
    }
    (directory / "output").mkdir()
    arguments = []
    for argument in phase.arguments:
        for name, path in paths.items():
            argument = argument.replace(f"={name}", f"={path}").replace(f": {name}", f": {path}")
        arguments.append(argument)
    return arguments


def _check_signals(
    name: str, numbers: Sequence[int], files: pathlib.Path, directory: pathlib.Path, record: Record
) -> None:
    """Raises unless signals in a phase end its command in time, and it leaves no half file."""
    phase = PHASES[name]
    begun = directory / "begun"
    announce = Announce(phase.target, phase.call, str(begun))
    slow = [SlowDisk(phase.slow_disk)] if phase.slow_disk else []
    arguments = _arguments(phase, files, directory)
    before = slowdown()
    with running(arguments, directory / "printed", Several([*slow, announce])) as command:
        _wait_for_file(begun, command)
        time.sleep(random.Random(f"{name} {numbers}").uniform(0.05, _DELAY_SECS))
        assert not command.has_ended, command.stderr
        secs = _signalled(command, numbers)
        code = command.wait()
    allowed = max(before, slowdown())
    record("secs", round(secs, 2))
    record("slowdown", round(allowed, 1))
    limit = LIMIT if len(numbers) == 1 else SECOND_LIMIT
    assert code == 128 + numbers[-1], command.stderr
    assert "Traceback" not in command.stderr
    assert secs <= limit * allowed, f"{secs:.1f} s, {allowed:.1f} times slower than alone"
    assert list((directory / "output").iterdir()) == []
    if len(numbers) == 1:
        for checkpoints in (directory / "run").rglob("checkpoints"):
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


def _wait_for_file(path: pathlib.Path, command: ForkedCommand) -> None:
    while not path.exists():
        assert not command.has_ended, command.stderr
        time.sleep(0.005)


@pytest.mark.faults
@pytest.mark.parametrize("signals", SIGNALS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_ends_every_phase(
    phase: str, signals: str, files: pathlib.Path, tmp_path: pathlib.Path, record_property: Record
) -> None:
    _check_signals(phase, SIGNALS[signals], files, tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "signals"),
    [
        ("compiling", "TERM"),
        ("a long host loop", "INT INT"),
        ("saving", "HUP"),
        ("building data", "INT"),
        ("building a vocabulary", "TERM"),
    ],
)
def test_a_signal_ends_some_phases(
    phase: str, signals: str, files: pathlib.Path, tmp_path: pathlib.Path, record_property: Record
) -> None:
    _check_signals(phase, SIGNALS[signals], files, tmp_path, record_property)


def _importing(process: subprocess.Popen[bytes]) -> bool:
    """Returns whether a process is loading TensorFlow's libraries."""
    return "tensorflow" in pathlib.Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.faults
@pytest.mark.parametrize("signals", SIGNALS)
def test_a_signal_ends_the_start(
    signals: str, tmp_path: pathlib.Path, record_property: Record
) -> None:
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
        while not _importing(process):
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
    record_property("secs", round(secs, 2))
    last = SIGNALS[signals][-1]
    assert process.returncode in (128 + last, -last), stderr.decode()
    assert stderr == b""
    assert secs <= LIMIT * slowdown()
    assert not (tmp_path / "run").exists()
