"""The subject of `bin/bench loop`: the training loop of a configuration, with some of its parts."""

import time

STARTED = time.time()

import argparse  # noqa: E402
import pathlib  # noqa: E402
import queue  # noqa: E402
import random  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

from mtfrun import training  # noqa: E402
from mtfrun.api.run_training import TrainChoices, prepared, run_training  # noqa: E402
from mtfrun.cli.flags import parse_flags  # noqa: E402
from mtfrun.cli.gin_settings import settings_of  # noqa: E402
from mtfrun.rundir import RunDirectory, Summaries  # noqa: E402
from mtfrun.training import loop  # noqa: E402
from mtfrun.training.finite import FiniteGuard  # noqa: E402
from mtfrun.training.progress import Progress  # noqa: E402
from tests.bench.worker import Step, serve  # noqa: E402


def _nothing(*_: Any, **__: Any) -> None:
    """Takes the place of a part that a subject is without."""


# Parts of the loop, and what they consist of. Checkpoints are left out by their options.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "checkpoints": [],
    "summaries": [(loop, "write_metrics"), (Summaries, "text"), (Summaries, "flush")],
    "finite check": [(FiniteGuard, "check_steps"), (FiniteGuard, "check_variables")],
    "progress line": [(Progress, "line"), (Progress, "advance"), (Progress, "note")],
}
_WORDS = 5000
_TINY = [f"--gin.{name}=16" for name in ("D_MODEL", "D_FF", "D_KV")]


class Gate(training.Action):
    """Stops the loop after every so many steps, until it is told to go on.

    Args:
      every_steps: how many.
    """

    def __init__(self, every_steps: int):
        self.every_steps = every_steps
        self._arrived: queue.Queue[float] = queue.Queue()
        self._opened: queue.Queue[None] = queue.Queue()
        self._is_closed = False

    def __call__(self, context: training.ActionContext) -> None:
        """Waits until the next request."""
        self._arrived.put(context.values.get("loss", 0.0))
        self._opened.get()

    def next(self) -> float:
        """Returns the loss after the next steps; between two calls the loop waits."""
        if self._is_closed:
            self._opened.put(None)
        self._is_closed = True
        return self._arrived.get()


def setup(arguments: argparse.Namespace) -> Step:
    """Returns a step: so many steps of the loop, which runs in a thread."""
    _leave_out(set(PARTS) - set(arguments.parts))
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mtfrun-loop-"))
    gate = Gate(arguments.steps)
    every = arguments.steps if "checkpoints" in arguments.parts else "None"
    command = [
        "train",
        *("--gin_file=defaults.gin", "--gin_file=models/lm_small.gin"),
        "--gin_file=data/text_files.gin",
        f"--gin.TEXT_FILES={_texts(directory)}",
        *("--gin.BATCH_SIZE=8", "--gin.SEQUENCE_LENGTH=128", "--gin.TRAIN_STEPS=1000000"),
        *(f"--gin.CHECKPOINT_EVERY={every}", "--gin.CheckpointOptions.every_secs=None"),
        *("--gin.EVAL_EVERY=None", "--gin.LOG_EVERY=50"),
        *(_TINY if arguments.tiny else []),
        f"--model_dir={directory / 'run'}",
    ]
    preparation = prepared(settings_of(parse_flags(command)))
    # After the parts, so that a request ends with them.
    preparation.training._actions = [gate]

    def train() -> None:
        run_training(preparation, RunDirectory(directory / "run"), command, TrainChoices())

    threading.Thread(target=train, daemon=True).start()
    return gate.next


def _leave_out(parts: set[str]) -> None:
    for part in parts:
        for owner, name in PARTS[part]:
            setattr(owner, name, _nothing)


def _texts(directory: pathlib.Path) -> dict[str, str]:
    """Writes random words and returns the files by split."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(_WORDS)]
    texts = {}
    for split in ("train", "validation"):
        path = directory / f"{split}.txt"
        path.write_text("\n".join(_lines(words, rng)))
        texts[split] = str(path)
    return texts


def _lines(words: list[str], rng: random.Random) -> Iterator[str]:
    for _ in range(_WORDS):
        yield " ".join(rng.choices(words, k=12))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--with", dest="parts", action="append", default=[], choices=PARTS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tiny", action="store_true")
    parsed = parser.parse_args()
    serve(lambda: setup(parsed), STARTED)
