"""Vectors of texts are the means of a model's last vectors, whatever texts are beside them."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.experiment import Decoding, Experiment
from mtfrun.extras.serving.text_vectors import TextVectors
from mtfrun.models import transformer as t
from tests.extras.serving.tiny_models import language_model
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close

TEXTS = [b"one", b"two three", b"a text of more than sixteen bytes"]


def _vectors(directory: pathlib.Path, mesh_shape: str) -> tuple[Experiment, TextVectors, Decoding]:
    experiment = language_model(directory, mesh_shape=mesh_shape)
    decoding = experiment.inference
    assert isinstance(decoding, Decoding)
    return experiment, TextVectors(experiment, 2, decoding.prompt_format), decoding


@pytest.mark.slow
def test_a_vector_is_the_mean_over_the_tokens_of_its_text_in_any_layout(
    tmp_path: pathlib.Path, mesh_shape: str
) -> None:
    _, vectors, decoding = _vectors(tmp_path, mesh_shape)
    actual = vectors([decoding.prompt_format.row(text) for text in TEXTS])
    experiment, _, decoding = _vectors(tmp_path, ONE_DEVICE)
    rows = [decoding.prompt_format.row(text) for text in TEXTS]
    assert isinstance(experiment.model, t.DecoderOnly)
    for row, vector in zip(rows, actual, strict=True):
        ids = mtf.import_tf_tensor(
            experiment.mesh, row.ids[None], [("batch", 1), ("length", len(row.ids))]
        )
        mean = mtf.to_numpy(experiment.model.vectors(ids))[0].mean(axis=0)
        assert_close(vector, mean / np.linalg.norm(mean), FLOAT32_MODEL_TOLERANCE)
