"""Logits of features that the user gives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mtfrun import mtf
from mtfrun.data import INPUTS, TARGETS
from mtfrun.data.prompts import bucket
from mtfrun.errors import InputError
from mtfrun.experiment.experiment import Experiment, quote_names

# Features by name.
Features = Mapping[str, npt.ArrayLike]

# The dimensions of a feature that the user may choose: models of images average over all positions.
_FREE = ("batch", "length", "rows", "cols")


class Logits:
    """Computes the logits of an experiment's model.

    A program is compiled for every shape of the features. Where the model allows it, ids are padded
    to the next power of two. Rows of zeros are added where the mesh needs more.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._model = experiment.model
        self._program = mtf.function(self._model.logits)

    def __call__(self, features: Features) -> np.ndarray:
        """See `Run.logits`."""
        if not isinstance(features, Mapping):
            raise InputError(f"features are a dictionary by name, not a {type(features).__name__}")
        self._check_names(features)
        arrays = {name: self._array(name, values) for name, values in features.items()}
        batches = {array.shape[0] for array in arrays.values()}
        if len(batches) > 1:
            shapes = ", ".join(f'"{name}" {list(x.shape)}' for name, x in arrays.items())
            raise InputError(f"all features must have the same number of rows: {shapes}")
        (batch,) = batches
        rows = self._experiment.rows_for(batch)
        tensors = {name: self._tensor(name, x, rows) for name, x in arrays.items()}
        logits: np.ndarray = mtf.to_numpy(self._program(tensors))[:batch]
        ids = arrays.get(TARGETS, arrays.get(INPUTS))
        if logits.ndim == 2 or ids is None:  # of rows, or of pixels
            return logits
        return logits[:, : ids.shape[1], : self._model.num_classes]

    def _check_names(self, features: Features) -> None:
        choices = self._model.logits_features
        optional = set(self._model.optional_features or ())
        if any(set(needed) <= set(features) <= {*needed, *optional} for needed in choices):
            return
        wanted = " or ".join(quote_names(needed, " and ") for needed in choices)
        more = quote_names(sorted(optional))
        raise InputError(
            f"logits of {type(self._model).__name__} need {wanted}, not "
            + (quote_names(features) or "nothing")
            + f"; it also reads {more}" * bool(more)
        )

    def _array(self, name: str, values: npt.ArrayLike) -> np.ndarray:
        try:
            array = np.asarray(values)
        except (ValueError, TypeError):
            raise InputError(f'feature "{name}" has rows of unequal lengths: add zeros') from None
        if array.dtype.kind not in "biuf":
            raise InputError(
                f'feature "{name}" is {array.dtype}, not numbers; the ids of a text are '
                f'run.experiment.data.vocabularies["{name}"].encode(text)'
            )
        dims = self._dims(name)
        fits = array.ndim == len(dims) and all(
            dim.name in _FREE or dim.size == size
            for dim, size in zip(dims, array.shape, strict=True)
        )
        if not fits or not array.size:
            wanted = ", ".join(d.name if d.name in _FREE else str(d.size) for d in dims)
            raise InputError(f'feature "{name}" has sizes {list(array.shape)}, not [{wanted}]')
        if name in self._experiment.data.class_names:
            number = len(self._experiment.data.class_names[name])
            return _integers(name, array, "classes", 0, number)
        return self._ids(name, array) if dims[-1].name == "length" else _pixels(name, array)

    def _dims(self, name: str) -> mtf.Shape:
        ids = mtf.convert_to_shape("batch:1;length:1")  # also of features that the data lacks
        return self._experiment.data.shapes(1).get(name, ids)

    def _ids(self, name: str, array: np.ndarray) -> np.ndarray:
        tables = self._model.vocabulary_sizes
        variables = self._model.named_variables()
        limit = max(
            (variables[path].shape.get_dim_by_name("vocab").size for path in tables), default=None
        )
        return _integers(name, array, "ids", min(0, self._padding_of(name)), limit)

    def _tensor(self, name: str, array: np.ndarray, rows: int) -> mtf.Tensor:
        """Returns a feature on the mesh, padded with rows, and positions of ids, of zeros."""
        sizes = [rows, *array.shape[1:]]
        names = self._dims(name).dimension_names
        if names[-1] == "length":
            padded = bucket(sizes[1])
            sizes[1] = padded if self._model.allows_padding(padded) else sizes[1]
        dims = [mtf.Dimension(name, size) for name, size in zip(names, sizes, strict=True)]
        padding = [(0, dim.size - size) for dim, size in zip(dims, array.shape, strict=True)]
        padded_array = np.pad(array, padding, constant_values=self._padding_of(name))
        return mtf.import_tf_tensor(self._experiment.mesh, padded_array, dims)

    def _padding_of(self, name: str) -> int:
        return self._model.padding_of(name) if name in (INPUTS, TARGETS) else 0


def _integers(name: str, array: np.ndarray, kind: str, first: int, limit: int | None) -> np.ndarray:
    least, most = array.min(), array.max()
    if array.dtype.kind not in "iu" or least < first or (limit and most >= limit):
        below = f", below {limit}" if limit else ""
        what = f'feature "{name}" must be {kind}, integers from {first}{below}'
        raise InputError(f"{what}: it has {array.dtype}, {least} to {most}")
    return array.astype(np.int32)


def _pixels(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and np.isfinite(array).all():
        return array.astype(np.float32)
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        what = f'feature "{name}" is {array.dtype}'
        raise InputError(f"{what}: pixels are integers from 0 to 255, or finite floats")
    return array.astype(np.uint8)
