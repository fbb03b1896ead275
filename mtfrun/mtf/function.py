"""Compilation of functions of named tensors."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from mtfrun.mtf.context import set_inside
from mtfrun.mtf.placement import engine
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.reports import Report, collect_reports, deliver, with_values
from mtfrun.mtf.tensor import Tensor

_CONCURRENT = "--xla_cpu_enable_concurrency_optimized_scheduler"


def order_for_caches() -> None:
    """Makes XLA order the operations of CPU programs for the processor's caches.

    By default it distributes independent operations over many cores: in a beam search all key/value
    caches are reordered after the last layer, not each after its layer. Measured on one core, a
    search takes 7 % longer (small) and 4.5 % (medium, see bin/bench decode). The user's XLA_FLAGS
    take precedence; XLA reads them when it first compiles.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _CONCURRENT not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_CONCURRENT}=false".strip()


# Whether operations may take the form that only XLA compiles.
_FOR_XLA = contextvars.ContextVar("for_xla", default=False)


def is_traced_for_xla(mesh: Mesh) -> bool:
    """Returns whether XLA compiles traced programs: on one device only, where DTensor does not."""
    return _FOR_XLA.get() and not mesh.is_distributed


def function(fn: Callable[..., Any], jit_compile: bool = False) -> Callable[..., Any]:
    """Returns `fn` traced and compiled like `tf.function`, for nested structures of named tensors.

    Arguments and results are nested dictionaries, lists and tuples of tensors; all other leaves are
    hashable and static: new values, like new shapes, trace again. `fn` may use variables that are
    not arguments. On one device several threads may call it concurrently. With `jit_compile` XLA
    compiles it: measured on CPU, training is slower and decoding faster.
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
            # Concurrent threads all use the first thread's program.
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
        self._mesh: engine.DeviceMesh | None = None  # of the results
        self._fn = fn
        self._is_small = [
            x.mesh.is_distributed and x.shape.size < engine.FOLDED_BELOW
            for x in leaves
            if isinstance(x, Tensor)
        ]
        self._jit = jit
        if jit:
            order_for_caches()
        self._retrace()

    def _trace(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        remaining = iter(engine.take_small_inputs(values, self._is_small))
        leaves = [
            static if spec is None else Tensor(spec[0], next(remaining), spec[1])
            for static, spec in zip(self._static, self._specs, strict=True)
        ]
        args, kwargs = tf.nest.pack_sequence_as(self._structure, leaves)
        with set_inside(_FOR_XLA, self._jit), collect_reports() as self._reports:
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
        self._mesh = next((x.mesh.device_mesh for x in tensors if x.mesh.is_distributed), None)
        values = [x.value for x in tensors]
        return values if self._mesh is None else engine.compute_all_loops(values)

    def __call__(self, values: list[tf.Tensor]) -> Any:
        results = iter(engine.run_again_if_names_clash(lambda: self._run(values), self._retrace))
        result = tf.nest.map_structure(
            lambda make: make(next(results)) if callable(make) else make, self._result
        )
        deliver(with_values(self._reports, results))
        return result

    def _run(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        if values:
            return list(self._traced(engine.widen_small_inputs(values, self._is_small)))
        # No argument has a mesh that the program could run on.
        self._traced.get_concrete_function([])  # sets self._mesh
        mesh = self._mesh
        with contextlib.nullcontext() if mesh is None else engine.run_on(mesh):
            return list(self._traced([]))

    def _retrace(self) -> None:
        self._traced = tf.function(self._trace, jit_compile=self._jit, autograph=False)


def _skeleton(structure: Any) -> Any:
    if isinstance(structure, Mapping):
        return tuple((key, _skeleton(structure[key])) for key in sorted(structure))
    if isinstance(structure, (list, tuple)):
        return (type(structure), *(_skeleton(item) for item in structure))
    return None
