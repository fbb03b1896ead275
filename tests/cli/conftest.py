"""Trained runs that the tests of this folder share."""

from __future__ import annotations

import pytest

from tests.cli.command import mtfrun_here, succeeded, tiny_experiment, tiny_pairs_experiment

EXPERIMENTS = {"language model": tiny_experiment, "encoder-decoder": tiny_pairs_experiment}


@pytest.fixture(scope="session", params=EXPERIMENTS)
def tiny_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a run of each kind of model, which nothing changes; it decodes seven prompts
    at a time."""
    directory = tmp_path_factory.mktemp("tiny")
    model_dir = str(directory / "run")
    flags = [*EXPERIMENTS[request.param](directory), "--gin.Decoding.batch_size=7"]
    succeeded(mtfrun_here("train", *flags, f"--model_dir={model_dir}"))
    return model_dir
