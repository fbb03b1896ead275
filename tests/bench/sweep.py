"""`bin/bench sweep`: what a sweep of tiny runs costs besides its trainings.

A sweep of a tiny language model trains one run after the other. The trainings are the sum of the
seconds in the results, which have tracing, compiling, steps, evaluations and checkpoints. The rest
is the import of TensorFlow, once, and for each run its process, its model and its data, and the end
of the sweep. For comparison the first run is trained by `mtfrun train`, in a new process.

Prints one JSON line; `ratio` is that of the sweep's time to the trainings'.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from mtfrun.extras.sweeps.result import results_of

GOAL = 1.1
_WORDS = 5000
_TINY = {
    **{"D_MODEL": 16, "D_FF": 32, "D_KV": 4, "NUM_HEADS": 4, "NUM_LAYERS": 2},
    **{"SEQUENCE_LENGTH": 32, "BATCH_SIZE": 8, "EVAL_AT_START": False},
    **{"Evaluation.max_batches": 4, "Decoding.decode_length": 8},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench sweep", description=__doc__)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        (directory / "text.txt").write_text("the quick brown fox\n" * _WORDS)
        flags = [
            *(f"--gin_file={file}" for file in ("defaults.gin", "models/lm_tiny.gin")),
            "--gin_file=data/text_files.gin",
            f"--gin.TEXT_FILES={str(directory / 'text.txt')!r}",
            f"--gin.TRAIN_STEPS={options.steps}",
            *(f"--gin.{key}={value}" for key, value in _TINY.items()),
        ]
        # The first process makes the cache of the data.
        process_secs = min(_run("train", flags, directory / f"run{i}") for i in range(2))
        secs = _run("sweep", [*flags, f"--seeds={options.runs}"], directory / "sweep")
        results = results_of(directory / "sweep")[1]
    trainings = sum(result.seconds or 0.0 for result in results)
    line = {
        "subject": f"a sweep of {len(results)} runs",
        "secs": round(secs, 2),
        "trainings_secs": round(trainings, 2),
        "ratio": round(secs / trainings, 3),
        "goal": GOAL,
        "new_processes_secs": round(process_secs * len(results), 2),
    }
    print(json.dumps(line))


def _run(command: str, flags: list[str], directory: pathlib.Path) -> float:
    start = time.perf_counter()
    words = [sys.executable, "-m", "mtfrun", command, *flags, f"--model_dir={directory}"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
