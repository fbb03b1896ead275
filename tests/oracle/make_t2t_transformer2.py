"""Makes t2t_transformer2.npz and .json: small models of Tensor2Tensor's mtf_transformer2.

Run it as make_transformer_layers.py, with two arguments: the directory of the unpacked wheel of
`pip download mesh-tensorflow==0.1.13 --no-deps`, and the path of the original's file,
tensor2tensor/models/mtf_transformer2.py of `pip download tensor2tensor==1.15.7 --no-deps`. What it
imports of Tensor2Tensor is replaced here, and so is what TensorFlow has no longer.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import ops

FOLDER = pathlib.Path(__file__).parent
VOCABULARY = 30
HPARAMS: dict[str, Any] = {
    **{"d_model": 16, "d_ff": 24, "d_kv": 4, "batch_size": 2, "max_length": 12, "length": 0},
    **{"attention_dropout": 0.0, "relu_dropout": 0.0, "layer_prepostprocess_dropout": 0.0},
    **{"label_smoothing": 0.0, "z_loss": 1e-2, "norm_epsilon": 1e-6, "extra_logit": False},
    **{"shared_embedding_and_softmax_weights": False, "vocab_divisor": 8, "outer_batch_size": 0},
    **{"master_dtype": "float32", "slice_dtype": "float32", "activation_dtype": "float32"},
    **{"use_global_position_in_packed_sequence": True, "layout": "", "mesh_shape": ""},
    **{"local_attention_radius": 4, "mode": "train"},
}
LANGUAGE_MODEL: dict[str, Any] = {
    **HPARAMS,
    **{"autoregressive": True, "num_heads": 4, "num_memory_heads": 0, "shared_kv": False},
}
CASES: dict[str, dict[str, Any]] = {
    "unitransformer": {
        **LANGUAGE_MODEL,
        "num_memory_heads": 1,
        "layers": ["local_self_att", "drd", "self_att", "drd"] * 2,
    },
    "mixtures": {
        **LANGUAGE_MODEL,
        **{"moe_num_experts": 4, "moe_hidden_size": 20, "moe_expert_x": 2, "moe_expert_y": 2},
        "layers": ["self_att", "moe_1d", "local_self_att", "moe_2d", "drd"],
        "mode": "eval",
    },
    "bitransformer": {
        **HPARAMS,
        **{"label_smoothing": 0.1, "shared_embedding": True},
        **{"encoder_num_heads": 2, "encoder_num_memory_heads": 0, "encoder_shared_kv": False},
        **{"decoder_num_heads": 4, "decoder_num_memory_heads": 2, "decoder_shared_kv": False},
        "encoder_layers": ["self_att", "drd"] * 2,
        "decoder_layers": ["self_att", "enc_att", "drd"] * 3,
        **{"beam_size": 4, "alpha": 0.6, "sampling_temp": 0.0},
        **{"decode_length_multiplier": 1.5, "decode_length_constant": 10.0},
    },
    "tied_softmax": {
        **HPARAMS,
        **{"shared_embedding": True, "shared_embedding_and_softmax_weights": True},
        **{"encoder_num_heads": 2, "encoder_num_memory_heads": 0, "encoder_shared_kv": False},
        **{"decoder_num_heads": 4, "decoder_num_memory_heads": 1, "decoder_shared_kv": False},
        "encoder_layers": ["self_att", "drd"] * 2,
        "decoder_layers": ["local_self_att", "enc_att", "drd"] * 2,
        **{"beam_size": 1, "alpha": 0.6, "sampling_temp": 0.5},
        **{"decode_length_multiplier": 1.5, "decode_length_constant": 10.0},
    },
    "shared_kv": {
        **HPARAMS,
        **{"shared_embedding": True, "extra_logit": True},
        **{"encoder_num_heads": 2, "encoder_num_memory_heads": 0, "encoder_shared_kv": False},
        **{"decoder_num_heads": 4, "decoder_num_memory_heads": 1, "decoder_shared_kv": True},
        "encoder_layers": ["self_att", "drd"],
        "decoder_layers": ["local_self_att", "enc_att", "self_att", "drd"],
        **{"beam_size": 2, "alpha": 0.6, "sampling_temp": 0.0},
        **{"decode_length_multiplier": 1.5, "decode_length_constant": 10.0},
    },
}


class _Hparams(types.SimpleNamespace):
    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


class _Registry(dict[str, Any]):
    def register(self, name: str) -> Callable[[Any], Any]:
        return lambda layer: self.setdefault(name, layer)


def _mesh_tensorflow(directory: str) -> Any:
    """Returns the package, whose transformer package would import data sets."""
    sys.path.insert(0, directory)
    if not hasattr(ops, "register_dense_tensor_like_type"):
        ops.register_dense_tensor_like_type = lambda cls: None
    import mesh_tensorflow as mtf  # noqa: PLC0415 - of the directory

    package = types.ModuleType("mesh_tensorflow.transformer")
    package.__path__ = [f"{directory}/mesh_tensorflow/transformer"]
    sys.modules[package.__name__] = package
    # Mixtures draw second experts: with the largest draw they are those above the threshold.
    mtf.random_uniform = lambda mesh, shape, **_: mtf.constant(mesh, 1.0 - 1e-6, shape)
    return mtf


def _original(path: str) -> Any:
    """Returns the original's module."""

    class MtfModel:
        def __init__(self, hparams: Any) -> None:
            self._hparams = hparams
            sizes = {"inputs": VOCABULARY, "targets": VOCABULARY}
            self._problem_hparams = types.SimpleNamespace(vocab_size=sizes)

    parts: dict[str, dict[str, Any]] = {
        "layers.common_hparams": {},
        "layers.common_layers": {"expand_squeeze_to_nd": lambda x, n: x},
        "layers.modalities": {},
        "utils.mtf_model": {"MtfModel": MtfModel},
        "utils.registry": {
            "register_model": lambda x: x,
            "register_hparams": lambda x: x,
            "Registries": types.SimpleNamespace(mtf_layers=_Registry()),
        },
    }
    for name in ("", ".layers", ".utils"):
        sys.modules[f"tensor2tensor{name}"] = types.ModuleType(f"tensor2tensor{name}")
    for name, values in parts.items():
        package, _, last = name.partition(".")
        module = types.ModuleType(f"tensor2tensor.{name}")
        vars(module).update(values)
        sys.modules[f"tensor2tensor.{name}"] = module
        setattr(sys.modules[f"tensor2tensor.{package}"], last, module)
    spec = importlib.util.spec_from_file_location("mtf_transformer2", path)
    assert spec is not None and spec.loader is not None
    original = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(original)
    return original


