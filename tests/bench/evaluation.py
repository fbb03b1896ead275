"""`bin/bench evaluation`: evaluation and scoring against the forward pass of the model alone.

The small language model (gin/models/lm_small.gin, rows of 128 bytes). The reference computes the
loss of one batch that the device has, again and again, as a training step's forward pass does. An
evaluation also reads the batches and sums up the metrics; scoring encodes texts as long as a row.
They run in alternation in one process, 32 batches each, and a JSON line per subject has the median
time of a batch and its ratio to the forward pass.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

from mtfrun import mtf
from mtfrun.cli.parser import parse_flags
from mtfrun.data import PromptLimits
from mtfrun.experiment import Scoring
from mtfrun.experiment.runs.opening import Settings
from mtfrun.experiment.runs.run_training import prepare
from tests.bench.loop import CONFIGS, write_texts

GOAL = 1.1
BATCH, LENGTH, BATCHES = 8, 128, 32


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench evaluation", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tiny", action="store_true", help="a model of milliseconds, as a try")
    options = parser.parse_args()
    subjects = _subjects(tiny=options.tiny)
    secs: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(options.rounds + 1):
        for name, run in subjects.items():
            start = time.perf_counter()
            run()
            if number:  # the first round compiles
                secs[name].append((time.perf_counter() - start) / BATCHES)
    for name, times in secs.items():
        pairs = zip(times, secs["forward pass"], strict=True)
        line = {
            "bench": "evaluation",
            "config": "tiny" if options.tiny else "small",
            "who": name,
            "metric": "ms of a batch",
            "median": round(1e3 * statistics.median(times), 3),
            "runs": len(times),
            "ratio": round(statistics.median(x / reference for x, reference in pairs), 3),
            "goal": GOAL,
        }
        print(json.dumps(line), flush=True)


def _subjects(*, tiny: bool) -> dict[str, Callable[[], object]]:
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mtfrun-evaluation-"))
    command = [
        *("train", *CONFIGS["tiny" if tiny else "small"]),
        *("--gin_file=data/text_files.gin", f"--gin.TEXT_FILES={write_texts(directory)}"),
        *(f"--gin.BATCH_SIZE={BATCH}", f"--gin.SEQUENCE_LENGTH={LENGTH}"),
        *(f"--gin.Evaluation.max_batches={BATCHES}", "--gin.Evaluation.evaluators=[]"),
        f"--model_dir={directory / 'run'}",
    ]
    prepared = prepare(Settings.of_flags(parse_flags(command)))
    experiment, evaluation = prepared.objects.experiment, prepared.objects.evaluation
    prepared.training.state.initialize()
    infeed = experiment.evaluation_infeed(BATCH, "validation", 1)
    batch = infeed.next(1)
    assert batch is not None
    features = {name: mtf.gather(x, 0, x.shape[0]) for name, x in batch.items()}
    loss = mtf.function(lambda x: experiment.model.loss(x, training=False, key=None).total)

    def compute_losses() -> None:
        for _ in range(BATCHES):
            mtf.to_numpy(loss(features))

    scoring = Scoring(experiment, BATCH, PromptLimits(LENGTH, decode_length=LENGTH))
    pairs = [(b"", b"x" * (LENGTH - 1))] * (BATCH * BATCHES)
    return {
        "forward pass": compute_losses,
        "evaluation": lambda: evaluation(step=0),
        "scoring": lambda: scoring(pairs),
    }


if __name__ == "__main__":
    main()
