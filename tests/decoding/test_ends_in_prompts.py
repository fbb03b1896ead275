"""End ids in prompts: of inputs, which targets follow, or of the row."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.decoding import END_ID, Decoder, Search
from tests.decoding.markov_decoder import LAYOUT, VOCAB, follows, markov_decoder
from tests.layouts import ONE_DEVICE

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
