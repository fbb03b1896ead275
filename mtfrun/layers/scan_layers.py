"""A loop over equal layers: a program as long as one round of it, however deep the model is."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers.collector import Collected, Collector
from mtfrun.layers.layer import Call, CallT, in_call
from mtfrun.layers.recompute import differentiated_tensors, map_differentiated

# The values of one round's variables.
Weights = list[mtf.Tensor]
# The dimension of what the rounds collect.
_ROUNDS = "loop_rounds"


def scan_layers(
    function: Callable[[mtf.Tensor, CallT], mtf.Tensor],
    rounds: Sequence[Sequence[mtf.Module]],
    x: mtf.Tensor,
    call: CallT,
) -> mtf.Tensor:
    """Returns x after all rounds, each `function` with the variables of its modules.

    The program holds one round and its backward pass, so that tracing and compiling hardly take
    longer with more rounds. Dropout, losses, metrics and updates are as of an unrolled stack, by
    the paths of each round's modules. In training only the input of every round is stored, and its
    inner values are recomputed, at the cost of one more forward pass.

    `function` calls the modules of the first round with the x and the call that it takes, and
    returns a tensor of x's shape and type. The rounds' variables are alike: else an InputError.
    Gradients reach the fields of the call that are `differentiated_field`s.
    """
    loop = _Loop(function, rounds, x.mesh, call)
    fields = differentiated_tensors(call)
    weights = [[v.read_stored() for v in variables] for variables in loop.variables]
    if call.training:
        y, *collected = loop.with_gradient(x, fields, weights)
    else:
        y, _, collected = loop.forward(x, fields, weights, store=False)
    if call.collector is not None:
        loop.collect(collected, call.collector)
    return y


class _Loop:
    """The forward and the backward loop, and what belongs to each round.

    The loops have a variable for every value of every round. In each round all of them move on by
    one place, so that this round's values are always at the same place, without copies. (One tensor
    for all rounds would be copied in every round: TensorFlow's arrays have no rule in DTensor.)
    """

    def __init__(
        self,
        function: Callable[[mtf.Tensor, Any], mtf.Tensor],
        rounds: Sequence[Sequence[mtf.Module]],
        mesh: mtf.Mesh,
        call: Call,
    ) -> None:
        self._function = function
        self._call = call
        self._number = len(rounds)
        self._dim = mtf.Dimension(_ROUNDS, self._number)
        self._positions = mtf.range(mesh, self._dim, tf.int32)
        self.variables = _variables(rounds)
        self._paths = _paths(rounds, self.variables)
        # The structure of what a round collects, once it has been traced.
        self._collected = Collected({}, {}, {})

    def with_gradient(
        self, x: mtf.Tensor, fields: Sequence[mtf.Tensor], weights: Sequence[Weights]
    ) -> list[mtf.Tensor]:
        first_weight, per_round = 1 + len(fields), len(weights[0])
        stored: list[mtf.Tensor] = []

        def in_rounds(inputs: Sequence[mtf.Tensor]) -> list[Weights]:
            begins = range(first_weight, len(inputs), per_round) if per_round else ()
            by_round = [list(inputs[begin : begin + per_round]) for begin in begins]
            return by_round or [[] for _ in weights]

        def forward(*inputs: mtf.Tensor) -> list[mtf.Tensor]:
            y, inputs_of_rounds, collected = self.forward(
                inputs[0], inputs[1:first_weight], in_rounds(inputs), store=True
            )
            stored[:] = inputs_of_rounds
            return [y, *collected]

        def backward(inputs: Any, _: Any, cotangents: Any) -> list[mtf.Tensor | None]:
            fields = inputs[1:first_weight]
            return self._backward(stored, fields, in_rounds(inputs), cotangents)

        inputs = [x, *fields, *(weight for values in weights for weight in values)]
        return mtf.custom_gradient(forward, backward, inputs)

    def forward(
        self,
        x: mtf.Tensor,
        fields: Sequence[mtf.Tensor],
        weights: Sequence[Weights],
        *,
        store: bool,
    ) -> tuple[mtf.Tensor, list[mtf.Tensor], list[mtf.Tensor]]:
        """Returns the output, the stored inputs of rounds, and collected values {rounds, ...}."""

        def body(
            i: mtf.Tensor, x: mtf.Tensor, weights: list[Weights], stored: list[mtf.Tensor]
        ) -> list[Any]:
            y, self._collected = self._round(i, x, fields, weights[0])
            is_round = mtf.equal(self._positions, i)
            placed = [
                # Not a product: a NaN would spread to the other rounds.
                mtf.where(is_round, value, 0, output_shape=[self._dim, *value.shape])
                for value in tf.nest.flatten(self._collected)
            ]
            stored = [*stored[1:], x] if store else []
            return [i + 1, y, [*weights[1:], weights[0]], stored, *placed]

        first = mtf.constant(x.mesh, 0, dtype=tf.int32)
        # Values that are never used hold the places of inputs at first.
        stored = [mtf.identity(x) for _ in weights] if store else []
        _, y, _, stored, *collected = mtf.while_loop(
            lambda i, *_: mtf.less(i, self._number),
            body,
            [first, x, list(weights), stored],
            has_accumulators=self._call.collector is not None,
            rounds=self._number,
            parallel_iterations=1,
        )
        return y, stored, collected

    def _backward(
        self,
        stored: Sequence[mtf.Tensor],
        fields: Sequence[mtf.Tensor],
        weights: Sequence[Weights],
        cotangents: Sequence[mtf.Tensor | None],
    ) -> list[mtf.Tensor | None]:
        """Returns the gradients of x, the fields, and of the weights in the weights' places."""
        losses = sorted(self._collected.losses)
        grad_losses = dict(zip(losses, cotangents[1 : 1 + len(losses)], strict=True))
        unused: list[bool] = []

        def body(
            done: mtf.Tensor,
            grad_y: mtf.Tensor,
            weights: list[Weights],
            stored: list[mtf.Tensor],
            grad_fields: list[mtf.Tensor],
        ) -> list[Any]:
            i = self._number - 1 - done
            x, values, inner_fields = stored[-1], weights[-1], list(map(mtf.identity, fields))
            with mtf.collect_reports():  # the forward loop reports them
                y, collected = self._round(i, x, inner_fields, values)
            results = {y: grad_y}
            for path, cotangent in grad_losses.items():
                if cotangent is not None:
                    results[collected.losses[path]] = mtf.gather(cotangent, i, self._dim)
            grad_x, gradients, grad_inner_fields = self._gradients(results, x, values, inner_fields)
            unused[:] = [gradient is None for gradient in (*gradients, *grad_inner_fields)]
            # A value stays in the place of a gradient that there is not: no memory for zeros.
            grad_values = [v if g is None else g for v, g in zip(values, gradients, strict=True)]
            added = map(_or_zeros, grad_inner_fields, fields)
            return [
                done + 1,
                _or_zeros(grad_x, x),
                [grad_values, *weights[:-1]],
                [x, *stored[:-1]],
                list(map(mtf.add, grad_fields, added)),
            ]

        # Counted upwards, as `mtfrun.extras.plan` reads how often a loop runs.
        none_done = mtf.constant(stored[0].mesh, 0, dtype=tf.int32)
        start = [none_done, _or_zeros(cotangents[0], stored[0]), list(weights), list(stored)]
        _, grad_x, grad_weights, _, grad_fields = mtf.while_loop(
            lambda done, *_: mtf.less(done, self._number),
            body,
            [*start, list(map(mtf.zeros_like, fields))],
            parallel_iterations=1,
        )
        number = len(weights[0])
        by_round = (g for x in grad_weights for g in _without(x, unused[:number]))
        return [grad_x, *_without(grad_fields, unused[number:]), *by_round]

    def _gradients(
        self,
        results: Mapping[mtf.Tensor, mtf.Tensor],
        x: mtf.Tensor,
        values: Weights,
        fields: Sequence[mtf.Tensor],
    ) -> tuple[mtf.Tensor | None, list[mtf.Tensor | None], list[mtf.Tensor | None]]:
        """Returns a round's gradients of x, the values, None if not trained, and the fields."""
        is_trained = [
            any(v.is_trained for v in alike) for alike in zip(*self.variables, strict=True)
        ]
        trained = list(itertools.compress(values, is_trained))
        grad_x, *grads = mtf.gradients(
            list(results), [x, *trained, *fields], list(results.values())
        )
        grad_trained = iter(grads[: len(trained)])
        by_value = [next(grad_trained) if has_gradient else None for has_gradient in is_trained]
        return grad_x, by_value, grads[len(trained) :]

    def _round(
        self, i: mtf.Tensor, x: mtf.Tensor, fields: Sequence[mtf.Tensor], values: Weights
    ) -> tuple[mtf.Tensor, Collected]:
        """Returns the output of round i, and its collected values by the first round's paths."""
        remaining = iter(fields)
        collector = Collector()
        call = map_differentiated(lambda _: next(remaining), self._call)
        call = dataclasses.replace(
            call, collector=collector, path_number=functools.partial(self._path_number, i)
        )
        with mtf.with_values(dict(zip(self.variables[0], values, strict=True))), in_call(call):
            return self._function(x, call), collector.contents

    def _path_number(self, i: mtf.Tensor, path: str) -> mtf.Tensor:
        numbers = np.array([mtf.text_number(p) for p in self._paths[path]], np.uint32)
        # As int32, which all devices can look up.
        table = mtf.constant(i.mesh, numbers.view(np.int32), [self._dim], tf.int32)
        return mtf.gather(table, i, self._dim)

    def collect(self, values: Sequence[mtf.Tensor], collector: Collector) -> None:
        """Adds collected values {rounds, ...} under the paths of every round."""
        by_round = [mtf.unstack(value, self._dim) for value in values]
        for i in range(self._number):
            round_values = tf.nest.pack_sequence_as(
                self._collected, [value[i] for value in by_round]
            )
            renamed = ({self._rename(k, i): v for k, v in part.items()} for part in round_values)
            collector.add_all(Collected(*renamed))

    def _rename(self, name: str, i: int) -> str:
        """Returns a path, or "path/name of a metric", as it is in round i."""
        path, names = name, ""
        while path not in self._paths:
            path, _, last = path.rpartition("/")
            names = f"/{last}{names}"
        return self._paths[path][i] + names


