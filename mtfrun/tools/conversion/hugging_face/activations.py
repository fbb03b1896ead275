"""Activation functions by the names of transformers."""

from __future__ import annotations

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.tools.conversion.hugging_face.settings import Settings

# The tanh form of gelu has several names: transformers/activations.py.
ACTIVATIONS = {
    "relu": "mtf.relu",
    "gelu_new": "mtf.gelu",
    "gelu_pytorch_tanh": "mtf.gelu",
    "gelu_fast": "mtf.gelu",
    "gelu_accurate": "mtf.gelu",
    "gelu_python_tanh": "mtf.gelu",
    "gelu": "mtf.exact_gelu",
    "gelu_python": "mtf.exact_gelu",
    "quick_gelu": "mtf.sigmoid_gelu",
    "silu": "mtf.swish",
    "swish": "mtf.swish",
    "tanh": "mtf.tanh",
    "sigmoid": "mtf.sigmoid",
}
"""Names of our functions."""


def activation(settings: Settings, setting: str, name: str) -> Reference:
    if name not in ACTIVATIONS:
        raise settings.error(setting, f"is not supported; supported: {', '.join(ACTIVATIONS)}")
    return reference(f"@{ACTIVATIONS[name]}")


def name_of_activation(reference: object) -> str | None:
    """Returns transformers' name for "@mtf.gelu"; None where it has none."""
    names = {f"@{ours}": theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    return names.get(reference) if isinstance(reference, str) else None
