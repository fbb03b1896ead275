"""Vectors of texts are the means of a model's last vectors, whatever texts are beside them."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import pytest

from mtfrun import data, mtf
from mtfrun.experiment import Decoding, Experiment
from mtfrun.extras.serving.text_vectors import TextVectors
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close

TEXTS = [b"one", b"two three", b"a text of more than sixteen bytes"]


def _vectors(directory: pathlib.Path, mesh_shape: str) -> tuple[Experiment, TextVectors, Decoding]:
    (directory / "text").write_text("some text\n")
    task = data.Task(data.TextFiles(str(directory / "text")), data.ByteVocabulary())
    heads = t.AttentionHeads(num_heads=4, d_kv=4)
    experiment = Experiment(
        mtf.Mesh(mesh_shape, "batch:data;heads:model;d_ff:model"),
        functools.partial(
            t.DecoderOnly,
            embedding=t.TokenEmbedding(16, max_length=64),
            stack=functools.partial(
                t.Stack,
                num_layers=1,
                layers=[functools.partial(t.SelfAttention, heads=heads), t.FeedForward],
            ),
        ),
        data.LanguageModelData(task, length=64),
    )
    mtf.initialize(experiment.model, seed=3)
    decoding = Decoding(experiment, batch_size=2, max_length=64)
    return experiment, TextVectors(experiment, 2, decoding.prompt_format), decoding


@pytest.mark.slow
def test_a_vector_is_the_mean_over_the_tokens_of_its_text(tmp_path: pathlib.Path) -> None:
    experiment, vectors, decoding = _vectors(tmp_path, ONE_DEVICE)
    rows = [decoding.prompt_format.row(text) for text in TEXTS]
    actual = vectors(rows)
    assert isinstance(experiment.model, t.DecoderOnly)
    for row, vector in zip(rows, actual, strict=True):
        ids = mtf.import_tf_tensor(
            experiment.mesh, row.ids[None], [("batch", 1), ("length", len(row.ids))]
        )
        mean = mtf.to_numpy(experiment.model.vectors(ids))[0].mean(axis=0)
        assert_close(vector, mean / np.linalg.norm(mean), FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_a_layout_changes_nothing(tmp_path: pathlib.Path, mesh_shape: str) -> None:
    results = []
    for shape in (ONE_DEVICE, mesh_shape):
        _, vectors, decoding = _vectors(tmp_path, shape)
        results.append(vectors([decoding.prompt_format.row(text) for text in TEXTS]))
    assert_close(results[1], results[0], FLOAT32_MODEL_TOLERANCE)
