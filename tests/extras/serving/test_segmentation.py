"""The server returns the masks of images that `mtfrun decode` writes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mtfrun.extras.serving.app import make_app
from mtfrun.extras.serving.generation import Limits
from mtfrun.extras.serving.served_model import ServedModel
from mtfrun.extras.vision import DrawnShapes, Segmentation
from tests.extras.vision.small_unet import segmentation_of

SOURCE = DrawnShapes(sizes=(8, 16), num_train=3, num_evaluated=1)


@pytest.fixture(scope="module")
def segmentation() -> Segmentation:
    return segmentation_of(SOURCE)


@pytest.fixture(scope="module")
def client(segmentation: Segmentation) -> Iterator[TestClient]:
    model = ServedModel(segmentation.experiment, "tiny", 7, places=[3])
    app = make_app(model, Limits(tokens=40, seconds=300), token=None)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client


def _file(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_masks_are_those_of_decode(client: TestClient, segmentation: Segmentation) -> None:
    images = [SOURCE.example("train", i).image for i in range(3)]
    response = client.post("/segment", json={"images": list(map(_file, images))})
    assert response.status_code == 200, response.text
    for prediction, mask in zip(response.json()["predictions"], segmentation(images), strict=True):
        with Image.open(io.BytesIO(base64.b64decode(prediction["mask"]))) as decoded:
            assert np.array_equal(np.asarray(decoded), mask)
        assert list(prediction["pixels"]) == list(SOURCE.class_names)
        assert (
            list(prediction["pixels"].values()) == np.bincount(mask.ravel(), minlength=4).tolist()
        )


@pytest.mark.parametrize(
    ("path", "request_fields", "message"),
    [
        ("/segment", {"images": ["*"]}, "an image is not base64"),
        ("/segment", {"images": [base64.b64encode(b"text").decode()]}, "image 0"),
        ("/segment", {"top_k": 2, "images": ["YQ=="]}, "top_k"),
        ("/classify", {"images": [base64.b64encode(b"text").decode()]}, "Classification"),
    ],
)
def test_bad_requests_are_refused(
    client: TestClient, path: str, request_fields: dict[str, object], message: str
) -> None:
    response = client.post(path, json=request_fields)
    assert 400 <= response.status_code < 500
    assert message in response.json()["error"]["message"]
