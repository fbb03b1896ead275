"""Writing of SavedModels."""

from __future__ import annotations

import json
import os
import pathlib

import tensorflow as tf

from mtfrun.experiment import Experiment
from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.tools.conversion.saved_model.signatures import Served, Signature

DEFAULT = "serving_default"
"""The name of the signature of requests that name none."""

FACTS = "assets.extra/mtfrun.json"
"""What a SavedModel offers, for people and clients; TensorFlow does not read it."""


def export_saved_model(
    directory: pathlib.Path, experiment: Experiment, step: int, offered: Served
) -> None:
    """Writes a SavedModel into an empty directory.

    Its variables are those of the model, by path, on no device in particular. It has no Python.

    Args:
      directory: where to write.
      experiment: has the model, on one device.
      step: of its checkpoint.
      offered: the signatures.

    Raises:
      ConversionError: its graph is too large for a file.
    """
    root = tf.Module()
    root.variables_by_path = {
        path: variable.variable for path, variable in experiment.model.named_variables().items()
    }
    root.converters = list(offered.converters)
    files = {file: None for vocabulary in offered.vocabularies for file in vocabulary.files}
    root.assets = [
        tf.saved_model.Asset(str(pathlib.Path(os.path.expanduser(file)))) for file in files
    ]
    functions = {}
    # Signatures may share a function, which is traced once.
    traced: dict[int, tf.types.experimental.ConcreteFunction] = {}
    for name, signature in offered.signatures.items():
        if id(signature) not in traced:
            traced[id(signature)] = _traced(signature)
        functions[name] = traced[id(signature)]
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


def _traced(signature: Signature) -> tf.types.experimental.ConcreteFunction:
    # `autograph` would rewrite functions that are operations of TensorFlow already.
    function = tf.function(
        signature.function, input_signature=list(signature.inputs), autograph=False
    )
    return function.get_concrete_function()
