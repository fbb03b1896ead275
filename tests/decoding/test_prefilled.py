"""Decoders that read prompts in one pass: the first step, and the ends of rows."""

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


def _counting_decoder(mesh: mtf.Mesh, dims: list[mtf.Dimension], prefills: bool) -> Decoder:
    """Returns a decoder whose most likely id is 2 more than the number of earlier steps, up to 7.

    An end is the least likely id. Its prompts are prefixes if it reads them in one pass.
    """

    def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
        most_likely = mtf.one_hot(mtf.minimum(state + 2, 7), VOCAB, on_value=9.0)
        end = mtf.one_hot(mtf.constant(mesh, END_ID, dtype=tf.int32), VOCAB, on_value=9.0)
        return most_likely - end, state + 1

    no_steps = mtf.zeros(mesh, dims, tf.int32)
    if not prefills:
        return Decoder(step, no_steps)
    prefilled = Decoder(step, no_steps, prefix=True, ends_in_prompts=True)
    return prefilled._replace(initial_state=no_steps - 9, at_once=lambda n, known: prefilled)


def _ids(beam_size: int, mesh_shape: str, limits: list[int], prefills: bool) -> np.ndarray:
    """Returns the best ids of the prompts, with an empty row for each limit after the second."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    batch = mtf.Dimension("batch", len(limits))
    prompts = np.zeros([len(limits), PROMPTS.shape[1]], np.int32)
    prompts[:2] = PROMPTS

    def run(prompts: mtf.Tensor, limits: mtf.Tensor) -> mtf.Tensor:
        def decoder_for(beam: mtf.Dimension | None) -> Decoder:
            dims = [batch] if beam is None else [batch, beam]
            return _counting_decoder(mesh, dims, prefills)

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
def test_steps_begin_at_the_end_of_the_shortest_prompt(beam_size: int, mesh_shape: str) -> None:
    ids = _ids(beam_size, mesh_shape, [8, 8, 0, 0], prefills=True)
    expected = [[5, 1, 3, 2, 3, 4, 5, 6], [5, 6, 1, 7, 1, 4, 5, 6]]
    np.testing.assert_array_equal(ids[:2], expected)


@pytest.mark.parametrize("beam_size", [1, 2])
def test_an_end_that_a_step_reads_ends_its_row(beam_size: int) -> None:
    ids = _ids(beam_size, ONE_DEVICE, [8, 8], prefills=False)
    np.testing.assert_array_equal(ids, [[5, 1, 0, 0, 0, 0, 0, 0], [5, 6, 1, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize("beam_size", [1, 2])
def test_a_prompt_as_long_as_its_limit_is_not_continued(beam_size: int) -> None:
    ids = _ids(beam_size, ONE_DEVICE, [3, 8], prefills=True)
    np.testing.assert_array_equal(ids[0], PROMPTS[0])
    np.testing.assert_array_equal(ids[1], [5, 6, 1, 7, 1, 4, 5, 6])
