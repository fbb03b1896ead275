"""A long run takes no more memory and no more files than a short one."""

from __future__ import annotations

import os
import pathlib
import statistics
import time
from typing import NamedTuple

import pytest

from tests.faults.forked import ForkedCommand, running
from tests.faults.training_run import TrainingRun

LARGEST_GROWTH = 0.03
_POLL_SECS = 0.02


class Sample(NamedTuple):
    step: int
    memory: int
    files: int


def _samples(command: ForkedCommand) -> list[Sample]:
    samples: list[Sample] = []
    length = 0
    while not command.has_ended:
        time.sleep(_POLL_SECS)
        text = command.stderr
        if len(text) == length:
            continue
        length = len(text)
        lines = [line for line in text.splitlines()[-5:] if line.startswith("step ")]
        if not lines:
            continue
        step = int(lines[-1].split()[1].split("/")[0])
        try:
            pages = int(pathlib.Path(f"/proc/{command.pid}/statm").read_text().split()[1])
            files = len(os.listdir(f"/proc/{command.pid}/fd"))  # noqa: PTH208
        except (FileNotFoundError, ProcessLookupError, IndexError):
            break
        samples.append(Sample(step, pages * os.sysconf("SC_PAGE_SIZE"), files))
    return samples


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("steps", "settled"),
    [
        pytest.param(2_000, 600, marks=pytest.mark.slow),
        pytest.param(20_000, 2_000, marks=pytest.mark.faults),
    ],
)
def test_memory_and_files_do_not_grow(steps: int, settled: int, tmp_path: pathlib.Path) -> None:
    """After step `settled`.

    Memory at a moment is the median over a tenth of the steps. Files are the fewest of a tenth: a
    save in progress has some more open.
    """
    command = [
        *TrainingRun(steps=steps, visit=10).command(tmp_path, tmp_path / "run"),
        "--gin.LOG_EVERY=20",
        "--gin.CHECKPOINT_EVERY=100",
        f"--gin.EVAL_EVERY={steps // 40}",
    ]
    with running(command, tmp_path / "output") as process:
        samples = _samples(process)
        assert process.wait() == 0, process.stderr
    tenth = steps // 10
    first = [sample for sample in samples if settled <= sample.step < settled + tenth]
    last = [sample for sample in samples if steps - tenth <= sample.step < steps]
    assert first and last, f"{len(samples)} samples"
    memory = [statistics.median(sample.memory for sample in part) for part in (first, last)]
    files = [min(sample.files for sample in part) for part in (first, last)]
    growth = memory[1] / memory[0] - 1
    assert growth < LARGEST_GROWTH, f"{memory} bytes"
    assert files[1] <= files[0]
