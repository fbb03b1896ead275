"""Searches, step by step and whole, equal the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import BeamSearch, Decoder, Greedy, Hypotheses, Rules, generate
from mtfrun.decoding.beam_step import (
    Active,
    Finished,
    grow_active,
    grow_finished,
    grow_topk,
    is_unfinished,
    reorder_state,
)
from mtfrun.decoding.length_penalty import length_penalty
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.oracle.reference_cases import ReferenceCase, reference_cases
from tests.oracle.reference_decodes import on_one_and_several

HIDDEN = mtf.Dimension("hidden", 3)


def stateful_decoder(
    mesh: mtf.Mesh, arrays: Mapping[str, np.ndarray], rows: mtf.ShapeLike, decay: float
) -> Decoder:
    """Returns the model of a case as a decoder for rows {batch} or {batch, beam}.

    With prev = the previous id: state1' = decay * state1 + embedding[prev]; state2' = state2 with
    embedding[prev] at the position; logits = table[prev] + position_bias[position] + batch_bias
    + state1' . w1 + (sum over l of position_coef[l] * state2'[l]) . w2.
    """
    rows = mtf.convert_to_shape(rows)
    length = mtf.Dimension("length", arrays["position_bias"].shape[0])
    before = mtf.Dimension("before", arrays["table"].shape[0])
    vocab = mtf.Dimension("vocab", before.size)
    shapes = {
        "table": [before, vocab],
        "position_bias": [length, vocab],
        "batch_bias": [rows[0], vocab],
        "embedding": [before, HIDDEN],
        "w1": [HIDDEN, vocab],
        "w2": [HIDDEN, vocab],
        "position_coef": [length],
    }
    w = {
        name: mtf.import_tf_tensor(mesh, arrays[name].astype(np.float32), shape)
        for name, shape in shapes.items()
    }

    def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
        entry = mtf.gather(w["embedding"], ids, before)
        state1, state2 = state
        state1 = state1 * decay + entry
        at_position = mtf.cast(mtf.equal(mtf.range(mesh, length), position), tf.float32)
        state2 = state2 + mtf.einsum([at_position, entry], output_shape=state2.shape)
        logits = mtf.gather(w["table"], ids, before) + mtf.gather(
            w["position_bias"], position, length
        )
        logits = logits + w["batch_bias"]
        mixed = mtf.einsum([w["position_coef"], state2], output_shape=state1.shape)
        shape = [*rows, vocab]
        logits = logits + mtf.einsum([state1, w["w1"]], output_shape=shape)
        return logits + mtf.einsum([mixed, w["w2"]], output_shape=shape), (state1, state2)

    state = (mtf.zeros(mesh, [*rows, HIDDEN]), mtf.zeros(mesh, [*rows, length, HIDDEN]))
    return Decoder(step, state)


CASES = reference_cases("beam_steps")
MODELS = [name for name in CASES if name.endswith("_model")]
STEPS = [name for name in CASES if "_step" in name]


def _model_of(name: str) -> ReferenceCase:
    return CASES[name.split("_step", maxsplit=1)[0] + "_model"]


def mesh_of(case: ReferenceCase, distributed: bool) -> mtf.Mesh:
    """Returns one device, or the mesh of up to 2x2 that divides the batch and the vocabulary."""
    if not distributed:
        return mtf.Mesh()
    data = next((n for n in (2, 3) if case.hparams["batch"] % n == 0), 1)
    model = next((n for n in (2, 3, 5) if case.hparams["vocab"] % n == 0), 1)
    shape = f"data:{data},model:{model if data * model <= 8 else 1}"
    return mtf.Mesh(shape, "batch:data;vocab:model")


def _dims(model: ReferenceCase) -> tuple[mtf.Dimension, ...]:
    names = {"batch": "batch", "beam": "beam_size", "length": "length", "vocab": "vocab"}
    return tuple(mtf.Dimension(name, model.hparams[key]) for name, key in names.items())


def _step(case: ReferenceCase, model: ReferenceCase, mesh: mtf.Mesh) -> dict[str, Any]:
    """Returns what the functions make of a step's inputs, by the names of the reference."""
    batch, beam, length, vocab = _dims(model)
    options = case.hparams
    hidden = mtf.Dimension("hidden", 3)
    shapes = {
        "alive_seq": [batch, beam, length],
        "alive_log_probs": [batch, beam],
        "finished_seq": [batch, beam, length],
        "finished_scores": [batch, beam],
        "finished_flags": [batch, beam],
        "state1": [batch, beam, hidden],
        "state2": [batch, beam, length, hidden],
    }
    limit = options["decode_length"] or length.size

    def run(x: dict[str, mtf.Tensor], position: mtf.Tensor, limits: mtf.Tensor) -> dict[str, Any]:
        active = Active(x["alive_seq"], x["alive_log_probs"])
        finished = Finished(x["finished_seq"], x["finished_scores"], x["finished_flags"])
        unfinished_rows = is_unfinished(
            position,
            active,
            finished,
            limits,
            alpha=options["alpha"],
            stop_early=options["stop_early"],
        )
        before = mtf.equal(mtf.range(mesh, length), position - 1)
        previous = mtf.reduce_sum(active.seq * mtf.to_int32(before), reduced_dim=length)
        decoder = stateful_decoder(
            mesh, model.with_role("in"), [batch, beam], model.hparams["decay"]
        )
        logits, state = decoder.step(previous, position, (x["state1"], x["state2"]))
        candidates = grow_topk(
            position,
            active,
            logits,
            vocab=vocab,
            penalty=length_penalty(position + 1, options["alpha"]),
            end_ids=[options["eos_id"]],
        )
        new_active, chosen = grow_active(candidates, beam)
        new_finished = grow_finished(finished, candidates)
        double_beam = candidates.scores.shape[1]
        top_state = reorder_state(state, candidates.parents, beam)
        # States of the active beams, reordered once.
        new_state = reorder_state(state, mtf.gather(candidates.parents, chosen, double_beam), beam)
        return {
            "logits": logits,
            "top_seq": candidates.seq,
            "top_log_probs": candidates.log_probs,
            "top_scores": candidates.scores,
            "top_finished": candidates.finished,
            "top_state1": top_state[0],
            "top_state2": top_state[1],
            "new_alive_seq": new_active.seq,
            "new_alive_log_probs": new_active.log_probs,
            "new_alive_finished": mtf.equal(
                mtf.gather(mtf.to_int32(candidates.finished), chosen, double_beam), 1
            ),
            "new_state1": new_state[0],
            "new_state2": new_state[1],
            "new_finished_seq": new_finished.seq,
            "new_finished_scores": new_finished.scores,
            "new_finished_flags": new_finished.flags,
            "continue": mtf.reduce_any(unfinished_rows),
        }

    inputs = {
        name: mtf.import_tf_tensor(mesh, case.arrays[f"in/{name}"], shape)
        for name, shape in shapes.items()
    }
    position = mtf.import_tf_tensor(mesh, np.int32(options["i"]), [])
    limits = mtf.import_tf_tensor(mesh, np.full([batch.size], limit, np.int32), [batch])
    return mtf.to_numpy(mtf.function(run)(inputs, position, limits))


