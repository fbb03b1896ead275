"""The predictions of a teacher for all training rows, stored for students that learn without it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtfrun import mtf
from mtfrun.data.rows.batches import Batch
from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE, Range, check_range
from mtfrun.experiment.experiment import Experiment
from mtfrun.extras.distillation.distillation import TeacherCheckpoint, require_tokens
from mtfrun.extras.distillation.stored_logits import PARTS_OF_1, store_logits
from mtfrun.models.transformer import TokenModel

_MOST_UINT16 = 1 << 16


def store_teacher_logits(
    experiment: Experiment,
    teacher: TeacherCheckpoint,
    path: str,
    *,
    top_k: int,
    temperature: float,
    batch: int,
) -> int:
    """Writes the likeliest ids of all training rows, see `StoredLogits`; returns their number.

    The probabilities are the softmax of the logits divided by the temperature. `teacher` is the
    restored checkpoint.
    """
    model = require_tokens(experiment, "data logits")
    check_range("--top_k", top_k, Range(1, model.num_classes, whole=True))
    check_range("--temperature", temperature, POSITIVE)
    experiment.check_batch(batch)
    if len(experiment.feature_shapes(batch)) != len(experiment.data.shapes(batch)):
        raise InputError("the run's training reads stored logits itself")
    predict = _predictions(model, experiment, top_k, temperature, batch)
    about = {"temperature": temperature, **teacher.metadata()}
    return store_logits(path, experiment.data, predict, batch=batch, about=about)


def _predictions(
    model: TokenModel, experiment: Experiment, top_k: int, temperature: float, batch: int
) -> Callable[[Batch], tuple[np.ndarray, np.ndarray]]:
    mesh, shapes = experiment.mesh, experiment.data.shapes(batch)
    dtype = np.uint16 if model.num_classes <= _MOST_UINT16 else np.int32

    @mtf.function
    def likeliest(features: dict[str, mtf.Tensor]) -> tuple[mtf.Tensor, mtf.Tensor]:
        logits = model.logits(features) * (1.0 / temperature)
        values, ids = mtf.top_k(logits, model.vocab, mtf.Dimension("top_k", top_k))
        return ids, mtf.exp(values - mtf.reduce_logsumexp(logits, model.vocab))

    def predict(rows: Batch) -> tuple[np.ndarray, np.ndarray]:
        features = {
            name: mtf.import_tf_tensor(mesh, np.asarray(x), shapes[name])
            for name, x in rows.items()
        }
        ids, probabilities = mtf.to_numpy(likeliest(features))
        return ids.astype(dtype), np.floor(probabilities * PARTS_OF_1).astype(np.uint16)

    return predict
