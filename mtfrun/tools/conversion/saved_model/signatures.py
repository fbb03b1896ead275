"""What a SavedModel can be asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun.data import Vocabulary
from mtfrun.experiment import Inference
from mtfrun.tools.conversion.errors import ConversionError


class Signature(NamedTuple):
    """A function of tensors that have a batch as their first dimension.

    Attributes:
      inputs: of its arguments, in their order; their names are those of the requests.
      function: returns tensors by name.
      about: one line for people.
    """

    inputs: Sequence[tf.TensorSpec]
    function: Callable[..., Mapping[str, tf.Tensor]]
    about: str


class Served(NamedTuple):
    """All that is written of an inference.

    Attributes:
      signatures: by name.
      default: the name of the one that requests without a name mean.
      settings: further facts for people and clients, as JSON.
      vocabularies: whose files are among the assets.
      converters: what the signatures use besides the model's variables.
    """

    signatures: Mapping[str, Signature]
    default: str
    settings: Mapping[str, Any]
    vocabularies: Sequence[Vocabulary] = ()
    converters: Sequence[tf.Module] = ()


@functools.singledispatch
def served(inference: Inference, *, tensorflow_text: bool = False) -> Served:
    """Returns what a SavedModel of an inference offers.

    Args:
      inference: on one device, restored.
      tensorflow_text: whether programs that load it have imported tensorflow_text, whose
        operations then convert texts.

    Raises:
      ConversionError: there is nothing to offer.
    """
    del tensorflow_text
    raise ConversionError(
        f"--format=saved_model: {type(inference).__name__} has no signatures: set "
        "Experiment.inference to @experiment.Decoding or @experiment.Classification"
    )
