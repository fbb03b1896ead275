"""Variables with named dimensions."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import tensorflow as tf

from mtfrun.errors import InputError, ShapeError
from mtfrun.mtf.context import set_inside
from mtfrun.mtf.parameters.initializers import Initializer, KernelInitializer, Zeros
from mtfrun.mtf.parameters.low_rank import LowRankSum
from mtfrun.mtf.parameters.widths import NO_GROWTH, SAME_SIZE, Growth, Widths
from mtfrun.mtf.placement import engine
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.placement.zero import SLOT_RULES, VARIABLE_RULES, shard_shape
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import Dimension, Shape, ShapeLike, convert_to_shape
from mtfrun.mtf.tensor import Arithmetic, Tensor, TensorLike, as_tensor
from mtfrun.mtf.transfer import pack


@dataclasses.dataclass(frozen=True)
class DTypePolicy:
    """The types of a model's parameters and activations, which may be names, as in gin files.

    Softmax, losses, norms and gating always compute in float32, and the slots and updates of
    optimizers have at least float32.
    """

    master: tf.DType | str = tf.float32
    activation: tf.DType | str = tf.float32

    def __post_init__(self) -> None:
        for field in ("master", "activation"):
            name = getattr(self, field)
            try:
                dtype = tf.as_dtype(name)
            except TypeError:
                dtype = None
            if dtype is None or not dtype.is_floating:
                raise InputError(f"{field}={name!r} is not a float type: 'float32' or 'bfloat16'")
            object.__setattr__(self, field, dtype)


_ZEROS = Zeros()


@dataclasses.dataclass
class _Content:
    """The state that a variable and its `sharded` form share; storage is None at first."""

    path: str
    storage: tf.Variable | None = None
    widths: Widths = NO_GROWTH
    growth: Growth = SAME_SIZE
    initial_scale: float = 1.0
    is_frozen: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class LowRankAddend:
    """A variable's `addend`: scale * down * up; see `LowRankSum`."""

    down: Variable
    up: Variable
    scale: float
    drop: Callable[[Tensor], Tensor] = lambda x: x


_OUTER_DIMS = contextvars.ContextVar[tuple[Dimension, ...]]("outer_dims", default=())


def stack_variables(dim: Dimension) -> contextlib.AbstractContextManager[None]:
    """Gives variables that are made inside a further dimension, the first of their shape.

    Their initial values differ along it as if they were of so many modules, such as the members of
    an ensemble, and its vectors have the dimension too.
    """
    return set_inside(_OUTER_DIMS, (dim, *_OUTER_DIMS.get()))


