"""The values of all variables of a larger model."""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Mapping

import numpy as np

from mtfrun import mtf
from mtfrun.extras.grow.matching import Origin, match_paths
from mtfrun.extras.grow.plan import Plan
from mtfrun.extras.grow.rules import Rules
from mtfrun.extras.grow.stream import D_MODEL
from mtfrun.models import Model

# Of the initial values of routers: a token then has equal weights for its experts, nearly, and all
# the experts that a threshold would leave out, see `moe.Top2`.
_OF_ROUTERS = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class GrownVariables:
    """The variables of the new model, with where they come from.

    Attributes:
      plans: the plans of variables that come from old ones.
      initial: initial values of the new model.
      noise: the standard deviation of the differences between copies, relative to the values.
    """

    old: Mapping[str, mtf.Variable]
    new: Mapping[str, mtf.Variable]
    origins: Mapping[str, Origin]
    plans: Mapping[str, Plan]
    initial: Mapping[str, np.ndarray]
    noise: float = 0.0

    @classmethod
    def of(
        cls, old: Model, new: Model, rules: Rules, *, seed: int, noise: float = 0.0
    ) -> GrownVariables:
        """Plans, and then gives the new model its initial values.

        Raises:
          InputError: the new model is not a larger one of the same kind.
        """
        of_old, of_new = old.named_variables(), new.named_variables()
        origins = match_paths(of_old, of_new)
        plans = {
            path: plan
            for path, origin in origins.items()
            if origin.source is not None and (plan := rules.plan(path, origin.source)) is not None
        }
        mtf.initialize(new, seed)
        initial = {path: mtf.to_numpy(variable) for path, variable in of_new.items()}
        return cls(of_old, of_new, origins, plans, initial, noise)

    def grow(self, path: str, old: np.ndarray | None) -> np.ndarray:
        """Returns the new value of a variable for an old value, or without one for a new variable.

        A layer of a new block adds 0 to the vectors between layers. Other new variables are
        routers.
        """
        plan, variable = self.plans.get(path), self.new[path]
        if plan is None or old is None:
            factor = _OF_ROUTERS
            if self.origins[path].twin is not None:
                reduced = {dim.name for dim in variable.reduced_dims or ()}
                written = set(variable.shape.dimension_names) - reduced
                factor = 0.0 if reduced and D_MODEL in written else 1.0
            return self.initial[path] * np.float32(factor)
        value = plan.of_values(old, self.initial[path])
        if self.noise:
            value = value + self.noise * plan.differences(value, zlib.crc32(path.encode()))
        return value

    def table(self) -> list[tuple[str, str, str, str]]:
        """Returns rows of path, old dimensions, new ones and rules; equal blocks have one row."""
        rows: dict[tuple[str, str, str, str], int] = {}
        for path, origin in self.origins.items():
            plan = self.plans.get(path)
            rule = plan.describe() if plan is not None else "new, initial"
            if origin.twin is not None:
                rule = "new block"
            before = "" if origin.source is None else self.old[origin.source].shape.to_string
            after = self.new[path].shape.to_string
            row = re.sub(r"(?<=blocks/)\d+|(?<=stages/)\d+/\d+", "*", path), before, after, rule
            rows[row] = rows.get(row, 0) + 1
        return [
            (f"{path} ({count})" if count > 1 else path, before, after, rule)
            for (path, before, after, rule), count in rows.items()
        ]
