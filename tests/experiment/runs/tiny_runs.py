"""Tiny runs, trained in Python."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import mtfrun
from mtfrun.cli.parser import parse_flags
from mtfrun.experiment.runs.run import Run
from tests.cli.command import tiny_experiment, tiny_pairs_experiment

# The kinds of text models, by what they are called in the parameters of tests.
KINDS: dict[str, Callable[[pathlib.Path], list[str]]] = {
    "language model": tiny_experiment,
    "encoder-decoder": tiny_pairs_experiment,
}


def files_and_params(flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the gin files and the bindings of a command's flags, for `mtfrun.train`."""
    parsed = parse_flags(["train", *flags, "--model_dir=unused"])
    return parsed.gin_file, [text for _, text in parsed.bindings]


def trained(kind: str, directory: pathlib.Path) -> Run:
    """Returns a run of two steps, of which checkpoints were saved, in `directory`/run."""
    files, params = files_and_params(KINDS[kind](directory))
    return mtfrun.train(files, directory / "run", gin_params=params, CHECKPOINT_EVERY=1)