class Variable(Arithmetic):
    """A parameter or another value that training updates; operations take it like a tensor.

    A specification only, until `mtf.initialize(module, seed)` gives it a path and storage: a model
    can be described without memory. Within one traced function a variable must be read before it is
    assigned, never after: under DTensor a read after an assignment can return the old value.

    Under a layout rule "weights:axis" the storage is split further than the shape: reading gathers
    the value, and its gradient is reduced and scattered, see `zero`.

    Args:
      name: its name in error messages before it has a path.
      trainable: whether optimizers update it.
      merged_dims: its dimensions that together are one side of a matrix, such as the heads and d_kv
        of attention's projections.
      sharded_by: the reserved layout rules that split the storage further.
      reduced_dims: the dimensions over which products with it sum, () for tables and biases. None
        takes the ones of its `VarianceScaling`, and otherwise () for one dimension; see
        `optim.set_base_sizes`, which needs them.

    Attributes:
      stored_shape: `shape` with the names by which the storage is laid out.
      reduced_dims: the dimensions over which products with it sum; None if unknown.
      sides: each dimension alone, but merged dimensions as one shape: the rows and columns of
        optimizers with statistics of both.
      addend: added wherever it is read, which then gives a `LowRankSum`; or None.
    """

    def __init__(
        self,
        mesh: Mesh,
        shape: ShapeLike,
        initializer: Initializer = _ZEROS,
        dtype: tf.DType = tf.float32,
        name: str = "",
        trainable: bool = True,
        merged_dims: Iterable[Dimension] = (),
        sharded_by: Sequence[str] = VARIABLE_RULES,
        reduced_dims: Iterable[Dimension] | None = None,
    ):
        self.mesh = mesh
        self._outer_dims = _OUTER_DIMS.get()
        self.shape: Shape = Shape([*self._outer_dims, *convert_to_shape(shape)])
        if reduced_dims is None and isinstance(initializer, KernelInitializer):
            reduced_dims = initializer.reduced_dims
        elif reduced_dims is None and self.shape.ndims <= 1:
            reduced_dims = ()
        self.reduced_dims = None if reduced_dims is None else Shape(reduced_dims)
        self.stored_shape = shard_shape(mesh, self.shape, sharded_by)
        self.sides = _sides(self.shape, merged_dims)
        self.initializer = initializer
        self.dtype = tf.as_dtype(dtype)
        self.trainable = trainable
        self._content = _Content(name)
        self._sharded: Variable | None = None
        self.addend: LowRankAddend | None = None
        mesh.partition(self.shape)
        mesh.partition(self.stored_shape)

    @property
    def path(self) -> str:
        """Its attribute path, or before initialisation its name."""
        return self._content.path

    @path.setter
    def path(self, path: str) -> None:
        self._content.path = path

    @property
    def variable(self) -> tf.Variable:
        """The storage: a `tf.Variable`, on several devices a `DVariable`."""
        if self._content.storage is None:
            name = self.path or self.shape
            raise ShapeError(f"variable {name} has no value yet: call mtf.initialize first")
        return self._content.storage

    @property
    def is_initialized(self) -> bool:
        return self._content.storage is not None

    @property
    def is_trained(self) -> bool:
        """Whether steps may need its gradient: it is trainable, and not frozen."""
        return self.trainable and not self._content.is_frozen

    def freeze(self) -> None:
        """Leaves its gradient out where layers compute all variables' gradients; see `scan_layers`.

        It concerns rematerialised layers only before `mtf.initialize`.
        """
        self._content.is_frozen = True

    @property
    def parts(self) -> Mapping[str, Variable]:
        """The variables that its value also consists of, by the last part of their paths."""
        addend = self.addend
        return {} if addend is None else {"lora_a": addend.down, "lora_b": addend.up}

    @property
    def widths(self) -> Widths:
        """The dimensions of the model that have grown."""
        return self._content.widths

    @property
    def growth(self) -> Growth:
        """The growth of the variable."""
        return self._content.growth

    def set_widths(self, widths: Widths, initial_scale: Callable[[Growth], float]) -> None:
        """Scales the initial value, which is for the base sizes, by a function of the growth.

        Raises:
          InputError: it has a value, or grows and does not say which dimensions are reduced.
        """
        if self.is_initialized:
            raise InputError(f"variable {self.path} has a value: set base sizes before")
        if self.reduced_dims is None and widths.grow(self.shape):
            raise InputError(
                f"variable {self.path} {self.shape.to_string} grows: say over which dimensions "
                "products with it sum, mtf.Variable(reduced_dims=[...]), [] for a table or a bias"
            )
        reduced = self.reduced_dims or Shape()
        growth = widths.growth_of(reduced, self.shape - reduced)
        scale = initial_scale(growth)
        if isinstance(self.initializer, KernelInitializer):
            scale *= self.initializer.stddev(widths) / self.initializer.stddev()
        content = self._content
        content.widths, content.growth, content.initial_scale = widths, growth, scale

    @property
    def sharded(self) -> Variable:
        """The same variable as optimizers see it, see `mtf.shard_variables`."""
        if self._sharded is None:
            self._sharded = self._under(shard_shape(self.mesh, self.shape, SLOT_RULES))
        return self._sharded

    def _under(self, shape: Shape) -> Variable:
        """Returns this variable with `shape`, which has its dimensions under other names."""
        if shape == self.shape:
            return self
        self.mesh.partition(shape)
        names = dict(zip(self.shape, shape, strict=True))
        variable = copy.copy(self)
        variable.shape = shape
        variable.sides = [Shape(names[dim] for dim in side) for side in self.sides]
        if self.reduced_dims is not None:
            variable.reduced_dims = Shape(names.get(dim, dim) for dim in self.reduced_dims)
        variable._sharded = variable
        variable.addend = None
        return variable

    def share(self, variable: Variable) -> None:
        """Takes the storage of another variable of the same shape on an equal mesh."""
        self._content.storage = variable.variable

    def initialize(self, seed: int, path: str) -> None:
        """Allocates the storage, with a value that depends on `seed` and `path` alone."""
        self.path = path
        value = self._initial_value(seed)
        if self.mesh.is_distributed:
            packed = pack(self.mesh, value, self.stored_shape)
            storage = engine.make_variable(packed, trainable=self.is_trained)
        else:
            name = path.rpartition("/")[2]
            storage = tf.Variable(value, trainable=self.is_trained, name=name)
        self._content.storage = storage

    def _initial_value(self, seed: int) -> np.ndarray:
        if self.mesh.is_planned:
            # A view of one zero: only the part of the first device will take memory.
            zero = np.zeros([], self.dtype.as_numpy_dtype)
            return np.broadcast_to(zero, self.shape.to_integer_list)
        digest = hashlib.blake2b(f"{seed}:{self.path}".encode(), digest_size=16).digest()
        rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
        inner = Shape(self.shape.dims[len(self._outer_dims) :])
        values = [self.initializer(inner, rng) for _ in range(Shape(self._outer_dims).size)]
        for value in values:
            if np.shape(value) != tuple(inner.to_integer_list):
                sizes = np.shape(value)
                raise ShapeError(f"the initializer of {self.path} returned {sizes} for {inner}")
        value = np.asarray(values[0])
        if self._outer_dims:
            value = np.stack(values).reshape(self.shape.to_integer_list)
        if self._content.initial_scale != 1.0:
            value = value * np.float32(self._content.initial_scale)
        return value.astype(self.dtype.as_numpy_dtype)

    def read(self) -> Tensor:
        """Returns the value as a tensor, with its addend; in `with_values` the value there."""
        value, addend = self.read_alone(), self.addend
        if addend is None:
            return value
        parts = (part.read() for part in (addend.down, addend.up))
        down, up = (Tensor(x.mesh, tf.cast(x.value, self.dtype), x.shape) for x in parts)
        return LowRankSum(value, down, up, addend.scale, addend.drop)

    def read_alone(self) -> Tensor:
        """Returns the value without its addend, as for `with_values`."""
        stored = self.read_stored()
        if stored.shape == self.shape:
            return stored
        return Tensor(self.mesh, self.mesh.constrain(stored.value, self.shape), self.shape)

    def read_stored(self) -> Tensor:
        """Returns {stored_shape}, not gathered; in `with_values` its tensor of either shape."""
        substitute = substitutes().get(self)
        if substitute is not None:
            return substitute
        # `read_value` adds an identity: of the quickstart's 2,534 operations of a step 162.
        read = self.variable.read_value if self.mesh.is_distributed else self.variable.value
        return Tensor(self.mesh, read(), self.stored_shape)

    def __repr__(self) -> str:
        return f"Variable({self.path!r}, {self.shape.to_string!r}, {self.dtype.name})"


