"""Projections from vectors to the heads of attention and back: variables, and their products."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.layers.attention.context_parallelism import HeadGroups
from mtfrun.layers.attention.dot_product import AttentionHeads, heads_before_positions
from mtfrun.layers.layer import Call
from mtfrun.layers.recompute import PROJECTIONS


@dataclasses.dataclass(frozen=True)
class HeadProjections:
    """Makes the specs of kernels and biases of one attention, and multiplies by them.

    With `groups` of heads all vectors of heads begin with the dimension of the groups.
    """

    mesh: mtf.Mesh
    d_model: mtf.Dimension
    heads: AttentionHeads
    dtypes: mtf.DTypePolicy

    def query_kernel(self) -> mtf.Variable:
        """Returns {d_model, heads, d_kv}."""
        # The factor d_kv ** -0.5 of the logits, where they do not have it themselves.
        scaling = [] if self.heads.scaled_logits else [self.heads.size_dim]
        initial = mtf.VarianceScaling()([self.d_model, *scaling], self.heads.query_dims)
        return self.kernel([self.d_model], [*self.heads.query_dims, self.heads.size_dim], initial)

    def memory_kernel(self) -> mtf.Variable:
        """Returns {d_model, heads, d_kv} of keys, values or both."""
        return self.kernel([self.d_model], [*self.heads.memory_dims, self.heads.size_dim])

    def output_kernel(self) -> mtf.Variable:
        """Returns {heads, d_kv, d_model}."""
        return self.kernel([*self.heads.query_dims, self.heads.size_dim], [self.d_model])

    def kernel(
        self,
        reduced: Sequence[mtf.Dimension],
        new: Sequence[mtf.Dimension],
        initial: mtf.Initializer | None = None,
    ) -> mtf.Variable:
        """Returns {*reduced, *new}, of which the heads and d_kv are one side."""
        return mtf.Variable(
            self.mesh,
            [*reduced, *new],
            initial or mtf.VarianceScaling()(reduced, new),
            self.dtypes.master,
            merged_dims=new if self.d_model in reduced else reduced,
            reduced_dims=reduced,
        )

    def bias(self, heads: Sequence[mtf.Dimension]) -> mtf.Variable | None:
        """Returns {heads, d_kv} of queries, keys or values; None without one."""
        if not self.heads.use_bias:
            return None
        shape, zeros = [*heads, self.heads.size_dim], mtf.initializers.Zeros()
        return mtf.Variable(self.mesh, shape, zeros, self.dtypes.master, reduced_dims=())

    def output_bias(self) -> mtf.Variable | None:
        """Returns {d_model}; None without one."""
        if not self.heads.use_output_bias:
            return None
        return mtf.Variable(self.mesh, [self.d_model], dtype=self.dtypes.master)

    def project(
        self,
        x: mtf.Tensor,
        kernel: mtf.Variable,
        bias: mtf.Variable | None,
        heads: Sequence[mtf.Dimension],
        groups: HeadGroups | None,
    ) -> mtf.Tensor:
        """Returns {batch..., heads (of a group), length, d_kv}: no transpose needed."""
        dtype, size = self.dtypes.activation, self.heads.size_dim
        inner = [*heads_before_positions(x.shape - self.d_model, heads), size]
        weights = mtf.cast(kernel, dtype)
        if groups is not None:
            weights = groups.group_kernel(weights)
            grouped = [groups.heads_of_group if dim == groups.heads else dim for dim in inner]
            inner = [groups.groups, *grouped]
        projected = mtf.einsum([mtf.cast(x, dtype), weights], output_shape=inner)
        projected = mtf.keep(projected, PROJECTIONS)
        if bias is not None:
            added = mtf.cast(bias, dtype)
            added = added if groups is None else groups.group_kernel(added)
            projected = mtf.add(projected, added, output_shape=inner)
        limit = self.heads.projection_limit
        if limit is None:
            return projected
        return mtf.minimum(mtf.maximum(projected, -limit), limit)

    def normalise(
        self, x: mtf.Tensor, norm: Any, groups: HeadGroups | None, call: Call
    ) -> mtf.Tensor:
        """Returns queries or keys behind their norm, if they have one."""
        if norm is None:
            return x
        if groups is None or self.heads.norm_heads == "alike":
            y: mtf.Tensor = norm(x, call)
            return y
        return groups.cut(norm(groups.join(x), call))

    def output(
        self,
        mixed: mtf.Tensor,
        kernel: mtf.Variable,
        bias: mtf.Variable | None,
        shape: mtf.Shape,
        groups: HeadGroups | None,
    ) -> mtf.Tensor:
        """Returns the shape, with d_model, of the heads' mixed values."""
        weights = mtf.cast(kernel, self.dtypes.activation)
        if groups is not None:
            weights = groups.group_kernel(weights)
        y = mtf.keep(mtf.einsum([mixed, weights], output_shape=shape), PROJECTIONS)
        return y if bias is None else y + mtf.cast(bias, y.dtype)
