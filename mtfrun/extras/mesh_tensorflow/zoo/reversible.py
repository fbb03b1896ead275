"""Reversible residuals, whose inputs the backward pass computes from their outputs; their stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError, ShapeError
from mtfrun.layers.recompute import collecting, differentiated_tensors
from mtfrun.models.transformer.residual_transforms import Residual
from mtfrun.models.transformer.stack import RunWithState, Stack
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.mtf.ops.control_flow.rematerialisation import after, moment_of
from mtfrun.mtf.parameters.variables import substitutes, with_values
from mtfrun.mtf.reports import collect_reports
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


class ReversibleStack(Stack):
    """A stack of two streams: x1, x2 = x2, x1 + sublayer(x2); the output is their sum.

    Gomez et al. 2017, arXiv:1707.04585, as Mesh TensorFlow's ReversibleLayerStack. Training stores
    only the last x1 and x2; the backward pass recomputes the inputs of one sublayer at a time from
    its outputs, at the cost of another forward pass. In bfloat16 they accumulate rounding errors.
    There is no loop over blocks (`scan_blocks`), and `rematerialise` has no effect.

    The `transforms` have no `Residual`, since the stack adds the outputs itself; their
    `activation_scale` measures these outputs.
    """

    can_scan: ClassVar[bool] = False

    def tie_blocks(self) -> None:
        super().tie_blocks()
        sublayers = [layer for block in self.blocks for layer in block.values()]
        if any(isinstance(getattr(x, name), Residual) for x in sublayers for name in x.names):
            raise InputError(
                "ReversibleStack adds residuals itself: leave Residual out of StackTransforms.layer"
            )

    def _run_blocks(self, x: mtf.Tensor, call: SequenceCall) -> list[mtf.Tensor]:
        """Returns the sum of both streams after each block, in training after the last."""
        if call.training:
            sublayers = [layer for block in self.blocks for layer in block.values()]
            functions = [collecting(layer, call) for layer in sublayers]
            x1, x2, collected = reversible_layers(x, x, functions, differentiated_tensors(call))
            if call.collector is not None:
                for inner_values in collected:
                    call.collector.add_all(inner_values)
            return [x1 + x2]
        x1 = x2 = x
        outputs = []
        for block in self.blocks:
            for layer in block.values():
                x1, x2 = x2, x1 + layer(x2, call)
            outputs.append(x1 + x2)
        return outputs

    def _run_blocks_with_states(
        self, run: RunWithState, x: mtf.Tensor, state: Any, call: SequenceCall
    ) -> tuple[mtf.Tensor, Any]:
        x1 = x2 = x
        next_state = []
        for block, block_state in zip(self.blocks, state, strict=True):
            results: dict[str, Any] = {}
            for name, layer in block.items():
                residual, results[name] = run(layer, x2, block_state[name], call)
                x1, x2 = x2, x1 + residual
            next_state.append(results)
        return x1 + x2, next_state


def reversible_residuals(
    x1: TensorLike, x2: TensorLike, functions: Sequence[Callable[[Tensor], Tensor]]
) -> tuple[Tensor, Tensor]:
    """Returns x1 and x2 after `x1, x2 = x2, x1 + f(x2)` for every f, as in a RevNet.

    Gomez et al. 2017, arXiv:1707.04585, equations 6 to 8. Only the last x1 and x2 are stored: the
    backward pass computes the earlier ones as x2 - f(x1), up to rounding, at the cost of one more
    forward pass.

    All tensors have one shape (else a ShapeError) and type. Variables that the functions use get
    their gradients; draws need keys. A function that is defined in a loop must bind the loop's
    variables as defaults: the backward pass calls it once more.
    """
    x1, x2, _ = reversible_layers(x1, x2, [lambda x, f=f: (f(x), ()) for f in functions])
    return x1, x2


def reversible_layers(
    x1: TensorLike,
    x2: TensorLike,
    functions: Sequence[Callable[..., tuple[Tensor, Any]]],
    explicit_inputs: Sequence[TensorLike] = (),
) -> tuple[Tensor, Tensor, list[Any]]:
    """Returns `reversible_residuals`, and the further results of every function.

    A function is called as f(x2, *explicit_inputs), and returns the residual and nested tensors,
    such as losses. Gradients reach the explicit inputs, and come from the nested tensors too.
    """
    first, second = as_tensor(x1), as_tensor(x2)
    mesh, shape = first.mesh, first.shape
    _require_shape(second, shape)
    # Where tensors stand for the values of variables, they are inputs as well.
    substituted = substitutes()
    inputs = [*map(as_tensor, explicit_inputs), *substituted.values()]
    number = len(explicit_inputs)
    structures: list[Any] = []

    def apply(f: Callable[..., Any], x: tf.Tensor, values: Sequence[tf.Tensor]) -> Any:
        named = [Tensor(i.mesh, v, i.shape) for i, v in zip(inputs, values, strict=True)]
        with with_values(dict(zip(substituted, named[number:], strict=True))):
            residual, further = f(Tensor(mesh, x, shape), *named[:number])
        _require_shape(residual, shape)
        return residual.value, further

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def on_values(a: tf.Tensor, b: tf.Tensor, *values: tf.Tensor) -> Any:
        structures.clear()
        for f in functions:
            residual, further = apply(f, b, values)
            a, b = b, a + residual
            structures.append(further)

        def backward(
            grad_a: tf.Tensor, grad_b: tf.Tensor, *grads: tf.Tensor, variables: Sequence[Any] = ()
        ) -> Any:
            after_a, after_b = a, b
            grad_sources: list[Any] = [None] * (len(values) + len(variables))
            grads_further = tf.nest.pack_sequence_as(structures, grads)
            for f, output_grads in zip(reversed(functions), reversed(grads_further), strict=True):
                moment = moment_of([Tensor(mesh, grad_b, shape)], [grad_b])
                recomputing = tf.GradientTape(watch_accessed_variables=False)
                with recomputing as tape, collect_reports():  # reported by the first pass
                    before_b = after(moment, after_a)
                    delayed = [after(moment, value) for value in values]
                    sources = [before_b, *delayed, *variables]
                    tape.watch(sources)
                    residual, further = apply(f, before_b, delayed)
                more_grad_b, *new_grads = tape.gradient(
                    [residual, *_values(further)],
                    sources,
                    output_gradients=[grad_b, *tf.nest.flatten(output_grads)],
                )
                grad_sources = [_sum(x, y) for x, y in zip(grad_sources, new_grads, strict=True)]
                after_a, after_b = after_b - residual, before_b
                grad_a, grad_b = grad_b, _sum(grad_a, more_grad_b)
            grad_inputs = (grad_a, grad_b, *grad_sources[: len(values)])
            return (grad_inputs, grad_sources[len(values) :]) if variables else grad_inputs

        return [a, b, *_values(structures)], backward

    a, b, *leaves = on_values(first.value, second.value, *(x.value for x in inputs))
    outputs = map(as_tensor, tf.nest.flatten(structures))
    named = [Tensor(y.mesh, v, y.shape) for y, v in zip(outputs, leaves, strict=True)]
    further = tf.nest.pack_sequence_as(structures, named)
    return Tensor(mesh, a, shape), Tensor(mesh, b, shape), further


def _values(structure: Any) -> list[tf.Tensor]:
    return [as_tensor(y).value for y in tf.nest.flatten(structure)]


def _require_shape(x: Tensor, shape: Any) -> None:
    if x.shape != shape:
        raise ShapeError(
            f"all tensors of reversible_residuals have one shape: {shape}, not {x.shape}"
        )


def _sum(x: Any, y: Any) -> Any:
    if x is None or y is None:
        return y if x is None else x
    return tf.convert_to_tensor(x) + tf.convert_to_tensor(y)
