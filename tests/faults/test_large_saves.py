"""SIGKILL while the data of a save are written, which takes most of its time, loses nothing."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.checkpoints.checkpoints import Checkpoints
from tests.rundir.small_model import names

ROOT = pathlib.Path(__file__).parent.parent.parent

# TensorFlow is imported once; every round forks a trainer from that, before TensorFlow has started
# any thread. The trainer restores, then saves step after step until it is killed.
SCRIPT = """
    import json, os, random, signal, sys, time
    import numpy as np
    import tensorflow as tf
    from mtfrun.checkpoints.checkpoints import Checkpoints

    def train(directory, pipe):
        checkpoints = Checkpoints(directory, max_to_keep=2)
        variables = {f"layer/{i}": tf.Variable(tf.zeros([300_000])) for i in range(4)}
        checkpoints.clean()
        step = 0
        if checkpoints.latest() is not None:
            step = checkpoints.restore(None, variables).step
            assert step == checkpoints.latest(), "no half-saved checkpoint has a manifest"
            assert all(np.all(v.numpy() == step) for v in variables.values()), "values of the step"
        os.write(pipe, f"{step}\\n".encode())
        while True:
            step += 1
            for variable in variables.values():
                variable.assign(tf.fill([300_000], float(step)))
            checkpoints.save(step, variables)
            os.write(pipe, f"{step}\\n".encode())

    rounds, directory = int(sys.argv[1]), sys.argv[2]
    rng, acknowledged, restored = random.Random(0), 0, []
    for _ in range(rounds):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                train(directory, writing)
            finally:
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading) as lines:
            restored.append(int(lines.readline() or -1))
            assert restored[-1] >= acknowledged, (restored, acknowledged)
            first = int(lines.readline())
            time.sleep(rng.uniform(0.0, 0.15))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged = max([first, *map(int, lines)])
    print(json.dumps({"restored": restored, "acknowledged": acknowledged}))
"""


@pytest.mark.parametrize(
    "rounds", [pytest.param(4, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.faults)]
)
def test_a_kill_loses_no_acknowledged_checkpoint_and_leaves_no_file(
    rounds: int, tmp_path: pathlib.Path
) -> None:
    directory = tmp_path / "checkpoints"
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(rounds), str(directory)],
        capture_output=True,
        text=True,
        timeout=550,
        cwd=ROOT,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    report = json.loads(process.stdout.splitlines()[-1])
    assert len(report["restored"]) == rounds
    assert report["acknowledged"] > rounds // 2, "most rounds saved something before the kill"

    checkpoints = Checkpoints(directory)
    variables = {f"layer/{i}": tf.Variable(tf.zeros([300_000])) for i in range(4)}
    step = checkpoints.restore(None, variables).step
    assert step in (report["acknowledged"], report["acknowledged"] + 1)
    assert all(np.all(variable.numpy() == step) for variable in variables.values())
    checkpoints.clean()
    assert {name.split(".")[0] for name in names(directory)} == {
        f"ckpt-{step}" for step in checkpoints.steps()
    }
