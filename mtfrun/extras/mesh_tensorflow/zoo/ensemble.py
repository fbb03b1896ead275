"""Ensembles: models of one class, trained side by side, that predict together."""

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
    """Returns a model in which all variables and activations have a dimension "ensemble" first.

    Members have different initial values and dropout. Each is trained on the same batches with its
    single model's gradient; training metrics are means over the members. Evaluation and decoding
    average the members. The layout rule "ensemble:AXIS" puts members on different devices, which
    exchange only logits; AXIS must not split the batch as well.

    As in Mesh TensorFlow 0.1.21; Hansen and Salamon 1990, doi:10.1109/34.58871.

    Args:
      model: the members' class, called as `model(mesh, **arguments)`.
      size: the number of members.
      average: "probabilities", or "logits" for the geometric mean of probabilities.
      arguments: the data's arguments, such as `vocabulary_size`.

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
            f"an ensemble cannot have layers with losses or metrics, such as {names[0]}: "
            "leave out mixtures of experts and halting"
        )
    ensemble.softmax.average = average
    return ensemble
