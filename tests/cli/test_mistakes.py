"""Mistakes that people make: each is answered with one line that has the remedy.

Every row is a command line in a process of its own, as a user starts it, and a pattern of the
remedy. The exit code is 2, nothing is printed on standard output, and nothing is left behind. The
CPU time of the process is limited, which other programs on the machine hardly change; the time on
the clock is that of any test.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import re
import shlex
import sys
import tempfile

import pytest

from tests.cli.command import ROOT, environment

# CPU seconds of all threads: the import of TensorFlow takes about 3 of them.
QUICK_CPU_SECS, CPU_SECS = 1.2, 12.0
# CPU seconds of `mtfrun --help` where these bounds hold: on a slower machine they are larger.
HELP_CPU_SECS = 0.17


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A command line, and the remedy that is expected.

    Attributes:
      typed: what follows "mtfrun"; QUICK, NEW and others are replaced, see `_replaced`.
      remedy: a regular expression that the line has.
      quick: whether it is answered without TensorFlow.
      in_default_suite: whether it is tested in every test run.
    """

    typed: str
    remedy: str
    quick: bool = True
    in_default_suite: bool = False


def _slow(typed: str, remedy: str) -> Mistake:
    return Mistake(typed, remedy, quick=False)


def _default(typed: str, remedy: str) -> Mistake:
    return Mistake(typed, remedy, in_default_suite=True)


