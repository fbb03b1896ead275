"""Batches on a mesh."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import ONLY_HOST, Batch, DataError, Host, Infeed, LanguageModelData, host_of
from mtfrun.data.rows import infeed as infeed_module
from mtfrun.errors import InputError
from tests.data.in_memory import texts_task

TEXTS = tuple(f"document {i} ".encode() * (i % 7 + 1) for i in range(40))
DATA = LanguageModelData(texts_task(TEXTS), length=16)
SHAPES = DATA.shapes(8)


def infeed(batches: Iterator[Batch], mesh_shape: str = "data:1,model:1") -> Infeed:
    return Infeed(batches, mtf.Mesh(mesh_shape, "batch:data"), SHAPES)


def test_every_mesh_is_fed_the_batches_of_the_data(mesh_shape: str) -> None:
    feed = infeed(DATA.train(8, seed=0), mesh_shape)
    batches = DATA.train(8, seed=0)
    for steps in (1, 3):
        fed = feed.next(steps)
        assert fed is not None
        expected = [next(batches) for _ in range(steps)]
        for name, tensor in fed.items():
            assert tensor.shape == mtf.Shape([mtf.Dimension("steps", steps)]) + SHAPES[name]
            assert tensor.dtype == tf.int32
            stacked = np.stack([batch[name] for batch in expected])
            np.testing.assert_array_equal(mtf.to_numpy(tensor), stacked)


def test_an_outer_batch_splits_rows_in_order() -> None:
    mesh = mtf.Mesh("data:2,model:2", "batch:data;outer_batch:model")
    fed = Infeed(DATA.train(8, seed=0), mesh, SHAPES, outer_batch=2).next(3)
    expected = infeed(DATA.train(8, seed=0)).next(3)
    assert fed is not None and expected is not None
    for name, tensor in fed.items():
        assert tensor.shape == mtf.convert_to_shape("steps:3;outer_batch:2;batch:4;length:16")
        rows = mtf.to_numpy(tensor).reshape([3, 8, 16])
        np.testing.assert_array_equal(rows, mtf.to_numpy(expected[name]))
    with pytest.raises(DataError, match="an outer batch of 3 does not divide batch:8: take a div"):
        Infeed(DATA.train(8, seed=0), mesh, SHAPES, outer_batch=3)


class PartOfMesh(mtf.Mesh):
    """A mesh of which this process has the devices at some places only, in row-major order."""

    def __init__(self, shape: str, layout: str, places: slice):
        super().__init__(shape, layout)
        self._places = places

    def local_slices(self, shape: mtf.ShapeLike) -> list[tuple[slice, ...]]:
        return super().local_slices(shape)[self._places]


@pytest.mark.parametrize(
    ("mesh", "layout", "outer_batch", "processes", "rows"),
    [
        ("data:4,model:2", "batch:data", 1, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        # No axis of the batch lies across processes.
        pytest.param("model:2,data:2", "batch:data", 1, 2, [None, None], marks=pytest.mark.slow),
        # Each process has devices of two of four parts.
        pytest.param(
            "data:2,model:4",
            "batch:model",
            1,
            4,
            [[0, 1, 2, 3], [4, 5, 6, 7]] * 2,
            marks=pytest.mark.slow,
        ),
        # The batch lies on two axes: the rows of a process are not an interval.
        ("data:2,model:2", "batch:data;outer_batch:model", 2, 2, [[0, 1, 4, 5], [2, 3, 6, 7]]),
    ],
)
def test_a_process_reads_the_rows_of_its_devices_only(
    mesh: str, layout: str, outer_batch: int, processes: int, rows: list[list[int] | None]
) -> None:
    whole = next(DATA.train(8, seed=0))["targets"]
    share = mtf.convert_to_shape(mesh).size // processes
    hosts = []
    for index in range(processes):
        part = PartOfMesh(mesh, layout, slice(index * share, (index + 1) * share))
        host = host_of(part, SHAPES["targets"], outer_batch)
        batches = DATA.train(8, seed=0, host=host)
        all_places = mtf.Mesh(mesh, layout)
        fed = Infeed(batches, all_places, SHAPES, outer_batch, host=host).next(1)
        assert fed is not None
        values = mtf.to_numpy(fed["targets"]).reshape(whole.shape)
        own = host.rows_of(8)
        np.testing.assert_array_equal(values[own], whole[own])
        np.testing.assert_array_equal(np.delete(values, own, axis=0), 0)
        hosts.append(host)
    assert hosts == [ONLY_HOST if own is None else Host(own) for own in rows]


def test_the_end_is_filled_with_padding_and_then_none() -> None:
    batches = list(DATA.evaluation(8))
    steps = len(batches) + 2
    feed = infeed(DATA.evaluation(8))
    fed = feed.next(steps)
    assert fed is not None
    targets = mtf.to_numpy(fed["targets"])
    assert targets.shape == (steps, 8, 16)
    np.testing.assert_array_equal(targets[:-2], [batch["targets"] for batch in batches])
    assert not targets[-2:].any()
    assert feed.next(steps) is None


@pytest.mark.parametrize("bytes_ahead", [1, 1 << 26])
def test_calls_of_other_sizes_than_expected_lose_and_repeat_no_batch(
    bytes_ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infeed_module, "_BYTES_AHEAD", bytes_ahead)
    feed, batches = infeed(DATA.train(8, seed=0)), DATA.train(8, seed=0)
    for steps, capacity in [(3, 5), (3, 5), (1, 5), (7, 7), (2, 4), (2, 3)]:
        fed = feed.next(steps, capacity)
        assert fed is not None
        expected = np.stack([next(batches)["targets"] for _ in range(steps)])
        targets = mtf.to_numpy(fed["targets"])
        assert targets.shape == (capacity, 8, 16)
        np.testing.assert_array_equal(targets[:steps], expected)
        assert not targets[steps:].any()
        assert feed.position == batches.position and len(feed.padding) == steps
    feed.close()


def test_closing_waits_for_one_batch_and_not_for_those_of_the_next_call() -> None:
    class Slow(Iterator[Batch]):
        def __init__(self) -> None:
            self.delay, self.batches = 0.0, DATA.train(8, seed=0)

        def __next__(self) -> Batch:
            time.sleep(self.delay)
            return next(self.batches)

    batches = Slow()
    feed = infeed(batches)
    feed.next(100)  # the next 100 are read from now on
    batches.delay = 0.5
    start = time.monotonic()
    feed.close()
    assert time.monotonic() - start < 5


def test_the_position_is_behind_the_last_batch_that_was_returned() -> None:
    feed = infeed(DATA.train(8, seed=3))
    feed.next(5, capacity=7)
    position = feed.position
    assert position == 5 * 8
    expected = feed.next(4)
    resumed = infeed(DATA.train(8, seed=3))
    resumed.next(2)
    resumed.position = position
    actual = resumed.next(4)
    assert expected is not None and actual is not None
    for name in SHAPES:
        np.testing.assert_array_equal(mtf.to_numpy(actual[name]), mtf.to_numpy(expected[name]))


def test_an_error_of_the_data_is_raised_by_next_after_the_batches_before_it() -> None:
    def batches() -> Iterator[Batch]:
        yield next(DATA.train(8, seed=0))
        raise DataError("broken")

    feed = infeed(batches())
    assert feed.next(1) is not None
    for _ in range(2):
        with pytest.raises(DataError, match="broken"):
            feed.next(1)


def test_a_check_raises_the_error_of_the_first_batch_and_consumes_none() -> None:
    def broken(_: int) -> Batch:
        raise DataError("broken")

    with pytest.raises(DataError, match="broken"):
        infeed(map(broken, [0])).check(1)
    feed, expected = infeed(DATA.train(8, seed=0)), infeed(DATA.train(8, seed=0))
    feed.check(1)
    assert feed.position == 0
    for steps in (1, 2):
        fed, batches = feed.next(steps, 4), expected.next(steps, 4)
        assert fed is not None and batches is not None
        for name, tensor in fed.items():
            np.testing.assert_array_equal(mtf.to_numpy(tensor), mtf.to_numpy(batches[name]))


def test_the_next_batches_are_read_while_the_caller_works() -> None:
    batch = next(DATA.train(8, seed=0))
    delay = 0.1

    was_read = threading.Semaphore(0)

    def slow() -> Iterator[Batch]:
        while True:
            time.sleep(delay)
            was_read.release()
            yield batch

    feed = infeed(slow())
    feed.next(1)
    waited = feed.wait_secs
    assert waited >= delay
    for _ in range(4):  # the first batch, two more, and one that is asked for when these are there
        assert was_read.acquire(timeout=60)
    feed.next(2)
    assert feed.wait_secs - waited < delay
    feed.close()


def test_rows_of_an_evaluation_may_be_shorter() -> None:
    batch = {"targets": np.ones([8, 5], np.int32)}
    mesh = mtf.Mesh("data:1,model:1", "batch:data")
    fed = Infeed(iter([batch]), mesh, SHAPES, with_shorter_rows=True).next(1)
    assert fed is not None
    assert {name: x.shape.to_string for name, x in fed.items()} == {
        "targets": "steps:1;batch:8;length:5"
    }
    for wrong in ({"targets": np.ones([8, 17], np.int32)}, {"x": np.ones([8, 16], np.int32)}):
        with pytest.raises(DataError, match="of an evaluation has sizes"):
            Infeed(iter([wrong]), mesh, SHAPES, with_shorter_rows=True).next(1)


def test_batches_of_another_size_size_is_an_error() -> None:
    with pytest.raises(DataError, match=r"has sizes \[4, 16\], not batch:8;length:16"):
        infeed(DATA.evaluation(4)).next(1)


def test_zero_steps_are_an_error() -> None:
    with pytest.raises(InputError, match=r"steps is 0: it must be"):
        infeed(DATA.evaluation(8)).next(0)
    with pytest.raises(InputError, match=r"capacity is 2: it must be an integer of at least 3"):
        infeed(DATA.evaluation(8)).next(3, capacity=2)


def test_the_padding_of_every_batch_of_the_last_call_is_counted() -> None:
    ids = np.ones([8, 16], np.int32)
    half = np.concatenate([ids[:, :8], np.zeros_like(ids[:, 8:])], axis=1)
    batches = [dict.fromkeys(SHAPES, values) for values in (ids, half, half)]
    feed = infeed(iter(batches))
    feed.next(2)
    assert feed.padding == [(0, 128), (64, 128)]
    # Batches that fill up the capacity are no batches of the data.
    feed.next(2)
    assert feed.padding == [(64, 128)]
