"""Check of a model's variables for values that are not finite."""

from __future__ import annotations

from collections.abc import Mapping

from mtfrun import mtf
from mtfrun.errors import InputError


class NonFiniteError(InputError):
    """Values of a model, or of its training, are infinite or NaN."""


class FiniteCheck:
    """Checks floating variables on the devices, in one program, compiled at the first use."""

    def __init__(self, variables: Mapping[str, mtf.Variable]):
        floating = {path: v for path, v in variables.items() if v.dtype.is_floating}
        # Every device checks the part that it stores; nothing is gathered.
        self._variables = mtf.shard_variables(floating)
        self._flags = mtf.function(self._are_finite)

    def first_non_finite(self) -> str | None:
        """Returns the path of the first variable that is not finite, or None; copies only flags."""
        flags = mtf.to_numpy(self._flags())
        return next((path for path, is_finite in flags.items() if not is_finite), None)

    def _are_finite(self) -> dict[str, mtf.Tensor]:
        return {
            path: mtf.reduce_all(mtf.is_finite(mtf.read_variable(variable)))
            for path, variable in self._variables.items()
        }
