"""Whole searches equal the original: ids token by token, scores, on one device and on meshes.

All 23 cases of `decode.npz` run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.decoding import BeamSearch, Greedy, Hypotheses, Rules, generate
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.oracle.reference_cases import ReferenceCase, reference_cases
from tests.oracle.stateful_model import stateful_decoder

CASES = reference_cases("decode")
BEAM_CASES = [name for name in CASES if name.startswith("beam")]
GREEDY_CASES = [name for name in CASES if name.startswith("greedy")]


# On meshes in the default suite: rows that end and do not, a choice in two stages.
QUICK = {
    "beam_some_rows_unfinished",
    "beam_prefilter3_beam5",
}


def _where(names: list[str]) -> list[Any]:
    """Returns the parameters (case, whether on several devices).

    Compiling for several devices takes long.
    """
    return [
        pytest.param(
            name, distributed, marks=[pytest.mark.slow] if distributed and name not in QUICK else []
        )
        for n, name in enumerate(names)
        for distributed in (False, True)
        if not distributed or n % 3 == 0 or name in QUICK
    ]


def mesh_of(case: ReferenceCase, distributed: bool) -> mtf.Mesh:
    """Returns one device, or the mesh of up to 2x2 that divides the batch and the vocabulary."""
    if not distributed:
        return mtf.Mesh()
    data = next((n for n in (2, 3) if case.hparams["batch"] % n == 0), 1)
    model = next((n for n in (2, 3, 5) if case.hparams["vocab"] % n == 0), 1)
    shape = f"data:{data},model:{model if data * model <= 8 else 1}"
    return mtf.Mesh(shape, "batch:data;vocab:model")


def _beam_search(case: ReferenceCase, mesh: mtf.Mesh) -> Any:
    """Returns the Hypotheses of a case, as numpy arrays."""
    options = case.hparams
    batch, beam, length = (
        mtf.Dimension(name, options[key])
        for name, key in (("batch", "batch"), ("beam", "beam_size"), ("length", "length"))
    )
    vocab = mtf.Dimension("vocab", options["vocab"])
    limit = min(options["decode_length"] or length.size, length.size)

    def run(prompts: mtf.Tensor, limits: mtf.Tensor) -> Hypotheses:
        search = BeamSearch(
            options["alpha"],
            stop_early=options["stop_early"],
            independent_rows=False,
            num_prefilter=options.get("num_prefilter", 0),
        )
        return search(
            stateful_decoder(mesh, case.with_role("in"), [batch, beam], options["decay"]),
            prompts,
            beam,
            vocab,
            limits=limits,
            rules=Rules((options["eos_id"],)),
        )

    prompts = mtf.import_tf_tensor(
        mesh, np.zeros([batch.size, length.size], np.int32), [batch, length]
    )
    limits = mtf.import_tf_tensor(mesh, np.full([batch.size], limit, np.int32), [batch])
    return mtf.to_numpy(mtf.function(run)(prompts, limits))


@pytest.mark.parametrize("name, distributed", _where(BEAM_CASES))
def test_beam_search_equals_the_original(name: str, distributed: bool) -> None:
    case = CASES[name]
    hypotheses = _beam_search(case, mesh_of(case, distributed))
    np.testing.assert_array_equal(hypotheses.ids, case.arrays["out/ids"])
    assert_close(hypotheses.scores, case.arrays["out/scores"], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("name, distributed", _where(GREEDY_CASES))
def test_greedy_decoding_equals_the_original_up_to_each_rows_end(
    name: str, distributed: bool
) -> None:
    case = CASES[name]
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


def test_all_cases_are_there() -> None:
    assert (len(BEAM_CASES), len(GREEDY_CASES)) == (15, 8)
    assert CASES.keys() >= QUICK
