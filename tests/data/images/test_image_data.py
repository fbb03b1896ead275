"""Batches of labelled images."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import (
    DataError,
    Host,
    ImageData,
    ImageExample,
    ImageSource,
    Infeed,
    RandomResizedCrop,
)
from mtfrun.errors import InputError
from tests.layouts import ONE_DEVICE

NUM_IMAGES = 10
BATCH = 4


class Numbered(ImageSource):
    """Images whose pixels equal their index; the split "empty" has none."""

    size = (2, 3, 1)
    label_names = ("even", "odd")
    splits = ("train", "test", "empty")

    def examples(self, split: str) -> Iterator[ImageExample]:
        self.check_split(split)
        for number in range(0 if split == "empty" else NUM_IMAGES):
            yield ImageExample(bytes([number] * 6), number % 2)

    def fingerprint(self, split: str) -> object:
        return split


class Noise:
    """An augmentation that replaces the image by noise."""

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return generator.integers(0, 256, image.shape).astype(np.uint8)

    def __repr__(self) -> str:
        return "Noise()"


DATA = ImageData(Numbered())
NOISY = ImageData(Numbered(), crop=RandomResizedCrop(), augmentations=[Noise()])


def _stream(data: ImageData, position: int, count: int, batch: int, hosts: int = 1) -> bytes:
    parts = np.split(np.arange(batch), hosts)
    shares = [data.train(batch, seed=1, host=Host(part.tolist())) for part in parts]
    images = []
    for share in shares:
        share.position = position
    for _ in range(count // batch):
        images += [next(share)["images"] for share in shares]
    return np.concatenate(images).tobytes()


@pytest.mark.parametrize("data", [DATA, NOISY], ids=["stored", "augmented"])
@pytest.mark.parametrize("position", [0, 4, 8, 12])
def test_a_run_continues_at_a_position_with_any_batch_size_and_number_of_hosts(
    data: ImageData, position: int
) -> None:
    batches = data.train(BATCH, seed=1)
    while batches.position < position:
        next(batches)
    expected = np.concatenate([next(batches)["images"] for _ in range(8)]).tobytes()
    for batch, hosts in ((4, 1), (8, 1), (8, 2), (4, 4)):
        assert _stream(data, position, 8 * BATCH, batch, hosts) == expected


def test_noise_is_another_one_for_every_image_and_epoch() -> None:
    images = list(itertools.islice(NOISY.train(NUM_IMAGES, seed=0), 2))
    noise = [image.tobytes() for batch in images for image in batch["images"]]
    assert len(set(noise)) == 2 * NUM_IMAGES
    other = next(NOISY.train(NUM_IMAGES, seed=1))["images"]
    assert not {image.tobytes() for image in other} & set(noise)


def test_evaluation_has_every_image_once_and_fills_up_the_last_batch() -> None:
    batches = list(NOISY.evaluation(BATCH, split="test"))
    numbers = np.concatenate([batch["images"][:, 0, 0, 0] for batch in batches])
    weights = np.concatenate([batch["weights"] for batch in batches])
    assert numbers.tolist() == [*range(NUM_IMAGES), 0, 0]
    assert weights.tolist() == [1] * NUM_IMAGES + [0, 0]
    images = list(NOISY.images("test"))
    assert [int(image[0, 0, 0]) for image, _ in images] == list(range(NUM_IMAGES))
    assert [label for _, label in images] == [i % 2 for i in range(NUM_IMAGES)]


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_an_infeed_leaves_pixels_as_bytes(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data")
    infeed = Infeed(DATA.evaluation(BATCH, split="test"), mesh, DATA.shapes(BATCH))
    features = infeed.next(2, capacity=3)
    assert features is not None
    assert features["images"].dtype == tf.uint8
    images = mtf.to_numpy(features["images"])
    assert images.shape == (3, BATCH, 2, 3, 1)
    assert images[:, :, 0, 0, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 0, 0, 0]]
    assert mtf.to_numpy(features["weights"]).tolist() == [[1] * BATCH, [1] * BATCH, [0] * BATCH]


def test_a_split_without_images_is_an_error() -> None:
    with pytest.raises(DataError, match=r'split "empty" of .* holds no images'):
        DATA.evaluation(BATCH, split="empty")
    with pytest.raises(InputError, match=r"batch is 0: it must be"):
        DATA.evaluation(0)
    with pytest.raises(DataError, match=r'no split "tset"; it has train.*did you mean .test'):
        DATA.evaluation(BATCH, split="tset")


def test_settings_that_do_not_fit_are_errors() -> None:
    with pytest.raises(DataError, match="resize=7 needs an image_size"):
        ImageData(Numbered(), resize=7)
    with pytest.raises(InputError, match=r"ImageData.resize is 7: it must be an integer of at l"):
        ImageData(Numbered(), image_size=8, resize=7)


def test_images_of_one_size_can_be_scaled() -> None:
    data = ImageData(Numbered(), image_size=4)
    assert data.image.to_string == "rows:4;cols:4;channels:1"
    (batch,) = data.evaluation(NUM_IMAGES, split="test")
    assert batch["images"].shape == (NUM_IMAGES, 4, 4, 1)
    assert batch["images"].max((1, 2, 3)).tolist() == list(range(NUM_IMAGES))


def test_the_fingerprint_names_what_determines_the_rows() -> None:
    assert json.loads(json.dumps(DATA.fingerprint())) == DATA.fingerprint()
    assert len(json.dumps(DATA.fingerprint())) < 1000
    assert DATA.fingerprint() != NOISY.fingerprint()
    assert NOISY.fingerprint()["augmentations"] == ["Noise()"]
    assert DATA.fingerprint() != ImageData(Numbered(), image_size=4).fingerprint()
    # The size of images in evaluation does not matter to training.
    cropped = [ImageData(Numbered(), 4, r, RandomResizedCrop()).fingerprint() for r in (4, 5)]
    assert cropped[0] == cropped[1]
