"""Stretches of runs that were killed and resumed are computed again, and have the same bits."""

from __future__ import annotations

import functools
import json
import pathlib
import random
from collections.abc import Callable

import pytest

from tests.cli.command import TINY, tiny_experiment, tiny_pairs_experiment
from tests.faults.forked import finished, running
from tests.faults.training_run import MESHES, last_step

STEPS, SAVED, KILLS, STRETCHES, LONGEST = 60, 10, 2, 13, 20


def _mixture(directory: pathlib.Path) -> list[str]:
    files = ["defaults.gin", "models/moe_1d_tiny.gin", "data/text_files.gin"]
    texts = next(flag for flag in tiny_experiment(directory) if "TEXT_FILES" in flag)
    sizes = [*TINY, "--gin.NUM_LAYERS=1", "--gin.NUM_EXPERTS=4", "--gin.Capacity.group_size=64"]
    return [*(f"--gin_file={file}" for file in files), *sizes, texts]


def _residual_network(_: pathlib.Path) -> list[str]:
    sizes = ["--gin.STAGE_SIZES=[1, 1]", "--gin.WIDTHS=[4, 8]", "--gin.BATCH_SIZE=16"]
    return ["--gin_file=runs/digits.gin", *sizes]


KINDS: dict[str, Callable[[pathlib.Path], list[str]]] = {
    "language model": tiny_experiment,
    "mixture": _mixture,
    "encoder-decoder": tiny_pairs_experiment,
    "residual network": _residual_network,
}


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], pathlib.Path]:
    @functools.cache
    def train(kind: str, mesh: str) -> pathlib.Path:
        directory = tmp_path_factory.mktemp("killed")
        flags = [
            *("train", *KINDS[kind](directory), f"--gin.MESH_SHAPE='{MESHES[mesh]}'"),
            *(f"--gin.TRAIN_STEPS={STEPS}", f"--gin.CHECKPOINT_EVERY={SAVED}"),
            *("--gin.ITERATIONS_PER_LOOP=2", "--gin.LOG_EVERY=2", "--gin.WARMUP_STEPS=5"),
            *("--gin.CheckpointOptions.max_to_keep=10", "--gin.EVAL_EVERY=None"),
            *("--gin.EVAL_AT_START=False", f"--model_dir={directory}/run"),
        ]
        rng = random.Random(f"{kind} {mesh}")
        ends = sorted(rng.sample(range(SAVED + 1, STEPS - 2), KILLS))
        for number, end in enumerate(ends):
            with running(flags, directory / f"killed {number}") as command:

                def has_reached(text: str, end: int = end) -> bool:
                    return last_step(text) >= end

                assert command.wait_for(has_reached), command.stderr
                command.kill()
        finished(flags, directory / "output")
        return directory / "run"

    return train


@pytest.mark.faults
@pytest.mark.parametrize("number", range(STRETCHES))
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stretch_is_identical(
    kind: str,
    mesh: str,
    number: int,
    killed_run: Callable[[str, str], pathlib.Path],
    tmp_path: pathlib.Path,
) -> None:
    rng = random.Random(f"{kind} {mesh} {number}")
    first = rng.randint(1, STEPS)
    last = min(STEPS, first + rng.randrange(LONGEST))
    run = killed_run(kind, mesh)
    flags = ["audit", "replay", f"--model_dir={run}", f"--steps={first}:{last}", "--json"]
    result = json.loads(finished(flags, tmp_path / "output").stdout)
    assert (result["difference"], result["is_exact"]) == (None, True)
    assert result["steps"] == last - first + 1
    assert result["start"] == (first - 1) // SAVED * SAVED
