"""Compiling functions of named tensors, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from mtfrun.mtf.tensor import Tensor
from mtfrun.mtf.variables import Variable


def function(fn: Callable[..., Any], jit_compile: bool = False) -> Callable[..., Any]:
    """Returns `fn` traced and compiled like `tf.function`, for nested structures of named tensors.

    Arguments and results are nested dictionaries, lists and tuples of tensors; every other leaf
    must be hashable and is static: another value traces again. A change of shapes does as well.

    Args:
      fn: a function of named tensors; the variables that it uses are found by themselves.
      jit_compile: compile with XLA. On CPU measured slower for training, faster for decoding.
    """
    compiled: dict[Any, _Compiled] = {}

    def call(*args: Any, **kwargs: Any) -> Any:
        leaves = tf.nest.flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        # The structure's own repr would be slow; its skeleton with leaf specs is the key.
        spec = tuple(
            (id(leaf.mesh), leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf
            for leaf in leaves
        )
        key = (spec, _skeleton((args, kwargs)))
        if key not in compiled:
            compiled[key] = _Compiled(fn, (args, kwargs), leaves, jit_compile)
        return compiled[key]([tensor.value for tensor in tensors])

    return call


class _Compiled:
    """One traced form of a function: for one structure of arguments, shapes and static leaves."""

    def __init__(self, fn: Callable[..., Any], arguments: Any, leaves: list[Any], jit: bool):
        # Keep no argument values alive, only what is needed to build the structure again.
        self._static = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._specs = [(x.mesh, x.shape) if isinstance(x, Tensor) else None for x in leaves]
        self._structure = tf.nest.map_structure(lambda leaf: None, arguments)
        self._result: Any = None
        self._fn = fn
        self._traced = tf.function(self._trace, jit_compile=jit, autograph=False)

    def _trace(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        remaining = iter(values)
        leaves = [
            static if spec is None else Tensor(spec[0], next(remaining), spec[1])
            for static, spec in zip(self._static, self._specs, strict=True)
        ]
        args, kwargs = tf.nest.pack_sequence_as(self._structure, leaves)
        result = self._fn(*args, **kwargs)
        results = tf.nest.flatten(result)
        self._result = tf.nest.map_structure(
            lambda x: (
                (lambda value, mesh=x.mesh, shape=x.shape: Tensor(mesh, value, shape))
                if isinstance(x, Tensor)
                else x
            ),
            result,
        )
        return [x.value for x in results if isinstance(x, Tensor)]

    def __call__(self, values: list[tf.Tensor]) -> Any:
        results = iter(self._traced(values))
        return tf.nest.map_structure(
            lambda make: make(next(results)) if callable(make) else make, self._result
        )


def _skeleton(structure: Any) -> Any:
    """Returns a hashable picture of a nested structure without its leaves."""
    if isinstance(structure, Mapping):
        return tuple((key, _skeleton(structure[key])) for key in sorted(structure))
    if isinstance(structure, (list, tuple)):
        return (type(structure), *(_skeleton(item) for item in structure))
    return None


def value_and_gradients(
    fn: Callable[[], Any], variables: Mapping[str, Variable]
) -> tuple[Any, dict[str, Tensor | None]]:
    """Returns fn() and the gradients of its (first) result with respect to the variables.

    Inside `mtf.function`: DTensor has no eager tape for some operations.

    Args:
      fn: returns a scalar tensor, or a tuple that begins with one.
      variables: by path.

    Returns:
      fn's result, and by path the gradients, laid out as their variables; None where the result
      does not depend on a variable.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for variable in variables.values():
            tape.watch(variable.variable)
        result = fn()
    loss = result[0] if isinstance(result, tuple) else result
    storage = [variable.variable for variable in variables.values()]
    values = tape.gradient(loss.value, storage)
    gradients: dict[str, Tensor | None] = dict.fromkeys(variables)
    for (path, variable), value in zip(variables.items(), values, strict=True):
        if value is None:
            continue
        value = tf.convert_to_tensor(value)  # the sparse gradient of a gather becomes dense
        value = variable.mesh.constrain(value, variable.shape)
        gradients[path] = Tensor(variable.mesh, value, variable.shape)
    return result, gradients