def _variables(rounds: Sequence[Sequence[mtf.Module]]) -> list[list[mtf.Variable]]:
    by_name = [
        {f"{i}/{name}": v for i, m in enumerate(ms) for name, v in m.named_variables().items()}
        for ms in rounds
    ]
    specs = [{name: (v.shape, v.dtype) for name, v in vs.items()} for vs in by_name]
    for number, spec in enumerate(specs):
        if spec != specs[0]:
            first = next(iter(dict(spec.items() ^ specs[0].items())))
            name = first.partition("/")[2]
            different = f"{name!r} of round {number} is not as in the first"
            raise InputError(f"a loop needs equal blocks, but {different}: leave scan_blocks out")
    return [list(vs.values()) for vs in by_name]


def _paths(
    rounds: Sequence[Sequence[mtf.Module]], variables: Sequence[Sequence[mtf.Variable]]
) -> Mapping[str, list[str]]:
    paths: dict[str, list[str]] = {}
    for modules in zip(*rounds, strict=True):
        inner = [module.named_modules() for module in modules]
        for name, module in inner[0].items():
            paths[module.path] = [round_values[name].path for round_values in inner]
    for alike in zip(*variables, strict=True):
        paths[alike[0].path] = [variable.path for variable in alike]
    return paths


def _or_zeros(gradient: mtf.Tensor | None, x: mtf.Tensor) -> mtf.Tensor:
    return mtf.zeros_like(x) if gradient is None else gradient


def _without(gradients: Sequence[mtf.Tensor], unused: Sequence[bool]) -> list[mtf.Tensor | None]:
    return [None if no else gradient for gradient, no in zip(gradients, unused, strict=True)]
