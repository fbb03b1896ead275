"""What the program of Mesh TensorFlow's transformer package binds before any file of the user.

The facts of mesh_tensorflow/transformer/gin/defaults.gin, mesh-tensorflow 0.1.21. A file that the
program wrote, operative_config.gin, has all values itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mtfrun.tools.conversion.mesh_tensorflow.old_gin import MacroName, Reference, Statement


def _reference(name: str) -> Reference:
    return Reference(name, called=False)


_ATTENTION, _FEED_FORWARD = _reference("SelfAttention"), _reference("DenseReluDense")
_TO_ENCODER = _reference("EncDecAttention")
_NORM, _CALL, _DROPOUT, _RESIDUAL = (
    _reference(f"sublayer_{name}") for name in ("rms_norm", "call_layer", "dropout", "residual")
)
_LAYOUT = "ensemble:ensemble,batch:batch,d_ff:model,heads:model,vocab:model,experts:batch"

_VALUES: dict[str, Any] = {
    "num_layers": 6,
    "d_model": 1024,
    "d_ff": 4096,
    "num_heads": 8,
    "d_kv": 128,
    "dropout_rate": 0.1,
    "make_layer_stack.layers": [_ATTENTION, _FEED_FORWARD],
    "encoder/make_layer_stack.layers": [_ATTENTION, _FEED_FORWARD],
    "decoder/make_layer_stack.layers": [_ATTENTION, _TO_ENCODER, _FEED_FORWARD],
    "make_layer_stack.num_layers": MacroName("num_layers"),
    "LayerStack.sublayers_initial": [_DROPOUT],
    "LayerStack.sublayers_per_layer": [_NORM, _CALL, _DROPOUT, _RESIDUAL],
    "LayerStack.sublayers_final": [_NORM, _DROPOUT],
    "LayerStack.dropout_rate": None,
    "LayerStack.norm_epsilon": None,
    "Unitransformer.shared_embedding_and_softmax_weights": True,
    "Unitransformer.d_model": MacroName("d_model"),
    "Unitransformer.max_length": 512,
    "decoder/Unitransformer.label_smoothing": 0.0,
    "DenseReluDense.hidden_size": MacroName("d_ff"),
    "DenseReluDense.dropout_rate": MacroName("dropout_rate"),
    "SelfAttention.num_heads": MacroName("num_heads"),
    "SelfAttention.key_value_size": MacroName("d_kv"),
    "SelfAttention.dropout_rate": MacroName("dropout_rate"),
    "LocalSelfAttention.dropout_rate": MacroName("dropout_rate"),
    "sublayer_dropout.dropout_rate": MacroName("dropout_rate"),
    "run.sequence_length": {"inputs": 512, "targets": 512},
    "run.optimizer": _reference("AdafactorOptimizer"),
    "run.layout_rules": _LAYOUT,
    "run.learning_rate_schedule": _reference("learning_rate_schedule_noam"),
    "run.mesh_shape": Reference("tpu_mesh_shape", called=True),
    "serialize_num_microbatches.tokens_per_microbatch_per_replica": 2048,
    "get_variable_dtype.activation_dtype": "bfloat16",
}


def program_defaults() -> Iterator[Statement]:
    """Yields the statements."""
    for name, value in _VALUES.items():
        yield Statement(name, value, "defaults.gin")
