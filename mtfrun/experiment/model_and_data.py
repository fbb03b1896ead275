"""Checks that data has the features that a model reads; training might succeed without them."""

from __future__ import annotations

from collections.abc import Collection

from mtfrun.data import Data
from mtfrun.errors import InputError
from mtfrun.models import Model


def check_features(model: type[Model], data: Data) -> None:
    """Raises InputError unless the data has the features that a class of models reads."""
    features = data.features
    missing = [name for name in model.required_features if name not in features]
    read = {*model.required_features, *(model.optional_features or ())}
    surplus = [name for name in features if name not in read]
    if missing:
        what = f"reads {_quoted(missing)}"
    elif surplus and model.optional_features is not None:
        what = f"reads {_quoted(model.required_features)} and not {_quoted(surplus)}"
    else:
        return
    remedy = "choose Experiment.data that has these features, or another Experiment.model"
    if data.remedy and not read.isdisjoint(features):
        remedy = data.remedy
    raise InputError(
        f"{model.__name__} {what}, and {type(data).__name__} makes {_quoted(features)}: {remedy}"
    )


def check_rows(model: Model, data: Data) -> None:
    """Raises InputError if a model reads rows of pairs, or of a padding, that the data lacks."""
    for name, vocabulary in data.vocabularies.items():
        if vocabulary.pad_id != model.padding_id:
            raise InputError(
                f"{vocabulary!r} pads rows of {name} with {vocabulary.pad_id}, and "
                f"{type(model).__name__} takes {model.padding_id} for padding: set "
                f"TokenEmbedding.padding_id={vocabulary.pad_id}, or choose another vocabulary"
            )
    if model.reads_pairs and not data.has_rows_of_pairs:
        setting = f" ({model.pairs_needed_by})" if model.pairs_needed_by else ""
        remedy = "change these, or " if setting else ""
        raise InputError(
            f"{type(model).__name__} reads pairs of texts{setting}, which {type(data).__name__} "
            f"does not make: {remedy}use pairs and --gin_file=data/delimited_pairs.gin behind the "
            "file of the pairs"
        )


def _quoted(names: Collection[str]) -> str:
    """Returns the names in the form '"a", "b"'."""
    return ", ".join(f'"{name}"' for name in names)
