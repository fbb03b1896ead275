"""The base class of layers, and `Call`, the state of one call of a model."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers.collector import Collector, Recorder
from mtfrun.mtf.context import set_inside


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a model; immutable, made once a step, and handed to every layer.

    A layer is called as `layer(x, call)` and returns a tensor. Further results, such as a mixture's
    balance loss or next moving averages, go to the collector.

    Attributes:
      training: whether dropout is on.
      key: the random key of this step; needed in training by layers that draw.
      collector: takes the losses, metrics and updates of layers; None drops them.
      path_number: the number, an int32 scalar, of the path in this round's block that belongs to a
        path in the first block; for a loop over blocks, see `scan_layers`.
      recorder: takes inner values of layers, for pictures; None in training.
    """

    training: bool = False
    key: mtf.Key | None = None
    collector: Collector | None = None
    path_number: Callable[[str], mtf.Tensor] | None = None
    recorder: Recorder | None = None

    def key_of(self, module: mtf.Module | mtf.Variable) -> mtf.Key:
        """Returns the random key of a module or variable; an InputError if the call has no key.

        It depends on the module's path, not the order of calls: rematerialisation draws it again.
        """
        if self.key is None:
            raise InputError(
                f"{module.path} needs random numbers in training: give the model a key"
            )
        path = module.path
        return self.key.fold_in(path if self.path_number is None else self.path_number(path))


CallT = TypeVar("CallT", bound=Call)

_PRESENT_CALL = contextvars.ContextVar("call", default=Call())  # noqa: B039, it is immutable


def in_call(call: Call) -> contextlib.AbstractContextManager[None]:
    """Makes `present_call` return a call inside, for products of variables, which do not get one.

    Around the gradients too: a rematerialised product draws again.
    """
    return set_inside(_PRESENT_CALL, call)


def present_call() -> Call:
    """Returns the call of the innermost `in_call`; outside, a call without training."""
    return _PRESENT_CALL.get()


class Layer(mtf.Module):
    """A module that is called as `layer(x, call)` and declares its losses and metrics."""

    @property
    def depends_on_padding(self) -> bool:
        """Whether padding after the positions of a row changes their output, outside of training.

        For example where positions compete for slots in proportion to the number of positions.
        """
        return False

    @property
    def reads_prompts_at_once(self) -> bool:
        """Whether keys of a prompt depend on its length, so that it must be read in one pass."""
        return False

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """The shape of the total of every metric, by name."""
        return {}

    @property
    def updated_variables(self) -> Sequence[mtf.Variable]:
        """The variables that a call in training updates."""
        return ()

    @property
    def active_shares(self) -> Mapping[mtf.Variable, float]:
        """The variables of which a token uses only a share, such as experts, and the share."""
        return {}


def metric_shapes(root: mtf.Module) -> dict[str, mtf.Shape]:
    """Returns the shapes of the metrics of all layers below `root` as "path/name"."""
    return {
        f"{layer.path}/{name}": shape
        for layer in _layers(root)
        for name, shape in layer.metric_shapes.items()
    }


def updated_paths(root: mtf.Module) -> list[str]:
    """Returns the paths of the variables that the layers below `root` update in training."""
    return [variable.path for layer in _layers(root) for variable in layer.updated_variables]


def active_shares(root: mtf.Module) -> dict[mtf.Variable, float]:
    """Returns the shares of the variables below `root` of which a token uses only a share."""
    return {v: share for layer in _layers(root) for v, share in layer.active_shares.items()}


def depends_on_padding(root: mtf.Module) -> bool:
    """Returns whether the output of any layer below `root` depends on padding."""
    return any(layer.depends_on_padding for layer in _layers(root))


def reads_prompts_at_once(root: mtf.Module) -> bool:
    """Returns whether any layer below `root` must read prompts in one pass."""
    return any(layer.reads_prompts_at_once for layer in _layers(root))


def _layers(root: mtf.Module) -> list[Layer]:
    return [module for module in root.named_modules().values() if isinstance(module, Layer)]
