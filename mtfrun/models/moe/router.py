"""The router: logits of the experts for every token, and a gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE, check_range
from mtfrun.layers import Call, Layer
from mtfrun.models.moe.gates import Top2, TopK
from mtfrun.models.moe.routing import Gate, GateContext, Routing


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


class Router(Layer):
    """A linear map from a token to logits of the experts, and a gate.

    Computes in float32 whatever the activations are: with bfloat16 the quality falls (Fedus et al.
    2021, arXiv:2101.03961, section 2.4). The kernel is {*outer_experts, d_model, experts}.

    Args:
      experts: a dimension without a layout rule.
      outer_experts: dimensions of the tokens, for every index of which there is a separate map.
      bias_rate: balances the load without a loss: every expert has a bias, by which the gate `TopK`
        chooses, and which each step of training raises by this rate if the expert had less than the
        mean number of tokens, and lowers if it had more; Wang et al. 2024, arXiv:2408.15664,
        algorithm 1. With microbatches it is the mean of their changes. None: no biases.
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
        bias_rate: float | None = None,
    ) -> None:
        super().__init__()
        check_range("Router.bias_rate", bias_rate, POSITIVE, optional=True)
        if bias_rate is not None and not isinstance(gate, TopK):
            raise InputError(f"Router.bias_rate={bias_rate} needs gate=@moe.TopK(), not {gate!r}")
        self._d_model, self.experts = d_model, experts
        self.gate, self._input_noise, self._bias_rate = gate, input_noise, bias_rate
        self.kernel = mtf.Variable(
            mesh,
            [*outer_experts, d_model, experts],
            mtf.VarianceScaling()([d_model], [experts]),
            dtypes.master,
        )
        self.bias: mtf.Variable | None = None
        if bias_rate is not None:
            # Steps of the rate are lost in bfloat16.
            self.bias = mtf.Variable(
                mesh, [*outer_experts, experts], dtype=tf.float32, trainable=False, reduced_dims=()
            )

    @property
    def updated_variables(self) -> Sequence[mtf.Variable]:
        return () if self.bias is None else (self.bias,)

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
        return self.gate.experts_per_token(self.experts.size, capacity_factor)

    def logits(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        x = mtf.to_float(x)
        if self._input_noise is not None and call.training:
            x = self._input_noise(x, call.key_of(self).fold_in("input_noise"))
        output_shape = (x.shape - self._d_model) + self.experts
        return mtf.einsum([x, mtf.to_float(self.kernel)], output_shape)

    def route(
        self,
        logits: mtf.Tensor,
        group: mtf.Dimension,
        capacity: mtf.Dimension,
        importance: mtf.Tensor | None,
        call: Call,
    ) -> Routing:
        # Evaluation has no key; a policy that needs one raises an error.
        key = None if call.key is None else call.key_of(self)
        bias = None if self.bias is None else mtf.to_float(self.bias)
        context = GateContext(
            group, self.experts, capacity, importance, training=call.training, key=key, bias=bias
        )
        routing = self.gate(logits, context)
        if bias is not None and call.training and call.collector is not None:
            assert self.bias is not None and self._bias_rate is not None
            loads = mtf.add_n(
                [
                    mtf.einsum([x.selected, mtf.one_hot(x.expert, self.experts)], bias.shape)
                    for x in routing.choices
                ]
            )
            missing = mtf.reduce_mean(loads, reduced_dim=self.experts) - loads
            call.collector.add_update(self.bias, bias + mtf.sign(missing) * self._bias_rate)
        return routing
