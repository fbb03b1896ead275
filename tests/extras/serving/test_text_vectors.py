"""Vectors of texts are the means of a model's last vectors, whatever texts are beside them."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.experiment import Decoding
from mtfrun.extras.serving.text_vectors import TextVectors
from tests.extras.serving.tiny_models import language_model
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close

TEXTS = [b"one", b"two three", b"a text of more than sixteen bytes"]


def _decoding(directory: pathlib.Path, mesh_shape: str) -> Decoding:
    decoding = language_model(directory, mesh_shape=mesh_shape).inference
    assert isinstance(decoding, Decoding)
    return decoding


@pytest.mark.slow
def test_a_vector_is_the_mean_over_the_tokens_of_its_text_in_any_layout(
    tmp_path: pathlib.Path, mesh_shape: str
) -> None:
    decoding = _decoding(tmp_path, mesh_shape)
    actual = TextVectors(decoding)([decoding.prompt_format.row(text) for text in TEXTS])
    decoding = _decoding(tmp_path, ONE_DEVICE)
    experiment, model = decoding.experiment, decoding.model
    rows = [decoding.prompt_format.row(text) for text in TEXTS]
    for row, vector in zip(rows, actual, strict=True):
        ids = mtf.import_tf_tensor(
            experiment.mesh, row.ids[None], [("batch", 1), ("length", len(row.ids))]
        )
        mean = mtf.to_numpy(model.vectors(ids))[0].mean(axis=0)
        assert_close(vector, mean / np.linalg.norm(mean), FLOAT32_MODEL_TOLERANCE)
