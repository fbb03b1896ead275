"""Decodes with the model of a reference case as the original does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mtfrun import decoding, mtf
from mtfrun.models.transformer.tokens.token_model import TokenModel
from tests.oracle.reference_cases import ReferenceCase
from tests.oracle.reference_models import on_mesh

Name = tuple[str, str]


def decodes_of(cases: Mapping[str, ReferenceCase]) -> tuple[list[Name], list[Name]]:
    """Returns the names (case, decode) of all greedy decodes, and of all beam searches."""
    greedy: list[Name] = []
    beams: list[Name] = []
    for name, case in cases.items():
        for key, options in case.hparams.items():
            if key.startswith("decode_") and isinstance(options, dict):
                names = beams if "beam" in options else greedy
                names.append((name, key.removeprefix("decode_")))
    return greedy, beams


def on_one_and_several(names: Iterable[Any]) -> list[Any]:
    """Returns the parameters of a test of cases, or of (case, decode), on one and several devices.

    Compiling for a mesh takes long: every third has one. tests/quick_cases.txt has the quick ones.
    """
    return [
        (*([name] if isinstance(name, str) else name), several)
        for n, name in enumerate(names)
        for several in (False, True)
        if not several or n % 3 == 0
    ]


def greedy(
    model: TokenModel,
    mesh: mtf.Mesh,
    prompts: np.ndarray,
    inputs: np.ndarray | None,
    end_id: int = decoding.END_ID,
) -> np.ndarray:
    """Returns greedy decodes of all rows."""

    def decode(features: dict[str, mtf.Tensor]) -> mtf.Tensor:
        choose = decoding.Greedy(model.vocab)
        decoder = model.decoder(features)
        rules = decoding.Rules((end_id,))
        return decoding.generate(decoder, features["targets"], choose, rules=rules).ids

    return mtf.to_numpy(mtf.function(decode)(on_mesh(mesh, _features(prompts, inputs))))


def assert_beam_search_is_the_originals(
    model: TokenModel,
    mesh: mtf.Mesh,
    case: ReferenceCase,
    name: str,
    inputs: np.ndarray | None,
    limit: int,
    num_prefilter: int = 0,
) -> None:
    """Raises unless the best hypothesis of every row is the original's.

    Args:
      model, mesh, case: the model of the case, on its mesh.
      name: of the decode.
      inputs: [batch, length], or None.
      limit: the largest number of ids of a row.
      num_prefilter: as of `BeamSearch`.
    """
    options = case.hparams[f"decode_{name}"]
    expected = case.arrays[f"out/{name}_ids"]
    beam = mtf.Dimension("beam", options["beam"])
    limits = np.full([len(expected)], min(limit, expected.shape[1]), np.int32)

    def decode(features: dict[str, mtf.Tensor], limits: mtf.Tensor) -> mtf.Tensor:
        search = decoding.BeamSearch(
            options.get("alpha", 0.6), independent_rows=False, num_prefilter=num_prefilter
        )
        return search(
            model.decoder(features, beam), features["targets"], beam, model.vocab, limits=limits
        ).ids

    features = on_mesh(mesh, _features(np.zeros_like(expected), inputs))
    limits_tensor = mtf.import_tf_tensor(mesh, limits, [("batch", len(expected))])
    beams = mtf.to_numpy(mtf.function(decode)(features, limits_tensor))
    np.testing.assert_array_equal(beams[:, 0], expected)


def _features(prompts: np.ndarray, inputs: np.ndarray | None) -> dict[str, np.ndarray]:
    return {"targets": prompts} | ({} if inputs is None else {"inputs": inputs})


def to_the_end(ids: np.ndarray, steps: int | None = None) -> np.ndarray:
    """Returns ids with 0 after the first end of each row, and from position `steps` on."""
    ids = ids.copy()
    ends = np.cumsum(ids == decoding.END_ID, axis=1) - (ids == decoding.END_ID)
    ids[ends > 0] = 0
    if steps is not None:
        ids[:, steps:] = 0
    return ids
