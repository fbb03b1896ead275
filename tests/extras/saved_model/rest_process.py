"""A process that answers requests in the form of TensorFlow Serving's REST interface.

It is run as a program, with the directory of a SavedModel and modules to import before. It has no
mtfrun: importing that fails here. Standard input has one request a line, standard output gets one
response a line. The form is that of https://www.tensorflow.org/tfx/serving/api_rest, "Predict API".
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
from typing import Any

import numpy as np
import tensorflow as tf


def answer(model: Any, request: dict[str, Any]) -> dict[str, Any]:
    signature = model.signatures[request.get("signature_name", "serving_default")]
    specs = {spec.name: spec for spec in signature.structured_input_signature[1].values()}
    by_row = "instances" in request
    given = request["instances" if by_row else "inputs"]
    columns = _columns(given, list(specs), by_row=by_row)
    inputs = {
        name: tf.constant(_decoded(columns[name]), spec.dtype) for name, spec in specs.items()
    }
    outputs = {name: x.numpy() for name, x in signature(**inputs).items()}
    values = {name: _encoded(x) for name, x in outputs.items()}
    alone = next(iter(values)) if len(values) == 1 else None
    if not by_row:
        return {"outputs": values[alone] if alone else values}
    number = len(given)
    if any(len(x) != number for x in outputs.values()):
        return {"error": "an output has another number of rows than the request"}
    if alone:
        return {"predictions": values[alone]}
    return {"predictions": [{name: x[i] for name, x in values.items()} for i in range(number)]}


def _columns(given: Any, names: list[str], *, by_row: bool) -> dict[str, Any]:
    if by_row and all(isinstance(row, dict) and row.keys() == set(names) for row in given):
        return {name: [row[name] for row in given] for name in names}
    if not by_row and isinstance(given, dict) and given.keys() == set(names):
        return given
    (name,) = names
    return {name: given}


def _decoded(value: Any) -> Any:
    """Returns a value of JSON, with bytes for texts and for {"b64": ...}."""
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    if isinstance(value, list):
        return [_decoded(x) for x in value]
    return value.encode() if isinstance(value, str) else value


def _encoded(array: np.ndarray) -> Any:
    """Returns an output as JSON; texts are UTF-8."""
    if array.dtype == object:
        texts = [x.decode() for x in array.ravel()]
        return np.array(texts, object).reshape(array.shape).tolist()
    # Every number of float32 is one of float64.
    return array.astype(np.float64).tolist() if array.dtype == np.float32 else array.tolist()


def main() -> None:
    sys.modules["mtfrun"] = None  # type: ignore[assignment]
    directory, *modules = sys.argv[1:]
    for module in modules:
        importlib.import_module(module)
    model = tf.saved_model.load(directory)
    for line in sys.stdin:
        try:
            response = answer(model, json.loads(line))
        except (tf.errors.OpError, ValueError, KeyError, TypeError) as error:
            response = {"error": str(error)}
        print(json.dumps(response), flush=True)


if __name__ == "__main__":
    main()
