"""Processors of ids do what they say, ForbiddenWords as transformers, under every layout."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np
import pytest

from mtfrun.decoding import LogitProcessor
from mtfrun.extras.huggingface import (
    FirstIds,
    ForbiddenFirstIds,
    ForbiddenIds,
    ForbiddenWords,
    LastIds,
)
from tests.decoding.controls import test_processors as core
from tests.extras.huggingface.imported_models import run_program
from tests.layouts import assert_close

WORDS = [[7], [2, 3, 4, 2, 6], [7, 7, 1], [6, 0], [*range(1, 20)]]
PROCESSORS: Mapping[str, LogitProcessor] = {
    "forbidden ids": ForbiddenIds([2, 5]),
    "forbidden first ids": ForbiddenFirstIds([2, 5]),
    "forbidden ids behind the first": ForbiddenFirstIds([2, 5], position=1),
    "forbidden words": ForbiddenWords(WORDS),
    "first ids": FirstIds([4]),
    "last ids": LastIds([1, 3]),
}


def _expected(processor: LogitProcessor, row: int) -> np.ndarray:
    logits = core.LOGITS[row].copy()
    if isinstance(processor, ForbiddenWords):
        ids = core.IDS[row, : core.POSITION].tolist()
        logits[[w[-1] for w in WORDS if ids[len(ids) - len(w) + 1 :] == w[:-1]]] = -np.inf
    elif isinstance(processor, FirstIds | LastIds):
        at = core.PROMPT_LENGTHS[row] if isinstance(processor, FirstIds) else core.LIMITS[row] - 1
        if at == core.POSITION:
            logits[:] = -np.inf
            logits[processor.ids] = 0.0
    else:
        assert isinstance(processor, ForbiddenIds | ForbiddenFirstIds)
        place = (
            processor.position if isinstance(processor, ForbiddenFirstIds) else core.NEW_IDS[row]
        )
        if core.NEW_IDS[row] == place:
            logits[processor.ids] = -np.inf
    return logits


@pytest.fixture(scope="module")
def processed() -> dict[str, np.ndarray]:
    return core.process(PROCESSORS)


def test_processors_of_ids_follow_their_definitions(processed: dict[str, np.ndarray]) -> None:
    for name, processor in PROCESSORS.items():
        expected = np.stack([_expected(processor, row) for row in range(len(core.LOGITS))])
        assert_close(processed[name], expected)


def test_a_layout_changes_nothing(mesh_shape: str, processed: dict[str, np.ndarray]) -> None:
    for name, values in core.process(PROCESSORS, mesh_shape, copies=2).items():
        assert_close(values, np.tile(processed[name], [2, 1]))


def test_every_position_of_a_block_is_processed_by_the_ids_before_it() -> None:
    core.assert_equal_in_a_block(PROCESSORS["forbidden ids"], PROCESSORS["last ids"])


@pytest.mark.slow
def test_words_are_forbidden_as_in_transformers(
    tmp_path: pathlib.Path, processed: dict[str, np.ndarray]
) -> None:
    source, target = tmp_path / "case.npz", tmp_path / "processed.npz"
    np.savez(source, logits=core.LOGITS, ids=core.IDS[:, : core.POSITION], ends=core.ENDS)
    program = pathlib.Path(core.__file__).with_name("transformers_processors.py")
    run_program(program, str(source), str(target))
    with np.load(target) as expected:
        assert_close(processed["forbidden words"], expected["forbidden words"])
