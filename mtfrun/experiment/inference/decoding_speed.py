"""How decoding saves time: drafts, common beginnings, several batches at a time."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mtfrun import decoding, mtf
from mtfrun.data import PromptLimits, TextData
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_fields


class Draft(abc.ABC):
    """Decodes several tokens in a step of the model, which checks tokens that are proposed."""

    def check(self, data: TextData, limits: PromptLimits) -> None:  # noqa: B027, optional
        """Raises InputError unless the draft fits a model of the data."""

    @property
    def variables(self) -> Mapping[str, mtf.Variable]:
        """The variables of the draft by path."""
        return {}

    @abc.abstractmethod
    def decode(
        self,
        decoder: decoding.Decoder,
        features: Mapping[str, mtf.Tensor],
        vocab: mtf.Dimension,
        choice: Callable[[mtf.Dimension], decoding.ChooseToken],
        number: int,
        **settings: Any,
    ) -> tuple[decoding.Hypotheses, mtf.Tensor, mtf.Tensor]:
        """Returns hypotheses without a beam, and {batch} int32 the numbers of tokens and steps.

        Args:
          choice: returns the choice of tokens of a vocabulary.
          number: how many proposed tokens a step checks.
          settings: keyword arguments of `decoding.generate`.
        """

    @abc.abstractmethod
    def describe(self, tokens: int, steps: int, number: int) -> str:
        """Returns a line on how many tokens the steps have decoded."""


@dataclasses.dataclass(frozen=True)
class DecodingSpeed:
    """How decoding saves time. No setting changes an output but by rounding.

    Attributes:
      concurrent_batches: number of batches that are decoded concurrently on a CPU, at most one per
        core. Accelerators and meshes of several devices decode one at a time.
      draft: proposes the next tokens, which one step of the model then checks; None for none.
      draft_tokens: number of tokens that a draft proposes for a step.
      share_beginnings: whether tokens with which several prompts begin are read once; None: where
        this saves more time than its programs take to compile.
    """

    concurrent_batches: int = 2
    draft: Draft | None = None
    draft_tokens: int = 5
    share_beginnings: bool | None = None

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "concurrent_batches", "draft_tokens")
        if not isinstance(self.draft, Draft | None):
            raise InputError(f"DecodingSpeed.draft is {self.draft!r}: it must be a draft or None")


def number_of_threads(mesh: mtf.Mesh, limit: int) -> int:
    """Returns the number of batches to decode concurrently, at most `limit`.

    XLA's programs leave cores of a CPU idle: on two cores, 4,000 lines took 13.6 s with two
    batches and 19.1 s with one (docs/benchmarks.md). An accelerator is busy with one, and the
    devices of a mesh wait for each other, which concurrent programs would disrupt.
    """
    if mesh.is_distributed or not mesh.is_on_cpu:
        return 1
    return min(limit, len(os.sched_getaffinity(0)))


@contextlib.contextmanager
def concurrent_map(threads: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yields a function like `map`, in the same order; leaving cancels calls not yet begun."""
    if threads == 1:
        yield map
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
