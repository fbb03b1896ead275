"""Compilation of functions of named tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import processes
from mtfrun.mtf.compiler import order_for_caches, traced_for_xla
from mtfrun.mtf.reports import Report, collected_reports, deliver, with_values
from mtfrun.mtf.spare_counters import is_name_clash, with_spare_counters
from mtfrun.mtf.tensor import Tensor

# Inputs of fewer elements are folded into the program by DTensor (measured: 16 are, 32 are not).
_FOLDED_BELOW = 32
# The number of attempts to trace a program whose loops have names of another, see
# spare_counters.py.
_ATTEMPTS = 8


def function(fn: Callable[..., Any], jit_compile: bool = False) -> Callable[..., Any]:
    """Returns `fn` traced and compiled like `tf.function`, for nested structures of named tensors.

    Arguments and results are nested dictionaries, lists and tuples of tensors; every other leaf
    must be hashable and is static: a new value of it, like new shapes, traces again. On one device
    several threads may call it concurrently.

    Args:
      fn: a function of named tensors, which may use variables without taking them as arguments.
      jit_compile: compile with XLA. On CPU measured slower for training, faster for decoding.
    """
    compiled: dict[Any, _Compiled] = {}

    def call(*args: Any, **kwargs: Any) -> Any:
        leaves = tf.nest.flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        # The repr of the structure would be slow; its skeleton with leaf specs is the key.
        spec = tuple(
            (id(leaf.mesh), leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf
            for leaf in leaves
        )
        key = (spec, _skeleton((args, kwargs)))
        if key not in compiled:
            # Of concurrent threads, all use the program of the first one.
            compiled.setdefault(key, _Compiled(fn, (args, kwargs), leaves, jit_compile))
        return compiled[key]([tensor.value for tensor in tensors])

    return call


class _Compiled:
    """A traced function, for one structure of arguments with their shapes and static leaves."""

    def __init__(self, fn: Callable[..., Any], arguments: Any, leaves: list[Any], jit: bool):
        # Without the argument values, of which only the structure is needed.
        self._static = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._specs = [(x.mesh, x.shape) if isinstance(x, Tensor) else None for x in leaves]
        self._structure = tf.nest.map_structure(lambda _: None, arguments)
        self._result: Any = None
        self._reports: list[Report] = []
        self._mesh: dtensor.Mesh | None = None  # of the results
        self._fn = fn
        # Whether each is a small replicated input, see _copies.
        self._copied = [
            x.mesh.is_distributed and x.shape.size < _FOLDED_BELOW
            for x in leaves
            if isinstance(x, Tensor)
        ]
        self._jit = jit
        if jit:
            order_for_caches()
        self._traced = self._untraced()

    def _untraced(self) -> Any:  # a tf.function
        return tf.function(self._trace, jit_compile=self._jit, autograph=False)

    def _trace(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        remaining = iter(_first_copies(values, self._copied))
        leaves = [
            static if spec is None else Tensor(spec[0], next(remaining), spec[1])
            for static, spec in zip(self._static, self._specs, strict=True)
        ]
        args, kwargs = tf.nest.pack_sequence_as(self._structure, leaves)
        with traced_for_xla(self._jit), collected_reports() as self._reports:
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
        tensors = [x for x in results if isinstance(x, Tensor)]
        tensors += [x for report in self._reports for x in report.tensors]
        self._mesh = next((x.mesh.dtensor_mesh for x in tensors if x.mesh.is_distributed), None)
        return [x.value for x in tensors]

    def __call__(self, values: list[tf.Tensor]) -> Any:
        results = iter(self._run(values))
        result = tf.nest.map_structure(
            lambda make: make(next(results)) if callable(make) else make, self._result
        )
        deliver(with_values(self._reports, results))
        return result

    def _run(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        for attempt in range(_ATTEMPTS):
            try:
                with with_spare_counters(attempt):
                    if not values:
                        return self._without_arguments()
                    return list(self._traced(_copies(values, self._copied)))
            except tf.errors.InvalidArgumentError as error:
                # The program was refused before it ran, so that no assignment happens twice.
                is_last = attempt == _ATTEMPTS - 1 or processes.count() > 1
                if not is_name_clash(error) or is_last:
                    raise
                self._traced = self._untraced()
        raise AssertionError("unreachable")

    def _without_arguments(self) -> list[tf.Tensor]:
        """Returns the results where no argument has a mesh that the program runs on."""
        self._traced.get_concrete_function([])  # sets self._mesh
        if self._mesh is None:
            return list(self._traced([]))
        with dtensor.run_on(self._mesh):
            return list(self._traced([]))


def _copies(values: list[tf.Tensor], copied: list[bool]) -> list[tf.Tensor]:
    """Returns the values, with many copies of each small one.

    DTensor folds an input of few elements into the program and compiles a second program, for any
    value, when it changes. That doubles the time to start, and the names of its nested loops clash
    with those of the first ("a different function with the same name already exists").
    """
    return [
        tf.broadcast_to(x, [_FOLDED_BELOW, *x.shape]) if copy else x
        for x, copy in zip(values, copied, strict=True)
    ]


def _first_copies(values: list[tf.Tensor], copied: list[bool]) -> list[tf.Tensor]:
    return [
        tf.reshape(tf.slice(x, [0] * x.shape.rank, [1, *x.shape[1:]]), x.shape[1:]) if copy else x
        for x, copy in zip(values, copied, strict=True)
    ]


def _skeleton(structure: Any) -> Any:
    """Returns a hashable form of a nested structure without its leaves."""
    if isinstance(structure, Mapping):
        return tuple((key, _skeleton(structure[key])) for key in sorted(structure))
    if isinstance(structure, (list, tuple)):
        return (type(structure), *(_skeleton(item) for item in structure))
    return None