def _features(name: str, hparams: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns rows of different lengths, which end with 1 and padding."""
    rng = np.random.default_rng(len(name))
    shape = [hparams["batch_size"], hparams["max_length"]]
    names = ["inputs", "targets"] if "encoder_layers" in hparams else ["targets"]
    features = {}
    for i, key in enumerate(names):
        ids = rng.integers(2, VOCABULARY, shape)
        if len(names) > 1:
            for row, end in enumerate((shape[1] - 3 - i, shape[1] - 1)):
                ids[row, end:] = [1, *[0] * (shape[1] - end - 1)]
        features[key] = ids.astype(np.int32)
    return features


def run_case(mtf: Any, original: Any, name: str, hparams: dict[str, Any]) -> tuple[Any, Any]:
    """Returns the arrays of a case and the names of their dimensions."""
    rng = np.random.default_rng(len(name))
    features = _features(name, hparams)
    with tf.Graph().as_default():
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        is_pair = "encoder_layers" in hparams
        cls = original.MtfBitransformer if is_pair else original.MtfUnitransformer
        model = cls(_Hparams(**hparams))
        logits, loss = model.mtf_model_fn(
            {key: tf.constant(ids) for key, ids in features.items()}, mesh
        )
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
            weights = {
                v.name: v.name.endswith("scale")
                + 0.3 * rng.normal(size=v.shape.to_integer_list).astype(np.float32)
                for v in variables
            }
            for key, value in weights.items():
                masters[key].load(value, session)
            session.run(lowering.copy_masters_to_slices())
            arrays = session.run(fetches)
    arrays |= {f"in/{key}": ids for key, ids in features.items()}
    arrays |= {f"w/{key}": value for key, value in weights.items()}
    dims = {key: [d.name for d in x.shape] for key, x in results.items()}
    dims |= {f"w/{v.name}": [d.name for d in v.shape] for v in variables}
    dims |= {f"in/{key}": ["batch", "length"] for key in features}
    return arrays, dims


def main() -> None:
    """Writes both files."""
    tf.disable_v2_behavior()
    mtf = _mesh_tensorflow(sys.argv[1])
    original = _original(sys.argv[2])
    stored: dict[str, Any] = {}
    description: dict[str, Any] = {}
    for name, hparams in CASES.items():
        arrays, dims = run_case(mtf, original, name, hparams)
        stored |= {f"{name}/{key}": value for key, value in arrays.items()}
        described = {
            key: {"shape": list(x.shape), "dtype": str(x.dtype), "dims": dims[key]}
            for key, x in arrays.items()
        }
        description[name] = {"description": name, "hparams": hparams, "arrays": described}
        print(name, arrays["out/loss"], [*arrays])
    np.savez_compressed(FOLDER / "t2t_transformer2.npz", **stored)
    text = json.dumps(
        {"tensor2tensor": "1.15.7", "mesh_tensorflow": "0.1.13", "cases": description}, indent=1
    )
    (FOLDER / "t2t_transformer2.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