def _sides(shape: Shape, merged_dims: Iterable[Dimension]) -> list[Shape]:
    merged = sorted({shape.index(dim) for dim in merged_dims})
    sides = [Shape([dim]) for dim in shape]
    if merged:
        sides[merged[0]] = Shape(shape[position] for position in merged)
    return [side for position, side in enumerate(sides) if position not in merged[1:]]


_SUBSTITUTES = contextvars.ContextVar[Mapping[Variable, Tensor]](
    "substitutes", default=MappingProxyType({})
)


def substitutes() -> Mapping[Variable, Tensor]:
    """Returns the values of the innermost `with_values`."""
    return _SUBSTITUTES.get()


def with_values(values: Mapping[Variable, Tensor]) -> contextlib.AbstractContextManager[None]:
    """Makes reading a variable give its tensor in `values`; gradients are the tensors'.

    So a layer computes with another layer's values, such as the next block's in a loop. A tensor
    has the variable's shape or its `stored_shape`; the latter is gathered each time it is read.
    """
    return set_inside(_SUBSTITUTES, {**substitutes(), **values})


def read_once(variables: Mapping[str, Variable]) -> contextlib.AbstractContextManager[None]:
    """Gathers variables once, before a loop that only reads them, such as a decoder's."""
    is_sharded = (v for v in variables.values() if v.shape != v.stored_shape)
    return with_values({variable: variable.read_alone() for variable in is_sharded})


def read_variable(var: Variable) -> Tensor:
    """Returns the variable's value as a tensor."""
    return var.read()


@accept_name
def assign(var: Variable, new_val: TensorLike) -> None:
    """Assigns a value with the variable's dimensions in any order, cast; else a ShapeError."""
    var.variable.assign(_stored_form(var, new_val))


def assign_add(var: Variable, new_val: TensorLike) -> None:
    """Adds to a variable; see `assign`."""
    var.variable.assign_add(_stored_form(var, new_val))


def assign_sub(var: Variable, new_val: TensorLike) -> None:
    """Subtracts from a variable; see `assign`."""
    var.variable.assign_sub(_stored_form(var, new_val))


def _stored_form(variable: Variable, x: TensorLike) -> tf.Tensor:
    x = as_tensor(x)
    value = x.value
    if x.shape != variable.shape:
        if set(x.shape) != set(variable.shape):
            raise ShapeError(f"variable {variable.path} is {variable.shape}, not {x.shape}")
        value = tf.transpose(value, [x.shape.index(dim) for dim in variable.shape])
    if value.dtype != variable.dtype:
        value = tf.cast(value, variable.dtype)
    if variable.stored_shape != variable.shape:
        # In two steps: DTensor otherwise lets the operation that made the value, such as the split
        # of a stack, compute with the layout of the storage, and refuses it.
        value = variable.mesh.constrain(value, variable.shape)
    return variable.mesh.constrain(value, variable.stored_shape)


def shard_variables(variables: Mapping[str, Variable]) -> dict[str, Variable]:
    """Returns variables as an optimizer and its gradients need them: split further by the rules.

    One dimension has another name, which the axis splits, also in gradients, slots and new values:
    an optimizer stores and computes a part on each device. Both forms share their storage; without
    such rules they are the same.
    """
    return {path: variable.sharded for path, variable in variables.items()}
