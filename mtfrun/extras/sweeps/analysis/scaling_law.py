"""Fits a scaling law to runs of several sizes and lengths, and finds what to train by it.

Symbols, as in Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556:

    N  parameters of a model         C  floating-point operations of a training
    D  tokens that it is trained on  L  loss
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE, check_range
from mtfrun.extras.sweeps.analysis.statistics import UPPER

_FITTED = 5
# The fewest sizes, and numbers of tokens, that determine two parameters and E.
_LEAST_LEVELS = 3

_DELTA = 1e-3
# Appendix D.3: log E, log A, log B, alpha, beta. Most starts end in the same minimum, so only the
# best of them are optimised.
_GRID = (np.linspace(-1, 1, 5), *[np.linspace(0, 25, 6)] * 2, *[np.linspace(0, 2, 5)] * 2)
_STARTS = 12
# Besiroglu et al. 2024: the minimum is flat, and a fit that stops early reports another law. Of a
# sum of losses, whose gradient is at most `_DELTA` for a run.
_GRADIENT_TOLERANCE = 1e-8


class TrainingPoints(NamedTuple):
    """Runs: float64 arrays of one length."""

    parameters: np.ndarray
    tokens: np.ndarray
    losses: np.ndarray


@dataclasses.dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, equation 2).

    E, A and B are logarithms, as they are fitted: A of a steep law would be too large for a float.

    >>> law = ScalingLaw(np.log(1.69), np.log(406.4), np.log(410.7), 0.34, 0.28)
    >>> round(float(law.loss(70e9, 1.4e12)), 3)
    1.937
    """

    log_E: float
    log_A: float
    log_B: float
    alpha: float
    beta: float

    def loss(self, parameters: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        size_term = self.log_A - self.alpha * np.log(parameters)
        tokens_term = self.log_B - self.beta * np.log(tokens)
        return np.exp(np.logaddexp(self.log_E, np.logaddexp(size_term, tokens_term)))

    def best_allocation(self, budget: float, cost: TokenCost) -> Allocation | None:
        """Returns the N and D of the lowest loss with C = `budget` operations.

        With k N^p operations a token, D is C / (k N^p), and dL/dN = 0 gives

            N = (alpha A / (p beta B))^(1 / (alpha + p beta)) * (C / k)^(beta / (alpha + p beta)),

        equation 4 of the paper if k is 6 and p is 1. None if more parameters or more tokens do not
        lower the loss: then there is no minimum.
        """
        check_range("budget", budget, POSITIVE)
        if min(self.alpha, self.beta) <= 0:
            return None
        slope = self.alpha + cost.exponent * self.beta
        log_ratio = np.log(self.alpha / (cost.exponent * self.beta)) + self.log_A - self.log_B
        log_tokens_of_one = np.log(budget / cost.factor)
        log_parameters = (log_ratio + self.beta * log_tokens_of_one) / slope
        log_tokens = log_tokens_of_one - cost.exponent * log_parameters
        parameters, tokens = np.exp([log_parameters, log_tokens])
        return Allocation(float(parameters), float(tokens), float(self.loss(parameters, tokens)))

    def values(self, cost: TokenCost) -> dict[str, float]:
        """Returns the parameters, and the exponent a: the best N for C is proportional to C^a."""
        logarithms = {"E": self.log_E, "A": self.log_A, "B": self.log_B}
        return {
            # The largest float is exp(709).
            **{name: math.exp(min(logarithm, 700.0)) for name, logarithm in logarithms.items()},
            "alpha": self.alpha,
            "beta": self.beta,
            "a": self.beta / (self.alpha + cost.exponent * self.beta),
        }


class Allocation(NamedTuple):
    parameters: float
    tokens: float
    loss: float


class TokenCost(NamedTuple):
    """Floating-point operations of a training for each token: factor * N^exponent.

    6 N is the usual estimate (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361). It counts the
    embedding's table, which multiplies nothing, and leaves out the products of attention, both of
    which matter in small models.
    """

    factor: float = 6.0
    exponent: float = 1.0

    def flops_per_token(self, parameters: float) -> float:
        return float(self.factor * parameters**self.exponent)


def fit_cost(parameters: np.ndarray, flops_per_token: np.ndarray) -> TokenCost:
    """Returns the power of N that is nearest to measured operations, by squares of logarithms."""
    exponent, constant = np.polyfit(np.log(parameters), np.log(flops_per_token), 1)
    return TokenCost(float(np.exp(constant)), float(exponent))


def check_identified(points: TrainingPoints, left_out: Sequence[str] = ()) -> None:
    """Raises InputError if the runs cannot determine the five parameters of a law.

    left_out: the runs without a result, which the message counts.
    """
    sizes, lengths = (len(set(x.tolist())) for x in (points.parameters, points.tokens))
    runs = len(points.losses)
    if min(sizes, lengths) < _LEAST_LEVELS or runs <= _FITTED:
        unfinished = f"; left out: {len(left_out)}, such as {left_out[0]}" if left_out else ""
        raise InputError(
            f"a scaling law needs {_LEAST_LEVELS} sizes of models, {_LEAST_LEVELS} numbers of "
            f"tokens and {_FITTED + 1} runs; those that are not held out have {sizes}, {lengths} "
            f"and {runs}: train more{unfinished}"
        )


def fit_law(points: TrainingPoints) -> ScalingLaw:
    """Returns the law of the smallest sum of Huber losses of log L - log L(N, D).

    Minimised by BFGS from a grid of starts (appendix D.3, which has L-BFGS: for five parameters
    the memory needs no limit). The Huber loss, nearly an absolute value, ignores outliers.
    """
    grid = np.array(list(itertools.product(*_GRID)))
    terms = _log_terms(grid, np.log(points.parameters), np.log(points.tokens))
    residuals = _log_loss(terms) - np.log(points.losses)
    starts = grid[np.argsort(special.huber(_DELTA, residuals).sum(axis=-1))[:_STARTS]]
    return min((_minimise(start, points) for start in starts), key=lambda fit: fit[0])[1]


def bootstrap_laws(
    points: TrainingPoints, law: ScalingLaw, count: int, seed: int
) -> list[ScalingLaw]:
    """Returns laws that are fitted to losses drawn around the law, of the same sizes and tokens.

    Runs are not drawn: without all runs of a size, few runs would not determine a law. Residuals
    are not drawn either: the fit passes through about five runs, whose residuals are 0.
    """
    fitted = law.loss(points.parameters, points.tokens)
    errors = draw_errors(points, law, (count, len(fitted)), seed)
    start = np.array(dataclasses.astuple(law))
    return [_minimise(start, points._replace(losses=fitted * factors))[1] for factors in errors]


def draw_errors(
    points: TrainingPoints, law: ScalingLaw, shape: tuple[int, ...], seed: int
) -> np.ndarray:
    """Returns losses of runs relative to the law's: log-normal, with the scatter of the points.

    The fit reduces the residuals, so the scatter is larger than theirs, and larger still for few
    runs, as Student's distribution is wider than the normal one.
    """
    residuals = np.log(points.losses) - np.log(law.loss(points.parameters, points.tokens))
    freedom = len(residuals) - _FITTED
    scatter = np.sqrt(np.sum(residuals**2) / freedom)
    scatter *= stats.t.ppf(UPPER, freedom) / stats.norm.ppf(UPPER)
    return np.asarray(np.exp(scatter * np.random.default_rng(seed).standard_normal(shape)))


def _minimise(start: np.ndarray, points: TrainingPoints) -> tuple[float, ScalingLaw]:
    log_losses, x, y = np.log(points.losses), np.log(points.parameters), np.log(points.tokens)

    def loss_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        terms = _log_terms(theta, x, y)
        predicted = _log_loss(terms)
        residuals = predicted - log_losses
        # A term's share of the loss is the derivative of log L by its logarithm.
        e, a, b = np.exp(terms - predicted) * np.clip(residuals, -_DELTA, _DELTA)
        gradient = [e.sum(), a.sum(), b.sum(), -(a * x).sum(), -(b * y).sum()]
        return float(special.huber(_DELTA, residuals).sum()), np.array(gradient)

    result = optimize.minimize(
        loss_and_gradient, start, jac=True, method="BFGS", options={"gtol": _GRADIENT_TOLERANCE}
    )
    return float(result.fun), ScalingLaw(*map(float, result.x))


def _log_terms(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns [3, ..., runs], the logarithms of E, A / N^alpha and B / D^beta.

    theta: [..., 5], in the order of `ScalingLaw`; x, y: [runs], log N and log D.
    """
    e, a, b, alpha, beta = (column[..., np.newaxis] for column in np.moveaxis(theta, -1, 0))
    return np.stack([e + np.zeros_like(x), a - alpha * x, b - beta * y])


def _log_loss(log_terms: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp.reduce(log_terms, axis=0))
