"""Batches of labelled images."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import DataError, ImageData, Infeed
from tests.layouts import ONE_DEVICE

NUM_IMAGES = 10
BATCH = 4


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Images whose pixels equal their index; the split "empty" has none."""

    size: tuple[int, int, int] = (2, 3, 1)
    label_names: tuple[str, ...] = ("even", "odd")

    def examples(self, split: str) -> tf.data.Dataset:
        """Returns the images in order."""
        numbers = np.arange(0 if split == "empty" else NUM_IMAGES)
        images = np.broadcast_to(numbers.reshape(-1, 1, 1, 1), [len(numbers), *self.size])
        return tf.data.Dataset.from_tensor_slices(
            (images.astype(np.uint8), (numbers % 2).astype(np.int32))
        )


DATA = ImageData(Numbered(), shuffle_buffer=NUM_IMAGES)


def _numbers(seed: int, batches: int) -> list[int]:
    numbers: list[int] = []
    for batch in itertools.islice(DATA.train(BATCH, seed=seed).as_numpy_iterator(), batches):
        assert batch["images"].dtype == np.uint8
        assert batch["images"].shape == (BATCH, 2, 3, 1)
        np.testing.assert_array_equal(batch["labels"], batch["images"][:, 0, 0, 0] % 2)
        np.testing.assert_array_equal(batch["weights"], np.ones([BATCH], np.int32))
        numbers.extend(batch["images"][:, 0, 0, 0].tolist())
    return numbers


def test_an_epoch_has_every_image_once_and_another_order_than_the_one_before() -> None:
    numbers = _numbers(seed=0, batches=5)
    first, second = numbers[:NUM_IMAGES], numbers[NUM_IMAGES:]
    assert sorted(first) == sorted(second) == list(range(NUM_IMAGES))
    assert first != second


def test_the_seed_fixes_the_order_and_another_seed_gives_another() -> None:
    assert _numbers(seed=3, batches=4) == _numbers(seed=3, batches=4)
    assert _numbers(seed=3, batches=4) != _numbers(seed=4, batches=4)


@pytest.mark.parametrize("taken", [1, 2, 3, 5])
def test_a_restored_iterator_continues_with_the_same_batches(
    taken: int, tmp_path: pathlib.Path
) -> None:
    iterator = iter(DATA.train(BATCH, seed=1))
    for _ in range(taken):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "iterator"))
    expected = [next(iterator)["images"].numpy() for _ in range(6)]
    restored = iter(DATA.train(BATCH, seed=1))
    tf.train.Checkpoint(iterator=restored).restore(path).assert_consumed()
    np.testing.assert_array_equal([next(restored)["images"].numpy() for _ in range(6)], expected)


def test_evaluation_has_every_image_once_and_fills_up_the_last_batch() -> None:
    batches = list(DATA.evaluation(BATCH, split="test").as_numpy_iterator())
    numbers = np.concatenate([batch["images"][:, 0, 0, 0] for batch in batches])
    weights = np.concatenate([batch["weights"] for batch in batches])
    assert numbers.tolist() == [*range(NUM_IMAGES), 0, 0]
    assert weights.tolist() == [1] * NUM_IMAGES + [0, 0]


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_an_infeed_leaves_pixels_as_bytes(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data")
    infeed = Infeed(iter(DATA.evaluation(BATCH, split="test")), mesh, DATA.shapes(BATCH))
    features = infeed.next(2, capacity=3)
    assert features is not None
    assert features["images"].dtype == tf.uint8
    images = mtf.to_numpy(features["images"])
    assert images.shape == (3, BATCH, 2, 3, 1)
    assert images[:, :, 0, 0, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 0, 0, 0]]
    assert mtf.to_numpy(features["weights"]).tolist() == [[1] * BATCH, [1] * BATCH, [0] * BATCH]


def test_a_split_without_images_is_an_error() -> None:
    with pytest.raises(DataError, match=r'split "empty" of .* holds no images'):
        DATA.train(BATCH, seed=0, split="empty")
    with pytest.raises(DataError, match="batch must be at least 1, not 0"):
        DATA.evaluation(0)
    with pytest.raises(DataError, match="shuffle_buffer must be at least 1"):
        ImageData(Numbered(), shuffle_buffer=0)