COMMANDS = [
    _default("trian QUICK NEW", "did you mean 'train'"),
    Mistake("data cahce QUICK", "did you mean 'data cache'"),
    Mistake("QUICK NEW", "write mtfrun train --gin_file=runs/quickstart.gin --model_dir="),
    _default("train runs/quickstart.gin NEW", "write --gin_file=runs/quickstart.gin"),
    Mistake("runs/quickstart.gin", "no command 'runs/quickstart.gin'; there are train, "),
    Mistake("eval RUN", "eval takes no words such as 'RUN', only flags"),
    Mistake("decode --model_dir=RUN 'Once upon'", "takes no words such as 'Once upon', only flags"),
    Mistake("launch -n 2 train QUICK NEW", "mtfrun launch -n 2 -- train"),
    Mistake("config diff runs/quickstart.gin", "mtfrun config diff runs/quickstart.gin /tmp/run"),
]
FLAGS = [
    _default("train QUICK --modle_dir=/tmp/x", "did you mean '--model_dir'"),
    Mistake("train QUICK NEW --num_processes=2", r"mtfrun launch -n N -- \.\.\."),
    Mistake("decode --model_dir=RUN --prompt", r"--prompt needs a value"),
    Mistake("export --model_dir=RUN --to=/tmp/x --format=onnx", "choose one of .*safetensors"),
]
OF_T5 = [
    Mistake("train NEW --gin_location_prefix=/none --gin_file=m.gin", "searched: .*/none"),
    _slow("train QUICK NEW --module_import=my_taks", "no module 'my_taks'"),
]
GIN = [
    _default("train QUICK NEW --gin.TRAIN_STEP=14", "'TRAIN_STEPS'"),
    _slow("train QUICK NEW --gin.LEARNING_RATE=fast", "with 'fast': it must be a list of float"),
    _slow("train QUICK NEW --gin.Task.metrics=[@exact_mach]", "did you mean 'exact_match'"),
    _slow("config diff QUICK runs/denoise.gin runs/quickstart.gin --gin.SED=3", "'SEED'"),
    Mistake("launch -n 2 -- train QUICK NEW --gin.SED=3", "did you mean 'SEED'"),
    _slow("train --gin_file=runs/quickstart.gin --gin_file=data/jsonl.gin NEW", "JSONL_FILES="),
    _slow("train QUICK NEW --gin.EVAL_SPLIT=test", "--gin\\.EVAL_SPLIT=\"'test'\"$"),
    _slow("train QUICK NEW --gin.Samples.prompts=a,b", "prompts=\"\\['a', 'b'\\]\"$"),
    _slow("train QUICK NEW --gin.TRAIN_STEPS=1e4", "must be int; write 10000"),
    _slow("train QUICK NEW --gin.Training.optimizer=\"'adam'\"", r"such as @optim\.Adam\(\)"),
]
VALUES = [
    _slow("train QUICK NEW --gin.MICROBATCHES=3", "use a multiple of 3"),
    _default(
        "decode --model_dir=RUN --prompt=x --temperature=-1", "--temperature=-1.0: .* least 0"
    ),
]
FILES_AND_DEVICES = [
    _default("train --gin_file=runs/quikstart.gin NEW", "did you mean 'runs/quickstart.gin'"),
    Mistake("train --gin_file=BINARY NEW", "not a gin file: .* a text such as runs/quickstart.gin"),
    Mistake(
        "train --gin_file=COLUMNS NEW", "not a gin file: line 1: .* such as runs/quickstart.gin"
    ),
    Mistake("train --gin_file=/tmp NEW", "is a directory: name a file in it"),
    Mistake("train --gin_file=models/lm_tiny.gin NEW", "write --gin_file=defaults.gin before"),
    _slow("train QUICK --model_dir=gs://b/run", "cannot write gs://b/run/.lease.json"),
    _slow(
        "train QUICK NEW --gin.Mesh.devices=\"['GPU:7']\"", "no device 'GPU:7'; this machine has"
    ),
]
RUNS_AND_DATA = [
    Mistake("eval --model_dir=/tmp/none/at/all", "check its name, or make it with `mtfrun train"),
    _slow("train --gin_file=runs/digits.gin --gin_file=models/lm_tiny.gin NEW", "or another Exper"),
    _slow("train QUICK --gin_file=models/resnet.gin NEW", "--gin_file=data/digits.gin"),
    _slow("decode --gin_file=runs/digits.gin --prompt=x", "give images with --input=FILE"),
    _slow("decode --model_dir=RUN --input=PHOTO", "give a file with a prompt a line"),
    _slow("decode --model_dir=RUN --input=RUN/config.gim", "did you mean 'RUN/config.gin'"),
]
ALL = [*COMMANDS, *FLAGS, *OF_T5, *GIN, *VALUES, *FILES_AND_DEVICES, *RUNS_AND_DATA]


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(mistake, marks=[] if mistake.in_default_suite else pytest.mark.slow)
        for mistake in ALL
    ],
    ids=[mistake.typed for mistake in ALL],
)
def test_a_mistake_is_answered_with_its_remedy(
    mistake: Mistake, request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> None:
    words = {"QUICK": "--gin_file=runs/quickstart.gin", "NEW": f"--model_dir={tmp_path}/new"}
    if "RUN" in mistake.typed:
        words["RUN"] = str(_run(mistake, request, tmp_path))
    (tmp_path / "binary.gin").write_bytes(bytes(range(256)))
    words["BINARY"] = str(tmp_path / "binary.gin")
    (tmp_path / "columns.csv").write_text("input,target\n1,2\n")
    words["COLUMNS"] = str(tmp_path / "columns.csv")
    (tmp_path / "photo.png").touch()
    words["PHOTO"] = str(tmp_path / "photo.png")

    process = _process(shlex.split(_replaced(mistake.typed, words)))

    assert process.code == 2, process.stderr
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("mtfrun: error: ") and len(line) < 600
    assert re.search(_replaced(mistake.remedy, words), line), line
    allowed = QUICK_CPU_SECS if mistake.quick else CPU_SECS
    assert process.cpu_secs <= allowed * max(1.0, _help_cpu_secs() / HELP_CPU_SECS)
    assert not (tmp_path / "new" / "config.gin").exists()


@functools.cache
def _help_cpu_secs() -> float:
    return _process(["--help"]).cpu_secs


def _run(mistake: Mistake, request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    """Returns a run; where its flags are refused without TensorFlow, its directory suffices."""
    if not mistake.quick:
        run: pathlib.Path = request.getfixturevalue("language_model_run")
        return run
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def _replaced(text: str, words: dict[str, str]) -> str:
    """Returns a text with words in capitals replaced; those of gin's macros are longer."""
    return re.sub(r"\b[A-Z]+\b", lambda match: words.get(match[0], match[0]), text)


@dataclasses.dataclass(frozen=True)
class _Process:
    """A finished process.

    Attributes:
      code: its exit code.
      stdout, stderr: what it printed.
      cpu_secs: user and system time of all its threads.
    """

    code: int
    stdout: str
    stderr: str
    cpu_secs: float


def _process(arguments: list[str]) -> _Process:
    """Returns the finished process `mtfrun ARGUMENTS`, with the CPU time that was its own."""
    command = [sys.executable, "-m", "mtfrun", *arguments]
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        actions = [
            (os.POSIX_SPAWN_DUP2, stdout.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, stderr.fileno(), 2),
        ]
        env = {**environment(), "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
        pid = os.posix_spawn(sys.executable, command, env, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode())
    return _Process(
        os.waitstatus_to_exitcode(status),
        texts[0],
        texts[1],
        cpu_secs=usage.ru_utime + usage.ru_stime,
    )
