"""A linear layer on a mesh, with its gradient by numpy."""

from __future__ import annotations

import numpy as np

from mtfrun import mtf
from mtfrun.mtf import initializers

RNG = np.random.default_rng(2)
X = RNG.standard_normal([8, 4]).astype(np.float32)


class Linear(mtf.Module):
    def __init__(self, mesh: mtf.Mesh):
        super().__init__()
        self.kernel = mtf.Variable(mesh, "features:4;d_ff:8", initializers.RandomNormal())
        self.unused = mtf.Variable(mesh, "d_ff:8")

    def __call__(self, x: mtf.Tensor) -> mtf.Tensor:
        return mtf.tanh(mtf.einsum([x, self.kernel], reduced_dims=["features:4"]))


def linear(mesh_shape: str) -> tuple[Linear, mtf.Tensor]:
    mesh = mtf.Mesh(mesh_shape, "batch:data;d_ff:model")
    model = Linear(mesh)
    mtf.initialize(model, 1)
    return model, mtf.import_tf_tensor(mesh, X, "batch:8;features:4")


def expected_gradient(model: Linear) -> tuple[np.ndarray, np.ndarray]:
    """Returns the loss, a sum of squares, and its gradient, by numpy in float64."""
    hidden = np.tanh(X.astype(np.float64) @ mtf.to_numpy(model.kernel))
    return (hidden**2).sum(), X.T @ (2 * hidden * (1 - hidden**2))
