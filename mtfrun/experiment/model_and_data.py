"""Which data a model is made for. With other data it might train all the same, to no use."""

from __future__ import annotations

from collections.abc import Callable

from mtfrun.data import DelimitedPairsData, ImageData, LanguageModelData, PairsData
from mtfrun.errors import InputError
from mtfrun.models import Model
from mtfrun.models.resnet import ImageClassifier
from mtfrun.models.transformer import DecoderOnly, EncoderDecoder, EncoderOnly, TokenModel

_DELIMIT = "--gin_file=data/delimited_pairs.gin behind the file of the pairs"


def check_kind(
    model: Callable[..., Model], data: LanguageModelData | PairsData | ImageData
) -> None:
    """Raises InputError if a class of models for text is to have images, or the other way round."""
    if not isinstance(model, type):
        return
    of_text = not isinstance(data, ImageData)
    if issubclass(model, ImageClassifier if of_text else TokenModel):
        reads, given = ("images", "text") if of_text else ("text", "images")
        raise InputError(
            f"{model.__name__} reads {reads}, and {type(data).__name__} has {given}: choose "
            f"Experiment.data of {reads}, or another Experiment.model"
        )


def check_rows(model: Model, data: LanguageModelData | PairsData) -> None:
    """Raises InputError unless the data makes the rows that a model of text reads."""
    apart = isinstance(data, PairsData) and not isinstance(data, DelimitedPairsData)
    if isinstance(model, EncoderDecoder | EncoderOnly) and not apart:
        reads = "inputs and targets apart"
        remedy = "set Experiment.data = @data.SequenceToSequenceData()"
    elif isinstance(model, DecoderOnly) and apart:
        reads, remedy = "inputs and targets in one row", f"add {_DELIMIT}"
    elif (
        isinstance(model, DecoderOnly) and model.reads_pairs and isinstance(data, LanguageModelData)
    ):
        reads = "pairs of texts (prefix=True or loss_on_targets_only=True)"
        remedy = f"set both to False, or use pairs and {_DELIMIT}"
    else:
        return
    raise InputError(
        f"{type(model).__name__} reads {reads}, which {type(data).__name__} does not make: {remedy}"
    )
