"""The loop over positions: prompts, ends, and the independence of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import Decoder, Greedy, generate
from tests.decoding.markov_decoder import LAYOUT, VOCAB, follows, markov_decoder
from tests.layouts import ONE_DEVICE

# 0 (the start) -> 2 -> 3 -> 4 -> 1 (the end); 5 -> 6 -> 7 -> 5 never ends.
CHAIN = follows({0: 2, 2: 3, 3: 4, 4: 1, 5: 6, 6: 7, 7: 5})


def _generate(prompts: list[list[int]], mesh_shape: str = ONE_DEVICE) -> np.ndarray:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    ids = np.asarray(prompts, np.int32)
    shape = [("batch", ids.shape[0]), ("length", ids.shape[1])]

    def run(prompts: mtf.Tensor) -> mtf.Tensor:
        return generate(markov_decoder(mesh, CHAIN), prompts, Greedy(VOCAB)).ids

    return mtf.to_numpy(mtf.function(run)(mtf.import_tf_tensor(mesh, ids, shape)))


def test_a_row_without_a_prompt_starts_from_token_zero_and_stops_at_the_end_id() -> None:
    np.testing.assert_array_equal(_generate([[0] * 6]), [[2, 3, 4, 1, 0, 0]])


def test_every_row_continues_its_own_prompt() -> None:
    ids = _generate([[3, 0, 0, 0, 0, 0], [5, 5, 5, 0, 0, 0], [5, 6, 2, 2, 0, 0]])
    np.testing.assert_array_equal(ids, [[3, 4, 1, 0, 0, 0], [5, 5, 5, 6, 7, 5], [5, 6, 2, 2, 3, 4]])


def test_an_end_id_in_a_prompt_ends_the_row() -> None:
    np.testing.assert_array_equal(_generate([[1, 5, 5, 0]]), [[1, 0, 0, 0]])


def test_tokens_are_the_same_on_every_mesh(mesh_shape: str) -> None:
    prompts = [[i % 8, 0, 0, 0, 0] for i in range(8)]
    np.testing.assert_array_equal(_generate(prompts, mesh_shape), _generate(prompts))


def test_the_loop_stops_when_all_rows_have_ended() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    steps = mtf.Variable(mesh, [], dtype=tf.int32)
    steps.initialize(0, "steps")

    def run(prompts: mtf.Tensor) -> mtf.Tensor:
        chain = markov_decoder(mesh, CHAIN)

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            mtf.assign(steps, position + 1)
            return chain.step(ids, position, state)

        return generate(Decoder(step, ()), prompts, Greedy(VOCAB)).ids

    prompts = np.zeros([2, 50], np.int32)
    prompts[1, :6] = 5, 5, 5, 2, 3, 4
    mtf.function(run)(mtf.import_tf_tensor(mesh, prompts, "batch:2;length:50"))
    assert mtf.to_numpy(steps) == 7