@pytest.mark.parametrize("name, distributed", on_one_and_several(STEPS))
def test_a_step_equals_the_original(name: str, distributed: bool) -> None:
    case, model = CASES[name], _model_of(name)
    found = _step(case, model, mesh_of(model, distributed))
    expected = case.with_role("out")
    # Places whose flag is False are empty. The ids there are of whichever of the equal scores, all
    # -1e7, came first, and nothing reads them.
    for values in (found, expected):
        empty = ~values["new_finished_flags"][..., np.newaxis]
        values["new_finished_seq"] = np.where(empty, 0, values["new_finished_seq"])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(found[key], value, FLOAT32_MODEL_TOLERANCE)


DECODE_CASES = CASES | reference_cases("decode")
BEAM_CASES = [*MODELS, *(name for name in DECODE_CASES if name.startswith("beam"))]
GREEDY_CASES = [name for name in DECODE_CASES if name.startswith("greedy")]


def test_all_cases_are_there() -> None:
    assert (len(STEPS), len(BEAM_CASES), len(GREEDY_CASES)) == (21, 19, 8)


@pytest.mark.parametrize("name, distributed", on_one_and_several(BEAM_CASES))
def test_beam_search_equals_the_original(name: str, distributed: bool) -> None:
    case = DECODE_CASES[name]
    mesh, options = mesh_of(case, distributed), case.hparams
    batch, beam, length, vocab = _dims(case)
    limit = min(options["decode_length"] or length.size, length.size)

    def run(prompts: mtf.Tensor, limits: mtf.Tensor) -> Hypotheses:
        search = BeamSearch(
            options["alpha"],
            stop_early=options["stop_early"],
            independent_rows=False,
            num_prefilter=options.get("num_prefilter", 0),
        )
        decoder = stateful_decoder(mesh, case.with_role("in"), [batch, beam], options["decay"])
        rules = Rules((options["eos_id"],))
        return search(decoder, prompts, beam, vocab, limits=limits, rules=rules)

    zeros = np.zeros([batch.size, length.size], np.int32)
    prompts = mtf.import_tf_tensor(mesh, zeros, [batch, length])
    limits = mtf.import_tf_tensor(mesh, np.full([batch.size], limit, np.int32), [batch])
    hypotheses = mtf.to_numpy(mtf.function(run)(prompts, limits))
    prefix = "out/beam_search_" if name in MODELS else "out/"
    np.testing.assert_array_equal(hypotheses.ids, case.arrays[f"{prefix}ids"])
    assert_close(hypotheses.scores, case.arrays[f"{prefix}scores"], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("name, distributed", on_one_and_several(GREEDY_CASES))
def test_greedy_decoding_equals_the_original_up_to_each_rows_end(
    name: str, distributed: bool
) -> None:
    case = DECODE_CASES[name]
    mesh = mesh_of(case, distributed)
    expected = case.arrays["out/ids"]
    shape = mtf.Shape(zip(("batch", "length"), expected.shape, strict=True))
    forced = case.with_role("in").get("forced_ids", np.zeros_like(expected))

    def run(prompts: mtf.Tensor) -> mtf.Tensor:
        decoder = stateful_decoder(
            mesh, case.with_role("in"), shape.dims[:1], case.hparams["decay"]
        )
        vocab = mtf.Dimension("vocab", case.hparams["vocab"])
        rules = Rules((case.hparams["eos_id"],))
        return generate(decoder, prompts, Greedy(vocab), rules=rules).ids

    ids = mtf.to_numpy(mtf.function(run)(mtf.import_tf_tensor(mesh, forced, shape)))
    ends_before = np.cumsum(expected == case.hparams["eos_id"], axis=1)
    ends_before = np.pad(ends_before[:, :-1], [(0, 0), (1, 0)])
    np.testing.assert_array_equal(ids, np.where(ends_before > 0, 0, expected))
