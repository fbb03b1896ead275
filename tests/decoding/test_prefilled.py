"""Decoders that read prompts at once: where steps begin, and what ends a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import END_ID, Decoder, Search
from tests.decoding.markov_decoder import LAYOUT, VOCAB
from tests.layouts import ONE_DEVICE

PROMPTS = np.asarray([[5, END_ID, 3, 0, 0, 0, 0, 0], [5, 6, END_ID, 7, END_ID, 0, 0, 0]], np.int32)


def _counting_decoder(mesh: mtf.Mesh, dims: list[mtf.Dimension], reads_at_once: bool) -> Decoder:
    """Returns a decoder whose likeliest id is 2 more than the steps made before, up to 7.

    An end is the least likely one. Its prompts are prefixes where it reads them at once.
    """

    def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
        likeliest = mtf.one_hot(mtf.minimum(state + 2, 7), VOCAB, on_value=9.0)
        end = mtf.one_hot(mtf.constant(mesh, END_ID, dtype=tf.int32), VOCAB, on_value=9.0)
        return likeliest - end, state + 1

    nothing = mtf.zeros(mesh, dims, tf.int32)
    if not reads_at_once:
        return Decoder(step, nothing)
    read = Decoder(step, nothing, prefix=True, given_ends=True)
    return read._replace(initial_state=nothing - 9, at_once=lambda n, known: read)


def _ids(beam_size: int, mesh_shape: str, limits: list[int], reads_at_once: bool) -> np.ndarray:
    """Returns the best ids of the prompts, with an empty row for each limit behind the second."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    batch = mtf.Dimension("batch", len(limits))
    prompts = np.zeros([len(limits), PROMPTS.shape[1]], np.int32)
    prompts[:2] = PROMPTS

    def run(prompts: mtf.Tensor, limits: mtf.Tensor) -> mtf.Tensor:
        def decoder_for(beam: mtf.Dimension | None) -> Decoder:
            dims = [batch] if beam is None else [batch, beam]
            return _counting_decoder(mesh, dims, reads_at_once)

        search = Search(beam_size=beam_size)
        lines = mtf.range(mesh, batch)
        return search(decoder_for, prompts, VOCAB, lines=lines, limits=limits).ids

    arguments = [
        mtf.import_tf_tensor(mesh, prompts, [batch, ("length", PROMPTS.shape[1])]),
        mtf.import_tf_tensor(mesh, np.asarray(limits, np.int32), [batch]),
    ]
    return mtf.to_numpy(mtf.function(run)(*arguments))[:, 0]


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
@pytest.mark.parametrize("beam_size", [1, 2])
def test_steps_begin_behind_the_shortest_prompt(beam_size: int, mesh_shape: str) -> None:
    made = _ids(beam_size, mesh_shape, [8, 8, 0, 0], reads_at_once=True)
    expected = [[5, 1, 3, 2, 3, 4, 5, 6], [5, 6, 1, 7, 1, 4, 5, 6]]
    np.testing.assert_array_equal(made[:2], expected)


@pytest.mark.parametrize("beam_size", [1, 2])
def test_an_end_that_was_not_read_beforehand_ends_its_row(beam_size: int) -> None:
    made = _ids(beam_size, ONE_DEVICE, [8, 8], reads_at_once=False)
    np.testing.assert_array_equal(made, [[5, 1, 0, 0, 0, 0, 0, 0], [5, 6, 1, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize("beam_size", [1, 2])
def test_a_prompt_as_long_as_its_limit_is_left_as_it_is(beam_size: int) -> None:
    made = _ids(beam_size, ONE_DEVICE, [3, 8], reads_at_once=True)
    np.testing.assert_array_equal(made[0], PROMPTS[0])
    np.testing.assert_array_equal(made[1], [5, 6, 1, 7, 1, 4, 5, 6])
