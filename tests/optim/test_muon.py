"""Muon: which variables are matrices, and its directions and rates."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from mtfrun.models import moe
from tests.layouts import ONE_DEVICE
from tests.models.small_model import small_model

MESH = mtf.Mesh(ONE_DEVICE)


def _sides(root: mtf.Module) -> dict[str, tuple[str, str]]:
    """Returns rows and columns of the matrices among the variables, by path."""
    mtf.assign_paths(root)
    found = {p: optim.matrix_sides(v, ["vocab"]) for p, v in root.named_variables().items()}
    return {p: (s[0].to_string, s[1].to_string) for p, s in found.items() if s is not None}


def test_the_matrices_of_a_model_are_projections_and_not_embedding_or_softmax() -> None:
    sides = _sides(small_model(MESH, tied_softmax=False))
    of_first_block = {
        path.rpartition("/")[2] if "attention" in path else path.split("/")[-2]: names
        for path, names in sides.items()
        if "/blocks/0/" in path
    }
    inner, d_model = ["heads", "d_kv"], ["d_model"]
    names = {
        name: tuple(mtf.convert_to_shape(side).dimension_names for side in both)
        for name, both in of_first_block.items()
    }
    assert names == {
        **dict.fromkeys(("query", "key", "value"), (d_model, inner)),
        "output": (inner, d_model),
        "wi": (d_model, ["d_ff"]),
        "wo": (["d_ff"], d_model),
    }
    assert all("/blocks/" in path for path in sides)


def test_the_kernels_of_experts_are_batches_of_matrices() -> None:
    experts, d_model = mtf.Dimension("experts", 8), mtf.Dimension("d_model", 32)
    assert _sides(moe.Experts(MESH, [experts], d_model, hidden_size=48)) == {
        "wi/factors/0/kernel": ("d_model:32", "expert_hidden:48"),
        "wo/kernel": ("expert_hidden:48", "d_model:32"),
    }


def test_paths_are_left_to_adam_by_patterns() -> None:
    reduced = [mtf.Dimension("d_model", 4)]
    variables = {
        path: mtf.Variable(MESH, "d_model:4;d_ff:2", reduced_dims=reduced) for path in ("a", "b")
    }
    optimizer = optim.Muon(0.1, adam=optim.AdamPart(paths=["^b$"]))
    optimizer.init(variables)
    assert [*optimizer.named_slots()] == ["a/m", "b/m", "b/v"]
    with pytest.raises(InputError, match=r"AdamPart\.paths='c' is in none"):
        optim.Muon(0.1, adam=optim.AdamPart(paths=["c"])).init(variables)


@pytest.mark.parametrize("shape", ["batch:3;rows:6;columns:10", "columns:4;rows:12"])
def test_singular_values_are_about_one(shape: str) -> None:
    dims = mtf.convert_to_shape(shape)
    rows, columns = (mtf.Shape([dims.get_dim_by_name(name)]) for name in ("rows", "columns"))
    value = np.random.default_rng(0).normal(size=dims.to_integer_list).astype(np.float32)
    x = mtf.import_tf_tensor(MESH, value, dims)
    direction = mtf.to_numpy(optim.orthogonalize(x, rows, columns))
    singular = np.linalg.svd(direction, compute_uv=False)
    assert singular.min() > 0.6 and singular.max() < 1.3
    zeros = mtf.to_numpy(optim.orthogonalize(mtf.zeros_like(x), rows, columns))
    np.testing.assert_array_equal(zeros, 0.0)


def test_the_rate_of_a_wide_matrix_bounds_the_spectral_norm() -> None:
    d_model, d_ff = mtf.Dimension("d_model", 64), mtf.Dimension("d_ff", 256)
    for rms, expected in ((0.2, 0.5), (None, 1.0)):
        module = mtf.Module()
        module.kernel = mtf.Variable(
            MESH, [d_model, d_ff], mtf.VarianceScaling()([d_model], [d_ff])
        )
        optim.set_base_sizes(module, {"d_model": 16, "d_ff": 64})
        optimizer = optim.Muon(0.1, rms=rms)
        variables = module.named_variables()
        optimizer.init(variables)
        assert optimizer.width_factor("kernel", variables["kernel"]) == pytest.approx(expected)
