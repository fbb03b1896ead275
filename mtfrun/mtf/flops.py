"""Counting of the floating point operations of products while a function is traced."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

from mtfrun.mtf.context import set_inside


class FlopCount:
    """Operations of products and convolutions over all devices, two for each multiplication."""

    def __init__(self) -> None:
        self.by_dtype: dict[str, int] = {}
        self.rounds = 1

    def clear(self) -> None:
        """Resets the count, for a function that is traced again."""
        self.by_dtype.clear()

    @property
    def total(self) -> int:
        return sum(self.by_dtype.values())

    def add(self, flops: int, dtype: tf.DType) -> None:
        self.by_dtype[dtype.name] = self.by_dtype.get(dtype.name, 0) + self.rounds * flops


_COUNT = contextvars.ContextVar[FlopCount | None]("product_count", default=None)


@contextlib.contextmanager
def count_flops(count: FlopCount | None, rounds: int = 1) -> Iterator[None]:
    """Counts products that are traced in the context; None does not count, even inside a count."""
    with set_inside(_COUNT, count), repeat_products(rounds):
        yield


def add_product(flops: int, dtype: tf.DType) -> None:
    """Adds a product to the count of the context, if there is one."""
    count = _COUNT.get()
    if count is not None:
        count.add(flops, dtype)


@contextlib.contextmanager
def forget_on_error() -> Iterator[None]:
    """Discards the context's count if it ends with an error."""
    count = _COUNT.get()
    before = {} if count is None else dict(count.by_dtype)
    try:
        yield
    except BaseException:
        if count is not None:
            count.by_dtype = before
        raise


@contextlib.contextmanager
def repeat_products(rounds: int) -> Iterator[None]:
    """Counts every product of the context `rounds` times, as in the body of a loop."""
    count = _COUNT.get() or FlopCount()
    count.rounds *= rounds
    try:
        yield
    finally:
        count.rounds //= rounds
