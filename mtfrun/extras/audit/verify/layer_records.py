"""What a model or an optimizer computes in one step, call by call: outputs and gradients."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import linecache
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.mtf.tensor import Arithmetic

Around: TypeAlias = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]
"""around(name, call, arguments) takes the place of a call; `call` takes the arguments."""

# Operators that files in this folder use are parts of operations.
_OPERATIONS = str(pathlib.Path(mtf.__file__).parent)
# Entries of results that are recorded of one module's operations; 256 MB of float32.
_MOST_ENTRIES = 1 << 26
_copy = mtf.identity  # not intercepted


@contextlib.contextmanager
def intercept_calls(root: mtf.Module, around: Around) -> Iterator[None]:
    """Replaces the calls of all modules below `root`, by their paths.

    Layers are called as `layer(x, call)`, so the `__call__` of their classes is replaced.
    """
    modules = root.named_modules()
    paths = {id(module): path for path, module in modules.items()}

    def intercepting(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(self: mtf.Module, *args: Any, **kwargs: Any) -> Any:
            path = paths.get(id(self))
            if path is None:
                return function(self, *args, **kwargs)
            return around(path, lambda *new: function(self, *new, **kwargs), args)

        return call

    with contextlib.ExitStack() as stack:
        for cls in {type(module) for module in modules.values() if callable(module)}:
            former = vars(cls).get("__call__")
            function = cls.__call__
            if former is None:
                stack.callback(delattr, cls, "__call__")
            else:
                stack.callback(setattr, cls, "__call__", former)
            setattr(cls, "__call__", intercepting(function))  # noqa: B010 - a method of any class
        yield


@contextlib.contextmanager
def intercept_operations(root: mtf.Module, path: str, around: Around) -> Iterator[None]:
    """Replaces the operations of `mtf` that the module of a path calls itself, by their lines.

    "" is the path outside of all modules' calls. A line is such as "my_layers.py:12: y = f(x)".
    """
    running, entries = [""], 0

    def enter(module: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        running.append(module)
        try:
            return call(*args)
        finally:
            running.pop()

    def intercepting(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal entries
            file, number = sys._getframe(1).f_code.co_filename, sys._getframe(1).f_lineno
            is_part = running[-1] != path or file.startswith(_OPERATIONS)
            if is_part or entries > _MOST_ENTRIES:
                return function(*args, **kwargs)
            line = f"{_short(file)}:{number}: {linecache.getline(file, number).strip()}"
            result = around(line, lambda *new: function(*new, **kwargs), args)
            tensors = (x for x in tf.nest.flatten(result) if isinstance(x, mtf.Tensor))
            entries += sum(x.shape.size for x in tensors)
            return result

        return operation

    with intercept_calls(root, enter), contextlib.ExitStack() as stack:
        for owner in (mtf, Arithmetic):
            for name, function in list(vars(owner).items()):
                # `mtf.gradients` needs its arguments themselves.
                if isinstance(function, FunctionType) and name != "gradients":
                    stack.callback(setattr, owner, name, function)
                    setattr(owner, name, intercepting(function))
        yield


class Named(NamedTuple):
    """An array with the names of its dimensions, if they are known."""

    value: np.ndarray
    dims: Sequence[str] = ()

    @property
    def shape(self) -> str:
        """The shape as "{batch:4, length:2}", or "[4, 2]"."""
        sizes = (f"{d}:{size}" for d, size in zip(self.dims, self.value.shape, strict=False))
        return f"{{{', '.join(sizes)}}}" if self.dims else str(list(self.value.shape))

    def place(self, index: Sequence[int]) -> str:
        """Returns "batch 3, length 0", or "[3, 0]"."""
        if self.dims:
            return ", ".join(f"{d} {i}" for d, i in zip(self.dims, index, strict=True))
        return str(list(index)) if index else ""


class RecordedCall(NamedTuple):
    """A result of a call, and the gradients of the loss by it and by the call's inputs.

    None if the loss does not depend on the tensor, or without gradients.
    """

    output: Named
    output_gradient: Named | None
    input_gradients: Sequence[Named | None]


Calls: TypeAlias = Mapping[tuple[str, int], RecordedCall]
"""Calls in the order in which they end, by the name and the number of the call of this name."""


@dataclasses.dataclass
class _Recorder:
    """Records the calls while a program is traced: their results, and the tensors they take."""

    graph: Any
    calls: dict[tuple[str, int], list[mtf.Tensor]] = dataclasses.field(default_factory=dict)
    numbers: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __call__(self, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        inputs: list[mtf.Tensor] = []

        def copy(x: Any) -> Any:
            if not (self._is_recorded(x) and x.dtype.is_floating):
                return x
            inputs.append(_copy(x))  # a gradient by the copy belongs to this use
            return inputs[-1]

        result = call(*([copy(y) for y in x] if type(x) is list else copy(x) for x in args))
        for y in filter(self._is_recorded, tf.nest.flatten(result)):
            self.calls[name, self.numbers[name]] = [y, *inputs]
            self.numbers[name] += 1
        return result

    def _is_recorded(self, x: Any) -> bool:
        """False in the body of a loop: its values do not exist outside."""
        return isinstance(x, mtf.Tensor) and getattr(x.value, "graph", None) is self.graph


def record_calls(
    compute: Callable[[Mapping[str, mtf.Tensor]], Any],
    inputs: Mapping[str, mtf.Tensor],
    intercept: Callable[[Around], AbstractContextManager[None]],
    *,
    with_gradients: bool,
) -> Calls:
    """Returns the calls that `intercept` replaces in compute(inputs), a loss, except in loops."""
    recorders: list[_Recorder] = []

    @mtf.function
    def run(inputs: Mapping[str, mtf.Tensor]) -> Any:
        recorder = _Recorder(tf.compat.v1.get_default_graph())
        recorders[:] = [recorder]
        with intercept(recorder):
            loss = compute(inputs)
        tensors = list(recorder.calls.values())
        floats = {id(x): x for x in itertools.chain(*tensors) if x.dtype.is_floating}
        by_tensor: dict[int, mtf.Tensor | None] = {}
        if with_gradients and floats:
            values = mtf.gradients([loss], list(floats.values()))
            by_tensor = dict(zip(floats, values, strict=True))
        return [(xs[0], [by_tensor.get(id(x)) for x in xs]) for xs in tensors]

    results = run(inputs)
    calls = {}
    for name, (y, gradients) in zip(recorders[0].calls, results, strict=True):
        dy, *dxs = (None if x is None else named(x) for x in gradients)
        calls[name] = RecordedCall(named(y), dy, dxs)
    return calls


def named(x: mtf.Tensor | mtf.Variable) -> Named:
    return Named(mtf.to_numpy(x), tuple(x.shape.dimension_names))


def _short(file: str) -> str:
    path = pathlib.Path(file)
    for folder in (pathlib.Path.cwd(), pathlib.Path(_OPERATIONS).parents[1]):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return str(path)
