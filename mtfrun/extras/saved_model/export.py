from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun.data import Vocabulary
from mtfrun.experiment import Experiment, Inference
from mtfrun.experiment.conversion.importer import ConversionError

DEFAULT = "serving_default"
"""The name of the signature of requests that name none."""

FACTS = "assets.extra/mtfrun.json"
"""What a SavedModel offers, for people and clients; TensorFlow does not read it."""


class Signature(NamedTuple):
    """`inputs` have the names of requests and a batch as first dimension; `about` is one line."""

    inputs: Sequence[tf.TensorSpec]
    function: Callable[..., Mapping[str, tf.Tensor]]
    about: str


class Served(NamedTuple):
    """Requests that name no signature get `default`; `settings` are JSON for people and clients.

    The files of `vocabularies` become assets; signatures use `converters` besides the model.
    """

    signatures: Mapping[str, Signature]
    default: str
    settings: Mapping[str, Any]
    vocabularies: Sequence[Vocabulary] = ()
    converters: Sequence[tf.Module] = ()


@functools.singledispatch
def signatures_of(inference: Inference, *, tensorflow_text: bool = False) -> Served:
    """The inference is on one device. `tensorflow_text`: loading programs import that package."""
    del tensorflow_text
    raise ConversionError(
        f"--format=saved_model: {type(inference).__name__} has no signatures: set "
        "Experiment.inference to @experiment.Decoding or @experiment.Classification"
    )


def export_saved_model(
    directory: pathlib.Path, experiment: Experiment, step: int, offered: Served
) -> None:
    """Writes variables by path, of a model on one device; ConversionError if it is too large."""
    root = tf.Module()
    root.variables_by_path = {
        path: variable.variable for path, variable in experiment.model.named_variables().items()
    }
    root.converters = list(offered.converters)
    files = {file: None for vocabulary in offered.vocabularies for file in vocabulary.files}
    root.assets = [
        tf.saved_model.Asset(str(pathlib.Path(os.path.expanduser(file)))) for file in files
    ]
    trace = functools.cache(_trace)  # signatures may share a function
    functions = {name: trace(x.function, *x.inputs) for name, x in offered.signatures.items()}
    functions[DEFAULT] = functions[offered.default]
    # Gradients are not needed, and functions for them would double the graph.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    try:
        tf.saved_model.save(root, str(directory), signatures=functions, options=options)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        if "2GB" not in str(error) and "too large" not in str(error).lower():
            raise
        raise ConversionError(
            "--format=saved_model: the graph exceeds the 2 GB of TensorFlow's file format: allow "
            "shorter prompts and outputs, or set Stack.scan_blocks"
        ) from error
    facts = {
        "step": step,
        "signatures": {name: x.about for name, x in offered.signatures.items()},
        DEFAULT: offered.default,
        **offered.settings,
    }
    path = directory / FACTS
    path.parent.mkdir()
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _trace(
    function: Callable[..., Any], *inputs: tf.TensorSpec
) -> tf.types.experimental.ConcreteFunction:
    # `autograph` would rewrite functions that are operations of TensorFlow already.
    return tf.function(function, input_signature=inputs, autograph=False).get_concrete_function()


def in_batches(
    compute: Callable[..., Sequence[tf.Tensor]],
    size: int,
    inputs: Sequence[tf.Tensor],
    outputs: Sequence[tf.TensorSpec],
) -> list[tf.Tensor]:
    """Computes `size` rows at a time, padded with zeros; rows must not depend on each other."""
    rows = tf.shape(inputs[0])[0]
    number = -(-rows // size)

    def batches(x: tf.Tensor) -> tf.Tensor:
        padding = [[0, number * size - rows], *[[0, 0]] * (x.shape.rank - 1)]
        return tf.reshape(tf.pad(x, padding), tf.concat([[number, size], tf.shape(x)[1:]], 0))

    results = tf.map_fn(
        lambda xs: tuple(compute(*xs)),
        tuple(map(batches, inputs)),
        fn_output_signature=tuple(outputs),
        parallel_iterations=1,
    )
    return [tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0))[:rows] for x in results]
