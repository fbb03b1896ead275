"""Rows that join and leave a shared batch have the ids that they have alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mtfrun import decoding, mtf
from mtfrun.decoding import Search
from mtfrun.extras.constraints import Regex
from mtfrun.extras.serving.shared_batch import SharedBatch
from mtfrun.models import moe
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close, meshes

LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"
LENGTH = mtf.Dimension("length", 30)  # generate has one loop
VOCABULARY = 32
END_ID = 1
HEADS = t.AttentionHeads(num_heads=4, d_kv=4)
LAYERS: dict[str, Any] = {
    "rotary": [functools.partial(t.SelfAttention, heads=HEADS, rotary=True), t.FeedForward],
    "mixture": [
        functools.partial(
            t.LocalSelfAttention,
            heads=HEADS,
            window=5,
            relative_bias=functools.partial(t.RelativePositionBias, num_heads=4),
        ),
        functools.partial(
            moe.MoE1D, num_experts=4, experts=functools.partial(moe.Experts, hidden_size=8)
        ),
    ],
}

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(2, VOCABULARY, size=n).astype(np.int32) for n in (3, 20, 1, 9, 17, 2, 27)]
LIMITS = [30, 26, 7, 30, 30, 3, 30]


@functools.cache
def _model(mesh_shape: str, kind: str, reads_start: bool) -> t.DecoderOnly:
    model = t.DecoderOnly(
        mtf.Mesh(mesh_shape, LAYOUT),
        VOCABULARY,
        embedding=t.TokenEmbedding(
            16, max_length=LENGTH.size, tied_softmax=False, reads_start=reads_start
        ),
        stack=functools.partial(t.Stack, num_layers=1, layers=LAYERS[kind]),
    )
    mtf.initialize(model, seed=1)
    for variable in model.named_variables().values():  # far from ties
        mtf.assign(variable, 3.0 * mtf.read_variable(variable))
    return model


def _shared(model: t.DecoderOnly, places: Sequence[int], **settings: Any) -> SharedBatch:
    return SharedBatch(
        model,
        length=LENGTH.size,
        places=places,
        end_id=END_ID,
        **{"steps": 4, "blocks": (8, 16), **settings},
    )


def _alone(model: t.DecoderOnly, search: Search) -> list[tuple[list[int], float]]:
    """Returns the ids after each prompt, and the sum of their log-probabilities."""
    mesh = model.embedding.table.mesh
    # As many as any mesh splits.
    batch = mtf.Dimension("batch", 8)
    ids = np.zeros([batch.size, LENGTH.size], np.int32)
    for row, prompt in zip(ids, PROMPTS, strict=False):
        row[: len(prompt)] = prompt
    limits = np.zeros([batch.size], np.int32)
    limits[: len(LIMITS)] = LIMITS

    def run(prompts: mtf.Tensor, limits: mtf.Tensor, lines: mtf.Tensor) -> Any:
        decoder = model.decoder({"targets": prompts})
        choose = search.choice(model.vocab, lines)
        rules = search.controls.rules(END_ID, lambda: TOKENS)
        return decoding.generate(decoder, prompts, choose, limits=limits, rules=rules)

    result = mtf.to_numpy(
        mtf.function(run, jit_compile=not mesh.is_distributed)(
            mtf.import_tf_tensor(mesh, ids, [batch, LENGTH]),
            mtf.import_tf_tensor(mesh, limits, [batch]),
            mtf.import_tf_tensor(mesh, np.arange(batch.size, dtype=np.int32), [batch]),
        )
    )
    outputs = []
    for row, prompt in enumerate(PROMPTS):
        new = result.ids[row, len(prompt) : LIMITS[row]].tolist()
        end = new.index(END_ID) + 1 if END_ID in new else len(new)
        if search.controls.constraints:  # 0 follows
            end = min(end, len(np.trim_zeros(new, "b")))
        outputs.append((new[:end], float(result.scores[row])))
    return outputs


def _together(
    batch: SharedBatch, searches: Sequence[Search], *, leaves: int | None = None
) -> dict[int, tuple[list[int], float]]:
    """Decodes all prompts, each joining as soon as a place is free; one may leave after a call."""
    waiting = list(range(len(PROMPTS)))
    at: dict[int, int] = {}
    ids: dict[int, list[int]] = {}
    log_probs: dict[int, float] = {}
    while waiting or at:
        while waiting and batch.taken < batch.places:
            line = waiting.pop(0)
            guide = searches[line].controls.rules(END_ID, lambda: TOKENS).guide
            place = batch.join(PROMPTS[line], LIMITS[line], searches[line], line, guide)
            at[place], ids[line], log_probs[line] = line, [], 0.0
        for decoded in batch.advance():
            line = at[decoded.place]
            ids[line] += decoded.ids.tolist()
            log_probs[line] += float(decoded.log_probs.sum())
            if decoded.done or line == leaves:
                batch.leave(decoded.place)
                del at[decoded.place]
    return {line: (ids[line], log_probs[line]) for line in ids}


def _assert_same(actual: tuple[list[int], float], expected: tuple[list[int], float]) -> None:
    assert actual[0] == expected[0]
    assert_close(actual[1], expected[1], FLOAT32_MODEL_TOLERANCE)


GREEDY, DRAWN = Search(), Search(temperature=0.9, seed=5)
FROM_SOME = Search(temperature=1.2, top_k=9, top_p=0.8, seed=2)
PENALTIES = decoding.Controls((decoding.FrequencyPenalty(6.0), decoding.PresencePenalty(-3.0)))
PENALISED = Search(controls=PENALTIES)
# Ids from 2 on write a letter.
TOKENS = decoding.TokenTexts([b"", b"", *(bytes([97 + i]) for i in range(VOCABULARY - 2))])
GUIDED = Search(controls=decoding.Controls(constraints=(Regex("[a-h]{2,6}x[^x]*"),)))
DRAWN_AND_GUIDED = Search(
    temperature=0.9, seed=5, controls=decoding.Controls(constraints=(Regex("(ab|c.){3}"),))
)


def _check(model: t.DecoderOnly, batch: SharedBatch, searches: Sequence[Search]) -> None:
    by_line = [searches[line % len(searches)] for line in range(len(PROMPTS))]
    expected = {search: _alone(model, search) for search in searches}
    for line, actual in _together(batch, by_line).items():
        _assert_same(actual, expected[by_line[line]][line])


def test_rows_that_join_and_leave_have_the_ids_that_they_have_alone() -> None:
    model = _model(ONE_DEVICE, "rotary", reads_start=True)
    expected = _alone(model, GREEDY)
    for line, actual in _together(_shared(model, [3]), [GREEDY] * 7, leaves=3).items():
        if line == 3:  # it leaves early
            assert actual[0] == expected[3][0][: len(actual[0])]
        else:
            _assert_same(actual, expected[line])


@pytest.mark.slow
@pytest.mark.usefixtures("decodes_by_xla")
@pytest.mark.parametrize(("kind", "reads_start"), [("rotary", False), ("mixture", True)])
def test_settings_of_rows_and_kinds_of_models(kind: str, reads_start: bool) -> None:
    model = _model(ONE_DEVICE, kind, reads_start)
    searches = [GREEDY, DRAWN, FROM_SOME, PENALISED, GUIDED, DRAWN_AND_GUIDED]
    _check(model, _shared(model, [1, 2, 4]), searches)


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", meshes())
def test_a_layout_changes_nothing(mesh_shape: str) -> None:
    model = _model(mesh_shape, "mixture", reads_start=True)
    _check(model, _shared(model, [8], blocks=[16]), [FROM_SOME, PENALISED, GUIDED])
