"""Ensembles: several models of one kind, trained side by side, that predict together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mtfrun import layers, mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_choice, check_range
from mtfrun.models.transformer.tokens.token_model import TokenModel
from mtfrun.models.transformer.tokens.token_softmax import LOGITS, PROBABILITIES, TokenSoftmax


def make_ensemble(
    mesh: mtf.Mesh,
    *,
    model: Callable[..., TokenModel],
    size: int = 2,
    average: str = PROBABILITIES,
    **arguments: Any,
) -> TokenModel:
    """Returns a model with a first dimension "ensemble" of all variables, and of all vectors.

    Its members begin with different values and have different dropout. They are trained on the same
    batches, each with the gradient of a single model; the training's metrics are means over the
    members. Evaluation, logits and decoding are of all together. With a layout rule
    "ensemble:AXIS" the devices along this axis, which must not split the batch too, have different
    members, and exchange their logits only.

    As the ensembles of Mesh TensorFlow 0.1.21; Hansen and Salamon 1990, doi:10.1109/34.58871.

    Args:
      model: a class, called as `model(mesh, **arguments)`.
      size: the number of members.
      average: "probabilities", or "logits": the geometric mean of probabilities.
      arguments: arguments from the data, such as `vocabulary_size`.

    Raises:
      InputError: a layer or the softmax of the model cannot have members.
    """
    check_range("make_ensemble.size", size, COUNT)
    check_choice("make_ensemble.average", average, (PROBABILITIES, LOGITS))
    with mtf.stack_variables(mtf.Dimension("ensemble", size)):
        ensemble = model(mesh, **arguments)
    if type(ensemble.softmax) is not TokenSoftmax:
        raise InputError(
            f"an ensemble of models with {type(ensemble.softmax).__name__} is not supported: leave "
            "out TokenEmbedding.softmax"
        )
    mtf.assign_paths(ensemble)
    names = [*layers.metric_shapes(ensemble), *layers.updated_paths(ensemble)]
    if names:
        raise InputError(
            f"an ensemble of models whose layers have losses or metrics, such as {names[0]}, is not"
            " supported: mixtures of experts and halting are for single models"
        )
    ensemble.softmax.average = average
    return ensemble
