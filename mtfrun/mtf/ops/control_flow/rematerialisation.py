"""Rematerialisation: recomputing activations in the backward pass instead of storing them."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import tensorflow as tf

from mtfrun.errors import InputError
from mtfrun.mtf.context import set_inside
from mtfrun.mtf.gradients import copies_on_meshes
from mtfrun.mtf.parameters.variables import substitutes, with_values
from mtfrun.mtf.reports import collect_reports
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


@dataclasses.dataclass
class _Kept:
    """The values that a recomputed function stores, in the order of its calls of `keep`."""

    recomputed: Collection[str] | None
    values: list[tf.Tensor] = dataclasses.field(default_factory=list)
    found: set[str] = dataclasses.field(default_factory=set)
    is_stored: bool = False

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Stores the values that functions inside keep, and returns them the second time."""
        self._next = iter(self.values)
        with set_inside(_KEPT, self):
            yield
        unknown = set(self.recomputed or ()) - self.found
        if unknown:
            name = min(unknown)
            names = ", ".join(sorted(self.found)) or "no names"
            raise InputError(f"nothing that is recomputed is called {name!r}: there are {names}")
        self.is_stored = True

    def keep(self, x: Tensor, name: str) -> Tensor:
        self.found.add(name)
        if self.recomputed is None or name in self.recomputed:
            return x
        if not self.is_stored:
            self.values.append(x.value)
            return x
        stored = next(self._next)

        # The value of x is used nowhere, so that it is not computed; gradients go through it.
        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def replace(_: tf.Tensor) -> Any:
            return tf.identity(stored), lambda gradient: gradient

        return Tensor(x.mesh, replace(x.value), x.shape)


_KEPT = contextvars.ContextVar[_Kept | None]("kept", default=None)


def keep(x: Tensor, name: str) -> Tensor:
    """Returns x, which the innermost `recompute_grad` stores unless it computes the name again.

    Not in the body of a loop: its values do not exist outside.
    """
    store = _KEPT.get()
    return x if store is None else store.keep(x, name)


def recompute_grad(
    fn: Callable[..., Any],
    explicit_inputs: Sequence[TensorLike],
    names: Collection[str] | None = None,
) -> Any:
    """Returns fn(*explicit_inputs) and recomputes its activations in the backward pass.

    Saves the memory of fn's intermediate values for one more forward pass; Chen et al. 2016,
    arXiv:1604.06174. Variables that fn uses get their gradients, other tensors that it captures do
    not. With `names`, values that fn gives other names with `keep` are stored, and values that only
    they depend on are not computed again; InputError for a name that fn does not give. It draws
    with keys, which repeat, not with stateful random numbers. (Not `tf.recompute_grad`, which
    flattens a gradient: DTensor gathers all of it on every device.)
    """
    # Where tensors stand for the values of variables, they are inputs as well.
    substituted = substitutes()
    inputs = [*map(as_tensor, explicit_inputs), *substituted.values()]
    number = len(explicit_inputs)
    store = _Kept(names)
    result: Any = None

    def outputs_of(values: Sequence[tf.Tensor]) -> list[Tensor]:
        nonlocal result
        named = [Tensor(x.mesh, v, x.shape) for x, v in zip(inputs, values, strict=True)]
        with with_values(dict(zip(substituted, named[number:], strict=True))), store.in_use():
            result = fn(*named[:number])
        return [as_tensor(y) for y in tf.nest.flatten(result)]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def on_values(*values: tf.Tensor) -> Any:
        outputs = outputs_of(values)

        def backward(*output_grads: tf.Tensor, variables: Sequence[Any] = ()) -> Any:
            moment = moment_of(outputs, output_grads)
            recomputing = tf.GradientTape(watch_accessed_variables=False)
            with recomputing as tape, collect_reports():  # reported by the first pass
                delayed = [after(moment, value) for value in values]
                tape.watch(delayed)
                for variable in variables:
                    tape.watch(variable)
                recomputed = [y.value for y in outputs_of(delayed)]
            sources = [*delayed, *variables]
            gradients = tape.gradient(recomputed, sources, output_gradients=output_grads)
            grad_inputs, grad_variables = gradients[: len(values)], gradients[len(values) :]
            return (grad_inputs, grad_variables) if variables else grad_inputs

        return [y.value for y in outputs], backward

    values = on_values(*copies_on_meshes(inputs))
    outputs = tf.nest.flatten(result)
    named = [Tensor(y.mesh, v, y.shape) for y, v in zip(outputs, values, strict=True)]
    return tf.nest.pack_sequence_as(result, named)


def moment_of(outputs: Sequence[Tensor], output_grads: Sequence[tf.Tensor | None]) -> Any:
    """Returns a zero that depends through a thin slice on the first output's gradient, or None."""
    for y, gradient in zip(outputs, output_grads, strict=True):
        if gradient is None or not y.dtype.is_floating:
            continue
        sizes = [1 if y.mesh.num_splits(dim) == 1 else dim.size for dim in y.shape]
        thin = tf.slice(gradient, [0] * len(sizes), sizes) if sizes else gradient
        # No compiler can tell that this is zero. (NaN where the gradient is NaN.)
        return tf.minimum(tf.abs(tf.reduce_max(thin)), tf.zeros([], y.dtype))
    return None


def after(moment: tf.Tensor | None, value: tf.Tensor) -> tf.Tensor:
    """Returns value, after `moment`: otherwise the second pass could run beside the first."""
    if moment is None or not value.dtype.is_floating:
        return tf.identity(value)
    return value + tf.cast(moment, value.dtype)
