"""A classifier of images in Python."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

import mtfrun
from mtfrun.data import ImageData
from mtfrun.errors import InputError
from mtfrun.experiment.runs.run import Run
from tests.cli.command import mtfrun_here, succeeded

# Probabilities of programs for another number of images.
PROBABILITY = 1e-5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of two steps on digits, which are prepared in a temporary folder."""
    folder = tmp_path_factory.mktemp("images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder / "tfds"))
        yield mtfrun.train(
            "runs/digits.gin", folder / "run", STAGE_SIZES=[1], WIDTHS=[4], TRAIN_STEPS=2
        )


@pytest.mark.slow
def test_images_are_classified_as_by_the_command(run: Run, tmp_path: pathlib.Path) -> None:
    data = run.experiment.data
    assert isinstance(data, ImageData)
    images = [image for image, _ in data.images("test")][:3]
    predictions = run.classify(images, top_k=2)
    flags = [f"--model_dir={run.model_dir}", "--top_k=2", "--input=split:test"]
    expected = succeeded(mtfrun_here("decode", *flags))[:3]
    for prediction, line in zip(predictions, expected, strict=True):
        assert prediction.label == line["label"]
        assert len(prediction.top) == 2
        assert prediction.probability == pytest.approx(line["probability"], abs=PROBABILITY)
    # Files are brought to the size of the model's images; theirs is that size already.
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(paths[-1])
    assert run.classify(paths, top_k=2) == predictions

    logits = run.logits({"images": np.stack(images)}).astype(np.float64)
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    np.testing.assert_allclose(
        probabilities.max(axis=-1), [p.probability for p in predictions], atol=PROBABILITY
    )
    metrics = {"accuracy", "loss", "top_5_accuracy"}
    assert set(run.evaluate("test")) == metrics


@pytest.mark.slow
def test_images_of_another_kind_are_refused(run: Run) -> None:
    with pytest.raises(InputError, match=r"an image is float64 \[8, 8, 1\]: the model reads uint8"):
        run.classify([np.zeros([8, 8, 1])])
    for images in ([5], [None], [[[1]]]):
        with pytest.raises(InputError, match="an image is an array of pixels or the path"):
            run.classify(images)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="images are a list"):
        run.classify(5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="pixels are integers from 0 to 255, or finite floats"):
        run.logits({"images": np.full([1, *_sizes(run)], np.nan)})
    with pytest.raises(InputError, match=r'"images" has sizes \[1, 8, 8\], not \[batch, '):
        run.logits({"images": np.zeros([1, 8, 8], np.uint8)})
    with pytest.raises(InputError, match="pixels are integers from 0 to 255"):
        run.logits({"images": np.full([1, *_sizes(run)], 256)})
    with pytest.raises(InputError, match="decode needs Decoding, which Classification is not"):
        run.decode(["text"])


def _sizes(run: Run) -> list[int]:
    return run.experiment.data.shapes(1)["images"].to_integer_list[1:]
