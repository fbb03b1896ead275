"""The trained part of a gate."""

from __future__ import annotations

from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.layers import Context
from mtfrun.models.moe.assignment import Assignment
from mtfrun.models.moe.gate import Gate
from mtfrun.models.moe.input_noise import InputNoise
from mtfrun.models.moe.routing import Routing
from mtfrun.models.moe.top_2 import Top2


class Router(mtf.Module):
    """A linear map from a token to logits of the experts, and a gate that reads them.

    Computes in float32 whatever the activations are: with bfloat16 the quality falls (Fedus et al.
    2021, section 2.4).
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        experts: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        outer_experts: Iterable[mtf.Dimension] = (),
        gate: Gate = Top2(),
        input_noise: InputNoise | None = None,
    ) -> None:
        """Makes the spec of the kernel {*outer_experts, d_model, experts}.

        Each of `outer_experts`, which tokens have as well, has a map of its own. The gate chooses
        experts; the noise is on what the router sees, in training.
        """
        super().__init__()
        self._gate = gate
        self._d_model = d_model
        self._experts = experts
        self._input_noise = input_noise
        self.kernel = mtf.Variable(
            mesh,
            [*outer_experts, d_model, experts],
            mtf.VarianceScaling()([d_model], [experts]),
            dtypes.master,
        )

    def __call__(
        self,
        x: mtf.Tensor,
        group: mtf.Dimension,
        capacity: mtf.Dimension,
        importance: mtf.Tensor | None,
        context: Context,
    ) -> Routing:
        """Returns the routing of tokens x {..., group, d_model}; importance: {..., group}."""
        x = mtf.to_float(x)
        # Evaluation has no key; a policy that needs one says so.
        key = None if context.key is None else context.key_of(self)
        if self._input_noise is not None and context.training:
            x = self._input_noise(x, context.key_of(self).fold_in("input_noise"))
        output_shape = (x.shape - self._d_model) + self._experts
        logits = mtf.einsum([x, mtf.to_float(self.kernel)], output_shape)
        assignment = Assignment(
            group=group,
            experts=self._experts,
            capacity=capacity,
            importance=importance,
            training=context.training,
            key=key,
        )
        return self._gate(logits, assignment)
