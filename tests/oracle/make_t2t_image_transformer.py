"""Makes t2t_image_transformer.npz and .json: small images by Tensor2Tensor's mtf_image_transformer.

Run it as make_transformer_layers.py, with the path of the original's file as the argument:
tensor2tensor/models/mtf_image_transformer.py of `pip download tensor2tensor==1.15.7 --no-deps`.
What it imports of Tensor2Tensor is replaced here, and so are functions of Mesh TensorFlow that had
no `is_training` when it was written.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import sys
import types
from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf

FOLDER = pathlib.Path(__file__).parent
HPARAMS: dict[str, Any] = {
    **{
        "batch_size": 2,
        "img_len": 4,
        "num_channels": 3,
        "hidden_size": 8,
        "num_heads": 2,
        "d_kv": 4,
    },
    **{"d_ff": 12, "num_decoder_layers": 2, "attention_type": "local1d", "block_length": 16},
    **{"unconditional": True, "layer_prepostprocess_dropout": 0.0, "dropout": 0.0},
    **{"activation_dtype": "float32", "vocab_divisor": 1, "layout": "", "mesh_shape": ""},
}
# A window and blocks of one size, as in the published sets, so that steps see the same.
CASES = {
    "colour": HPARAMS,
    "spatial": {**HPARAMS, "attention_type": "local1d_spatial", "block_length": 12},
    "grey": {**HPARAMS, "img_len": 16, "num_channels": 1, "block_length": 128},
}


def _original(path: str) -> Any:
    """Returns the original's module."""

    class MtfModel:
        has_input = False

        def __init__(self, hparams: Any) -> None:
            self._hparams = hparams
            self._problem_hparams = types.SimpleNamespace(vocab_size={"targets": 256})

    def shift_right_2d(x: Any) -> Any:
        return tf.pad(x, [[0, 0], [1, 0]])[:, :-1]

    parts: dict[str, dict[str, Any]] = {
        "layers.common_hparams": {},
        "layers.common_layers": {"shift_right_2d": shift_right_2d},
        "utils.mtf_model": {"MtfModel": MtfModel},
        "utils.registry": {"register_model": lambda x: x, "register_hparams": lambda x: x},
    }
    for name in ("", ".layers", ".utils"):
        sys.modules[f"tensor2tensor{name}"] = types.ModuleType(f"tensor2tensor{name}")
    for name, values in parts.items():
        package, _, last = name.partition(".")
        module = types.ModuleType(f"tensor2tensor.{name}")
        vars(module).update(values)
        sys.modules[f"tensor2tensor.{name}"] = module
        setattr(sys.modules[f"tensor2tensor.{package}"], last, module)
    dense, attention = mtf.layers.dense_relu_dense, mtf.layers.masked_local_attention_1d
    mtf.dropout = lambda x, keep_prob, noise_shape: x
    mtf.layers.dense_relu_dense = lambda x, d_ff, dropout, dropout_broadcast_dims: dense(
        x, d_ff, False
    )
    mtf.layers.masked_local_attention_1d = lambda x, d_kv, heads, **settings: attention(
        x, d_kv, heads, False, **settings
    )
    spatial = mtf.layers.local_self_attention_spatial_blocks
    mtf.layers.local_self_attention_spatial_blocks = lambda x, d_kv, heads, **settings: spatial(
        x, d_kv, heads, False, **settings
    )
    spec = importlib.util.spec_from_file_location("mtf_image_transformer", path)
    assert spec is not None and spec.loader is not None
    original = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(original)
    return original


def run_case(original: Any, name: str, hparams: dict[str, Any]) -> tuple[Any, Any]:
    """Returns the arrays of a case and the names of their dimensions."""
    rng = np.random.default_rng(len(name))
    size, channels = hparams["img_len"], hparams["num_channels"]
    pixels = rng.integers(0, 256, [hparams["batch_size"], size, size, channels]).astype(np.int32)
    with tf.Graph().as_default():
        tf.set_random_seed(1)
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        model = original.MtfImageTransformer(types.SimpleNamespace(**hparams))
        logits, loss = model.mtf_model_fn({"targets": tf.constant(pixels)}, mesh)
        variables = list(graph.trainable_variables)
        gradients = mtf.gradients([loss], [v.outputs[0] for v in variables])
        results = {"out/logits": logits, "out/loss": loss}
        results |= {f"grad/{v.name}": g for v, g in zip(variables, gradients, strict=True)}
        lowering = mtf.Lowering(
            graph, {mesh: mtf.placement_mesh_impl.PlacementMeshImpl("all:1", "", [""])}
        )
        fetches = {key: lowering.export_to_tf_tensor(x) for key, x in results.items()}
        masters = {v.name.split(":")[0]: v for v in tf.global_variables()}
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            initial = session.run({v.name: masters[v.name] for v in variables})
            weights = {
                key: value + 0.25 * rng.normal(size=value.shape).astype(np.float32)
                for key, value in initial.items()
            }
            for key, value in weights.items():
                masters[key].load(value, session)
            session.run(lowering.copy_masters_to_slices())
            arrays = session.run(fetches)
    arrays |= {"in/targets": pixels, **{f"w/{key}": value for key, value in weights.items()}}
    dims = {key: [d.name for d in x.shape] for key, x in results.items()}
    dims |= {f"w/{v.name}": [d.name for d in v.shape] for v in variables}
    return arrays, {**dims, "in/targets": ["batch", "rows", "cols", "channels"]}


def main() -> None:
    """Writes both files."""
    tf.disable_v2_behavior()
    original = _original(sys.argv[1])
    stored: dict[str, Any] = {}
    description: dict[str, Any] = {}
    for name, hparams in CASES.items():
        arrays, dims = run_case(original, name, hparams)
        stored |= {f"{name}/{key}": value for key, value in arrays.items()}
        described = {
            key: {"shape": list(x.shape), "dtype": str(x.dtype), "dims": dims[key]}
            for key, x in arrays.items()
        }
        description[name] = {"description": name, "hparams": hparams, "arrays": described}
        print(name, arrays["out/loss"], [*arrays])
    np.savez_compressed(FOLDER / "t2t_image_transformer.npz", **stored)
    text = json.dumps({"tensor2tensor": "1.15.7", "cases": description}, indent=1)
    (FOLDER / "t2t_image_transformer.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
