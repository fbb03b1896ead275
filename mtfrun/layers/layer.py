"""The base class of layers that compute more than their output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mtfrun import mtf


class Layer(mtf.Module):
    """A module that is called as `layer(x, call)` and returns a tensor; see `Call`.

    A layer declares what it gives to the call's collector before the first call. Layers that
    collect nothing may be plain modules.
    """

    @property
    def depends_on_padding(self) -> bool:
        """Whether padding after the positions of a row changes their output, outside of training.

        As where positions compete for places, whose number depends on that of the positions.
        """
        return False

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """The shape of the total of every metric, by name."""
        return {}

    @property
    def updated_variables(self) -> Sequence[mtf.Variable]:
        """The variables that a call in training updates."""
        return ()


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


def depends_on_padding(root: mtf.Module) -> bool:
    """Returns whether the output of any layer below `root` depends on padding."""
    return any(layer.depends_on_padding for layer in _layers(root))


def _layers(root: mtf.Module) -> list[Layer]:
    return [module for module in root.named_modules().values() if isinstance(module, Layer)]
