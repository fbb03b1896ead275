"""What the layers of a model compute in one step, call by call: outputs and gradients."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import linecache
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType, FunctionType
from typing import Any, NamedTuple, cast

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers import Call, in_call
from mtfrun.models import Model
from mtfrun.mtf.tensor import Arithmetic
from mtfrun.training.microbatches import Features

# Operators that files in this folder use are parts of operations.
_OPERATIONS = str(pathlib.Path(mtf.__file__).parent)
# Entries of operations that are recorded, over all of them; 256 MB of float32.
_MOST_ENTRIES = 1 << 26


@contextlib.contextmanager
def intercept_calls(
    root: mtf.Module, around: Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]
) -> Iterator[None]:
    """Replaces the calls of all modules below `root`, by around(path, call, arguments).

    `call` takes the arguments. A layer is called as `layer(x, call)` by whoever has it, and so its
    class is changed.
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


MODULE_INPUT = -1
"""Stands for the first argument of a module among operands."""


class Named(NamedTuple):
    """An array with the names of its dimensions."""

    value: np.ndarray
    dims: tuple[str, ...]

    @property
    def shape(self) -> str:
        """Such as "{batch:4, length:2}"."""
        sizes = (f"{d}:{size}" for d, size in zip(self.dims, self.value.shape, strict=True))
        return f"{{{', '.join(sizes)}}}"

    def place(self, index: Sequence[int]) -> str:
        """Returns such as "batch 3, length 0"."""
        return ", ".join(f"{d} {i}" for d, i in zip(self.dims, index, strict=True))


class LayerCall(NamedTuple):
    """A call of a module: its output, and the gradients of the loss by its output and its input.

    None for gradients of what the loss does not depend on, and where there are none.
    """

    path: str
    output: Named
    output_gradient: Named | None
    input_gradient: Named | None


class OperationCall(NamedTuple):
    """The result of an operation of `mtf`."""

    line: str  # the line that calls it, such as "my_layers.py:12: y = mtf.relu(x)"
    number: int  # number of the call on this line
    # indices of the operations whose results it takes, `MODULE_INPUT` for the module's
    operands: Sequence[int]
    output: Named
    output_gradient: Named | None  # the gradient of the loss by the result, or None


