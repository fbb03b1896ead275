"""Searches: greedy decoding, prompts that are read at once, ends."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import END_ID, Decoder, Greedy, Search, generate
from tests.decoding.markov_decoder import LAYOUT, VOCAB, follows, markov_decoder
from tests.layouts import ONE_DEVICE


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"beam_size": 0}, "beam_size is 0: it must be an integer of at least 1"),
        ({"alpha": -0.1}, r"alpha is -0\.1: it must be at least 0"),
        ({"temperature": -1.0}, r"temperature is -1\.0: it must be at least 0"),
        ({"temperature": float("nan")}, "temperature is nan: it must be at least 0"),
        ({"beam_size": 2, "temperature": 1.0}, "a beam search draws no samples"),
        ({"top_k": -1}, "top_k is -1: it must be an integer of at least 0; 0 is for all"),
        ({"top_p": 0.0}, r"top_p is 0\.0: it must be more than 0"),
        ({"top_p": 1.5}, r"top_p is 1\.5: it must be more than 0 and at most 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Search(**settings)


@pytest.mark.parametrize(
    ("settings", "size"), [({"beam_size": 4}, 5), ({"top_k": 5}, 5), ({"beam_size": 1}, 2)]
)
def test_a_vocabulary_that_is_large_enough_is_accepted(settings: dict[str, Any], size: int) -> None:
    Search(**settings).check(size)
    name = next(iter(settings))
    with pytest.raises(ValueError, match=f"{name}={settings[name]} must be"):
        Search(**settings).check(size - 1)


PROMPTS = np.asarray([[5, END_ID, 0, 0, 0, 0, 0], [END_ID, 6, END_ID, 3, 0, 0, 0]], np.int32)
LIMITS = np.asarray([7, 6], np.int32)


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
@pytest.mark.parametrize("beam_size", [1, 2])
@pytest.mark.parametrize(
    ("ends_in_prompts", "expected"),
    [
        # An end that the model decodes ends the row.
        (True, [[5, END_ID, 3, 4, END_ID, 0, 0], [END_ID, 6, END_ID, 3, 4, END_ID, 0]]),
        (False, [[5, END_ID, 0, 0, 0, 0, 0], [END_ID, 0, 0, 0, 0, 0, 0]]),
    ],
)
def test_an_end_in_a_prompt_ends_its_row_unless_it_is_that_of_inputs(
    ends_in_prompts: bool, expected: list[list[int]], beam_size: int, mesh_shape: str
) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    batch, length = mtf.Dimension("batch", 2), mtf.Dimension("length", PROMPTS.shape[1])
    table = 9.0 * follows({END_ID: 3, 3: 4, 4: END_ID})

    def decoder_for(beam: mtf.Dimension | None) -> Decoder:
        return markov_decoder(mesh, table)._replace(ends_in_prompts=ends_in_prompts)

    search = functools.partial(Search(beam_size=beam_size), decoder_for)
    run = mtf.function(lambda p, n: search(p, VOCAB, lines=mtf.range(mesh, batch), limits=n))
    prompts = mtf.import_tf_tensor(mesh, PROMPTS, [batch, length])
    result = mtf.to_numpy(run(prompts, mtf.import_tf_tensor(mesh, LIMITS, [batch])))
    np.testing.assert_array_equal(result.ids[:, 0], expected)
    assert result.finished[:, 0].all()


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


PREFILLED_PROMPTS = np.asarray(
    [[5, END_ID, 3, 0, 0, 0, 0, 0], [5, 6, END_ID, 7, END_ID, 0, 0, 0]], np.int32
)


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
    prompts = np.zeros([len(limits), PREFILLED_PROMPTS.shape[1]], np.int32)
    prompts[:2] = PREFILLED_PROMPTS

    def run(prompts: mtf.Tensor, limits: mtf.Tensor) -> mtf.Tensor:
        def decoder_for(beam: mtf.Dimension | None) -> Decoder:
            dims = [batch] if beam is None else [batch, beam]
            return _counting_decoder(mesh, dims, prefills)

        search = Search(beam_size=beam_size)
        lines = mtf.range(mesh, batch)
        return search(decoder_for, prompts, VOCAB, lines=lines, limits=limits).ids

    arguments = [
        mtf.import_tf_tensor(mesh, prompts, [batch, ("length", PREFILLED_PROMPTS.shape[1])]),
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
    np.testing.assert_array_equal(ids[0], PREFILLED_PROMPTS[0])
    np.testing.assert_array_equal(ids[1], [5, 6, 1, 7, 1, 4, 5, 6])
