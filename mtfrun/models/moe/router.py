"""The router: logits of the experts for every token, and a gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Protocol

from mtfrun import mtf
from mtfrun.layers import Call
from mtfrun.models.moe.gates.gate import Gate, GateContext
from mtfrun.models.moe.gates.top_2 import Top2
from mtfrun.models.moe.routing import Routing


class InputNoise(Protocol):
    """Noise on the input of a router, in training only."""

    def __call__(self, x: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
        """Returns x {..., d_model} with noise."""


@dataclasses.dataclass(frozen=True)
class Jitter:
    """A factor uniform in [1 - epsilon, 1 + epsilon); Fedus et al. 2021, section 2.4."""

    epsilon: float = 0.01

    def __call__(self, x: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
        low, high = 1.0 - self.epsilon, 1.0 + self.epsilon
        noise = mtf.random_uniform(x.mesh, x.shape, key=key, minval=low, maxval=high)
        return x * mtf.cast(noise, x.dtype)


@dataclasses.dataclass(frozen=True)
class InputDropout:
    """Dropout of the inputs; Fedus et al. 2021, table 11."""

    rate: float = 0.1

    def __call__(self, x: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
        return mtf.dropout(x, training=True, rate=self.rate, key=key)


class Router(mtf.Module):
    """A linear map from a token to logits of the experts, and a gate.

    Computes in float32 whatever the activations are: with bfloat16 the quality falls (Fedus et al.
    2021, arXiv:2101.03961, section 2.4). The kernel is {*outer_experts, d_model, experts}.

    Args:
      experts: a dimension without a layout rule.
      outer_experts: dimensions of the tokens, for every index of which there is a separate map.
      gate: chooses experts by the logits.
      input_noise: noise on the input, in training.
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
        call: Call,
    ) -> Routing:
        """Returns the routing of tokens x {..., group, d_model}; importance: {..., group}."""
        return self.route(self.logits(x, call), group, capacity, importance, call)

    def experts_per_token(self, capacity_factor: float) -> float:
        """Returns how many experts a token has at most, see `Gate.experts_per_token`."""
        return self._gate.experts_per_token(self._experts.size, capacity_factor)

    def logits(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        x = mtf.to_float(x)
        if self._input_noise is not None and call.training:
            x = self._input_noise(x, call.key_of(self).fold_in("input_noise"))
        output_shape = (x.shape - self._d_model) + self._experts
        return mtf.einsum([x, mtf.to_float(self.kernel)], output_shape)

    def route(
        self,
        logits: mtf.Tensor,
        group: mtf.Dimension,
        capacity: mtf.Dimension,
        importance: mtf.Tensor | None,
        call: Call,
    ) -> Routing:
        """Returns the routing for logits {..., group, experts}."""
        # Evaluation has no key; a policy that needs one raises an error.
        key = None if call.key is None else call.key_of(self)
        gate_context = GateContext(
            group, self._experts, capacity, importance, training=call.training, key=key
        )
        return self._gate(logits, gate_context)