@dataclasses.dataclass
class _Calls:
    """The calls while a program is traced.

    `inputs` are what modules get instead of their inputs, so that a gradient belongs to one use.
    """

    graph: Any
    paths: list[str] = dataclasses.field(default_factory=list)
    inputs: list[mtf.Tensor | None] = dataclasses.field(default_factory=list)
    outputs: list[mtf.Tensor] = dataclasses.field(default_factory=list)

    def __call__(self, path: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        x: mtf.Tensor | None = None
        if args and self._is_recorded(args[0]):
            x = mtf.identity(args[0])
            args = (x, *args[1:])
        y = call(*args)
        if self._is_recorded(y):
            self.paths.append(path)
            self.inputs.append(x)
            self.outputs.append(y)
        return y

    def _is_recorded(self, x: Any) -> bool:
        """Not in the body of a loop, whose values do not exist outside."""
        return isinstance(x, mtf.Tensor) and x.dtype.is_floating and _graph(x) is self.graph


def record_layers(
    model: Model, features: Features, key: mtf.Key, *, training: bool
) -> list[LayerCall]:
    """Returns the calls of the model's modules in the order in which they end, inner ones first.

    features: of a batch {batch, ...}. Without `training` there are no gradients. Modules whose
    output is not one tensor are left out, and so are the inner ones of a loop over blocks.
    """
    calls: list[_Calls] = []

    @mtf.function
    def run(features: Mapping[str, mtf.Tensor]) -> Any:
        recorded = _Calls(tf.compat.v1.get_default_graph())
        calls[:] = [recorded]
        with intercept_calls(model, recorded):
            loss = _loss(model, features, key, training=training)
        outputs = recorded.outputs
        if not training:
            return outputs, None, None
        inputs = [y if x is None else x for x, y in zip(recorded.inputs, outputs, strict=True)]
        gradients = mtf.gradients([loss], [*outputs, *inputs])
        return outputs, gradients[: len(outputs)], gradients[len(outputs) :]

    outputs, output_gradients, input_gradients = run(features)
    none = [None] * len(outputs)
    return [
        LayerCall(path, cast(Named, _named(y)), _named(dy), None if x is None else _named(dx))
        for path, x, y, dy, dx in zip(
            calls[0].paths,
            calls[0].inputs,
            outputs,
            output_gradients or none,
            input_gradients or none,
            strict=True,
        )
    ]


def record_operations(
    model: Model, path: str, features: Features, key: mtf.Key, *, training: bool
) -> list[OperationCall]:
    """Returns the operations that a module's first call makes itself, in order; "" for the model's.

    Of a call of an operation inside of others only the outermost one is recorded.
    """

    def loss(features: Features) -> mtf.Tensor:
        return _loss(model, features, key, training=training)

    return _record(loss, features, model, path, with_gradients=training)


def record_update(
    update: Callable[[Mapping[str, mtf.Tensor]], Any], gradients: Mapping[str, mtf.Tensor]
) -> list[OperationCall]:
    """Returns the operations of an optimizer's update, in order."""
    return _record(update, gradients)


def _record(
    compute: Callable[[Mapping[str, mtf.Tensor]], Any],
    inputs: Mapping[str, mtf.Tensor],
    model: Model | None = None,
    path: str = "",
    *,
    with_gradients: bool = False,
) -> list[OperationCall]:
    found: list[_Operations] = []

    @mtf.function
    def run(inputs: Mapping[str, mtf.Tensor]) -> Any:
        operations = _Operations(tf.compat.v1.get_default_graph(), path)
        found[:] = [operations]
        with operations.record(), contextlib.ExitStack() as stack:
            if model is not None:
                stack.enter_context(intercept_calls(model, operations))
            loss = compute(inputs)
        outputs = list(operations.results.values())
        floating = [i for i, y in enumerate(outputs) if y.dtype.is_floating and with_gradients]
        gradients = mtf.gradients([loss], [outputs[i] for i in floating]) if floating else ()
        by_output = dict(zip(floating, gradients, strict=True))
        return outputs, [by_output.get(i) for i in range(len(outputs))]

    outputs, gradients = run(inputs)
    (operations,) = found
    return [
        OperationCall(line, number, operands, cast(Named, _named(y)), _named(dy))
        for (line, number), operands, y, dy in zip(
            operations.results, operations.operands(), outputs, gradients, strict=True
        )
    ]


class _Operations:
    """The results of the operations that are called while the module of a path is called.

    `results` are by the line and the call's number on this line.
    """

    def __init__(self, graph: Any, path: str) -> None:
        self._graph, self._path = graph, path
        self._stack = [""]
        self._is_over = False
        self._entries = 0
        self._numbers: dict[str, int] = {}
        self._input: mtf.Tensor | None = None
        self.results: dict[tuple[str, int], mtf.Tensor] = {}

    def __call__(self, path: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        self._stack.append(path)
        if path == self._path and not self._is_over and args and isinstance(args[0], mtf.Tensor):
            # Of this use alone.
            self._input = mtf.identity(args[0])
            args = (self._input, *args[1:])
        try:
            return call(*args)
        finally:
            self._stack.pop()
            self._is_over |= path == self._path != ""

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Replaces the functions of `mtf` and the operators by such that record their results."""
        with contextlib.ExitStack() as stack:
            for owner in (mtf, Arithmetic):
                for name, function in list(vars(owner).items()):
                    if isinstance(function, FunctionType):
                        stack.callback(setattr, owner, name, function)
                        setattr(owner, name, self._recording(function))
            yield

    def _recording(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if self._stack[-1] == self._path and not self._is_over:
                for x in tf.nest.flatten(result):
                    if isinstance(x, mtf.Tensor) and _graph(x) is self._graph:
                        self._add(x, sys._getframe(1))
            return result

        return call

    def operands(self) -> list[list[int]]:
        """Returns for every result the indices of the results from which it is made."""
        numbers = {y.value.ref(): i for i, y in enumerate(self.results.values())}
        if self._input is not None:
            numbers[self._input.value.ref()] = MODULE_INPUT
        operands = []
        for y in self.results.values():
            pending, seen, indices = list(y.value.op.inputs), set(), set()
            while pending:
                value = pending.pop()
                if value.ref() in numbers:
                    indices.add(numbers[value.ref()])
                elif value.ref() not in seen:
                    seen.add(value.ref())
                    pending += value.op.inputs
            operands.append(sorted(indices))
        return operands

    def _add(self, x: mtf.Tensor, caller: FrameType) -> None:
        file, number = caller.f_code.co_filename, caller.f_lineno
        self._entries += x.shape.size
        if file.startswith(_OPERATIONS) or self._entries > _MOST_ENTRIES:
            return  # an operator inside of an operation
        line = f"{_short(file)}:{number}: {linecache.getline(file, number).strip()}"
        self._numbers[line] = self._numbers.get(line, -1) + 1
        self.results[line, self._numbers[line]] = x


def _graph(x: mtf.Tensor) -> Any:
    return getattr(x.value, "graph", None)


def _loss(model: Model, features: Features, key: mtf.Key, *, training: bool) -> mtf.Tensor:
    """Returns the mean loss, as a step differentiates it."""
    with in_call(Call(training=training, key=key)):
        loss = model.loss(features, training=training, key=key)
    return loss.total * mtf.stop_gradient(mtf.reciprocal(mtf.maximum(loss.weight, 1.0)))


def _named(x: mtf.Tensor | None) -> Named | None:
    if x is None:
        return None
    value = mtf.to_numpy(mtf.to_float(x) if x.dtype.is_floating else x)
    return Named(value, tuple(x.shape.dimension_names))


def _short(file: str) -> str:
    path = pathlib.Path(file)
    for folder in (pathlib.Path.cwd(), pathlib.Path(_OPERATIONS).parents[1]):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return str(path)
