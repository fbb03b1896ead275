"""Norms of gradients, parameters and updates, whole and by module."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from mtfrun import mtf, optim

# The norm of all gradients together before clipping, which every step computes.
GRADIENT = "norm/gradient"
_KINDS = ("gradient", "parameter", "update")


class Norms:
    """Computes norms on the devices, at multiples of `every_steps` and at `last_step`.

    A norm is the root of the sum of the squares of all entries of the trained variables (`paths`):
    of their gradients before clipping, of their values before the step, and of the differences that
    the step makes. A module is the first part of a variable's path, such as "embedding". Every
    device squares the entries that it holds; only sums are exchanged. The dimension `dim` has, for
    every kind of norm, its modules.
    """

    def __init__(self, paths: Iterable[str], every_steps: int, last_step: int):
        self._paths: dict[str, list[str]] = {}
        for path in paths:
            self._paths.setdefault(path.partition("/")[0], []).append(path)
        self._every_steps = every_steps
        self._last_step = last_step
        self.dim = mtf.Dimension("norms", len(_KINDS) * len(self._paths))

    def squares(
        self,
        step: mtf.Tensor,
        gradient_halves: Mapping[str, mtf.Tensor],
        before: Mapping[str, mtf.Tensor],
        after: Mapping[str, mtf.Tensor],
    ) -> mtf.Tensor:
        """Returns half the sums of squares {norms}, float32; zeros at other steps.

        `step` is a scalar, the number of steps before; `gradient_halves` are the gradients'
        `optim.half_squares`, `before` and `after` are weights by path.
        """
        gradients = self._by_module(gradient_halves)

        def sums() -> mtf.Tensor:
            float32 = functools.partial(mtf.cast, dtype=tf.float32)
            updates = {path: float32(after[path]) - float32(x) for path, x in before.items()}
            parameters = self._by_module(optim.half_squares(before))
            changes = self._by_module(optim.half_squares(updates))
            return mtf.stack([*gradients, *parameters, *changes], self.dim.name)

        finished = step + 1
        is_due = mtf.logical_or(
            mtf.equal(finished % self._every_steps, 0), mtf.equal(finished, self._last_step)
        )
        squares: mtf.Tensor = mtf.cond(is_due, sums, lambda: mtf.zeros(step.mesh, [self.dim]))
        return squares

    def _by_module(self, halves: Mapping[str, mtf.Tensor]) -> list[mtf.Tensor]:
        return [mtf.add_n([halves[path] for path in paths]) for paths in self._paths.values()]

    def by_tag(self, squares: np.ndarray) -> dict[str, np.ndarray]:
        """Returns norms [steps] by tag, but for `GRADIENT`, from `squares` [steps, norms]."""
        by_kind = np.reshape(squares, [len(squares), len(_KINDS), len(self._paths)])
        tags: dict[str, np.ndarray] = {}
        for k, kind in enumerate(_KINDS):
            if f"norm/{kind}" != GRADIENT:
                tags[f"norm/{kind}"] = np.sqrt(2.0 * by_kind[:, k].sum(axis=-1))
            if len(self._paths) > 1:
                for m, module in enumerate(self._paths):
                    tags[f"norm/{kind}/{module}"] = np.sqrt(2.0 * by_kind[:, k, m])
        return tags
