"""Makes transformer_layers.npz and .json: small models with the rarer layers of Mesh TensorFlow.

Run it with mesh-tensorflow 0.1.21, which nothing else here needs, in Python 3.10:
python3 -m venv /tmp/mtf && /tmp/mtf/bin/pip install tensorflow-cpu==2.12.1 mesh-tensorflow==0.1.21
gin-config && TF_ENABLE_ONEDNN_OPTS=0 /tmp/mtf/bin/python tests/oracle/make_transformer_layers.py
"""

from __future__ import annotations

import functools
import json
import pathlib
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf

import gin

# The original's data import it; nothing here reads any.
sys.modules["tensorflow_datasets"] = types.ModuleType("tensorflow_datasets")
from mesh_tensorflow.transformer import (  # noqa: E402
    adaptive_softmax,
    attention,
    evolved_transformer,
    funnel_transformer,
    heterogeneous_moe,
    memory_layers,
    transformer,
    transformer_layers,
    universal_transformer,
    vocab_embeddings,
)

FOLDER = pathlib.Path(__file__).parent
VOCABULARY, DIVISOR = 40, 8
SIZES = {"d_model": 16, "d_ff": 24, "num_heads": 2, "d_kv": 6}
# Of layers, the arguments of the original's classes.
TALKING: dict[str, Any] = {
    "key_heads_dims": [("key_heads", 3)],
    "softmax_heads_dims": [("heads", 2)],
    "value_heads_dims": [("value_heads", 4)],
    "key_size": 6,
    "value_size": 5,
}
TALKING_TO_ITSELF = {
    **TALKING,
    "relative_attention_type": "bias_shared",
    "relative_attention_num_buckets": 8,
}
# Heads in two dimensions, of which one is in all of them.
SHARED_HEADS: dict[str, Any] = {
    "key_heads_dims": [("heads", 2), ("key_heads", 2)],
    "softmax_heads_dims": [("heads", 2), ("query_heads", 3)],
    "value_heads_dims": [("heads", 2), ("key_heads", 2)],
    "key_size": 4,
    "value_size": 4,
}
DYNAMIC: dict[str, Any] = {
    **TALKING_TO_ITSELF,
    "dynamic_projections": ["x2l", "m2l", "x2w", "m2w"],
    "dynamic_projections_init_scale": 1.0,
}
MODES = (
    *("random", "factorized", "dense_minus", "random_plus", "random_plus_alpha"),
    *("dense_plus", "dense_plus_alpha"),
)
# The other modes have 512 positions, whatever this says.
SHORT = {mode: {"attention_kwargs": {"max_length": 16}} for mode in ("random", "dense_minus")}
MEMORY = {"key_size": 8, "n_keys": 5, "n_heads": 2, "knn": 3}
WITH_BIAS = {"relative_attention_type": "bias_shared", "relative_attention_num_buckets": 8}
SHARED_KV: dict[str, Any] = {"shared_kv": True}
EXTRA_LOGIT: dict[str, Any] = {"attention_kwargs": {"extra_logit": 0.0}}
FOUR_HEADS = {"num_heads": 4, **WITH_BIAS}
# Small capacities, which drop tokens in training, but none of a step.
MIXTURE: dict[str, Any] = {
    **{"num_experts": 4, "loss_coef": 0.1, "group_size": 6, "min_expert_capacity": 2},
    **{"moe_gating": "switch", "switch_policy_train": "argmax", "switch_policy_eval": "argmax"},
}
EXPERTS = {**MIXTURE, "hidden_size": 10, "key_value_size": 8, "shared_kv": True}
# By masks of the smaller ones; of hidden sizes other than 1 the original multiplies masks alone.
OF_TWO_SIZES: dict[str, Any] = {
    **MIXTURE,
    "hidden_size": 1,
    "heterogeneous_mask_info": [
        {"percent_number": 0.5, "layers": 1, "width": 8},
        {"percent_number": 0.5, "layers": 2, "width": 5},
    ],
}
AROUND = {"min_relative_pos": -1, "max_relative_pos": 2, "output_size": 16}
BEFORE = {"min_relative_pos": -2, "max_relative_pos": 0, "output_size": 16}

CLUSTERS = [
    {"token_count": 16, "embedding_size": 16},
    {"token_count": 8, "embedding_size": 6},
    {"token_count": 16, "embedding_size": 4},
]
EVOLVED = {"d_model": 16, "dropout_rate": 0.0}

# Trained vectors of steps; nothing of the original adds vectors of positions.
UNIVERSAL: dict[str, Any] = {
    "act_type": "basic",
    "recurrence_type": "basic",
    "act_max_steps": 2,
    "act_epsilon": 0.1,
    "num_rec_steps": 3,
    "num_inrecurrence_layers": 1,
    "position_start_index": None,
    "add_or_concat_timing_signal": "add",
    "step_timing_signal_type": "learned",
    "add_position_timing_signal": False,
    "add_step_timing_signal": True,
    "mix_with_transformer_before_ut": False,
    "mix_with_transformer_after_ut": False,
    "gates_inputs": None,
    "gate_ffn_layer": "dense",
    "use_gated_transformer": False,
    "gating_type": "highway",
}

# By case: what it is, and lists (class of the original, arguments) of a block's layers.
CASES: dict[str, dict[str, Any]] = {
    "talking_heads": {
        "description": "other numbers of heads for keys, softmax and values; shared bias",
        "encoder": [("TalkingHeadsSelfAttention", TALKING_TO_ITSELF), "DenseReluDense"],
        "decoder": [
            ("TalkingHeadsSelfAttention", TALKING_TO_ITSELF),
            ("TalkingHeadsEncDecAttention", TALKING),
            "DenseReluDense",
        ],
    },
    "talking_heads_shared": {
        "description": "a dimension of heads that keys, softmax and values share",
        "num_layers": 1,
        "encoder": [("TalkingHeadsSelfAttention", SHARED_HEADS), "DenseReluDense"],
        "decoder": [
            ("TalkingHeadsSelfAttention", SHARED_HEADS),
            ("TalkingHeadsEncDecAttention", SHARED_HEADS),
        ],
    },
    "talking_heads_dynamic": {
        "description": "projections of heads that depend on queries and on the memory; the decode"
        " of the original reads the query in place of the memory, so there is none",
        "encoder": [("TalkingHeadsSelfAttention", DYNAMIC), "DenseReluDense"],
        "decoder": [
            ("TalkingHeadsSelfAttention", DYNAMIC),
            ("TalkingHeadsEncDecAttention", {**DYNAMIC, "relative_attention_type": None}),
        ],
        "without_decode": True,
        "num_layers": 1,
    },
    "parallel": {
        "description": "layers side by side, their variables in a scope each, or in one",
        "encoder": [("ParallelLayer", {"layer_classes": ["DenseReluDense", "SelfAttention"]})],
        "decoder": [
            (
                "ParallelLayer",
                {"layer_classes": ["SelfAttention", "DenseReluDense"], "use_scope": False},
            ),
            "EncDecAttention",
        ],
        "num_layers": 1,
    },
    **{
        f"synthesizer_{mode}": {
            "description": f"Synthesizer with synthesize_mode {mode}",
            "encoder": [("Synthesizer", {"synthesize_mode": mode, **SHORT.get(mode, {})})],
            "decoder": [
                ("Synthesizer", {"synthesize_mode": mode, **SHORT.get(mode, {})}),
                "EncDecAttention",
            ],
            "num_layers": 1,
        }
        for mode in MODES
    },
    "arguments_of_layers": {
        "description": "narrow and wide layers in a block, one table of distances for each number"
        " of heads, as in t5.1.n4w10",
        "encoder": [
            ("SelfAttention", FOUR_HEADS),
            ("DenseReluDense", {"hidden_size": 12}),
            ("SelfAttention", WITH_BIAS),
            "DenseReluDense",
            ("SelfAttention", FOUR_HEADS),
            ("SelfAttention", WITH_BIAS),
        ],
        "decoder": [
            ("SelfAttention", WITH_BIAS),
            ("EncDecAttention", {"num_heads": 4}),
            ("SelfAttention", FOUR_HEADS),
            ("DenseReluDense", {"hidden_size": 12}),
            ("SelfAttention", FOUR_HEADS),
            "EncDecAttention",
        ],
        "num_layers": 1,
    },
    "shared_kv": {
        "description": "one projection for keys and values, and an extra logit in the softmax of"
        " some layers",
        "stack": "LayerStack",
        "encoder": [("SelfAttention", {**SHARED_KV, **WITH_BIAS}), "DenseReluDense"],
        "decoder": [
            ("SelfAttention", {**SHARED_KV, **EXTRA_LOGIT, **WITH_BIAS}),
            ("EncDecAttention", {**SHARED_KV, "num_heads": 4, "num_memory_heads": 2}),
            ("EncDecAttention", {"attention_kwargs": {"extra_logit": -0.7}}),
            "DenseReluDense",
        ],
        "num_layers": 1,
    },
    "mixture_of_softmaxes": {
        "description": "logits of MixtureOfSoftmaxes",
        "encoder": ["DenseReluDense"],
        "decoder": ["EncDecAttention"],
        "num_layers": 1,
        "softmax": ("MixtureOfSoftmaxes", {"num_softmaxes": 3}),
    },
    "mixtape": {
        "description": "logits of Mixtape",
        "encoder": ["DenseReluDense"],
        "decoder": ["EncDecAttention"],
        "num_layers": 1,
        "softmax": ("Mixtape", {"gate_embedding_size": 5, "frequent_token_fraction": 0.3}),
    },
    **{
        name: {
            "description": f"vectors and logits of {cls}",
            "encoder": ["DenseReluDense"],
            "decoder": ["EncDecAttention"],
            "num_layers": 1,
            "softmax": (cls, arguments),
        }
        for name, cls, arguments in (
            ("factorized_embedding", "FactorizedVocabEmbedding", {"inner_dimension_size": 6}),
            ("adaptive_embedding", "AdaptiveVocabEmbedding", {"clusters": CLUSTERS}),
            ("adaptive_softmax", "AdaptiveSoftmaxVocabEmbedding", {"clusters": CLUSTERS}),
        )
    },
    "evolved_transformer": {
        "description": "the layers of the Evolved Transformer",
        # The original cannot decode as many positions as a filter has.
        "inputs_length": 9,
        "encoder": [
            "GatedLinearUnitLayer",
            ("EncoderConvolutionalLayer", EVOLVED),
            "SelfAttention",
            "DenseReluDense",
        ],
        "decoder": [
            ("DecoderAttentionLayer", {"base_num_heads": 2}),
            ("DecoderConvolutionalLayer", EVOLVED),
            "SelfAttention",
            "EncDecAttention",
            ("DenseReluDense", {"activation": "swish"}),
        ],
        "num_layers": 1,
    },
    **{
        f"experts_of_attention_{projections}": {
            "description": f"ExpertsSelfAttention with expert_computation {projections}, whose keys"
            " and values have the memory's positions: see _of_memory",
            "encoder": [("ExpertsSelfAttention", {**EXPERTS, "expert_computation": projections})],
            "decoder": [
                ("ExpertsSelfAttention", {**EXPERTS, "expert_computation": projections}),
                "EncDecAttention",
            ],
            "num_layers": 1,
            "moe": {"num_experts": 4},
        }
        for projections in ("qkv", "q", "kv")
    },
    "heterogeneous_experts": {
        "description": "HeterogeneousMoE1D, experts of two sizes",
        "encoder": ["SelfAttention", ("HeterogeneousMoE1D", OF_TWO_SIZES)],
        "decoder": ["EncDecAttention", ("HeterogeneousMoE1D", OF_TWO_SIZES)],
        "num_layers": 1,
        "moe": {"num_experts": 4},
    },
    "ensemble_of_two": {
        "description": "two members; the loss is the sum of theirs, the logits the logarithms of"
        " mean probabilities",
        **{"ensemble": 2, "stack": "LayerStack"},
        "encoder": [("SelfAttention", WITH_BIAS), "DenseReluDense"],
        "decoder": [("SelfAttention", WITH_BIAS), "EncDecAttention", "DenseReluDense"],
        "num_layers": 1,
    },
    "reversible": {
        "description": "ReversibleLayerStack, whose transforms have no residual",
        "stack": "ReversibleLayerStack",
        "encoder": ["SelfAttention", "DenseReluDense"],
        "decoder": ["SelfAttention", "EncDecAttention", "DenseReluDense"],
    },
    **{
        f"universal_{name}": {
            "description": f"UTLayerStack, {description}",
            "stack": "UTLayerStack",
            "universal": {**UNIVERSAL, **arguments},
            "encoder": [("SelfAttention", WITH_BIAS), "DenseReluDense"],
            "decoder": [("SelfAttention", WITH_BIAS), "EncDecAttention", "DenseReluDense"],
            "num_layers": num_layers,
        }
        for name, description, num_layers, arguments in (
            ("steps", "three steps of two blocks", 2, {}),
            ("interpolated_halting", "positions halt", 1, {"recurrence_type": "act"}),
            (
                "accumulated_halting",
                "positions halt, and outputs are added",
                1,
                {"recurrence_type": "act", "act_type": "accumulated"},
            ),
        )
    },
    **{
        f"funnel_of_{kind}": {
            "description": f"FunnelTransformerLayerStack, pooling_type {kind}",
            "inputs_length": 8,
            "funnel": {
                "n_blocks": len(sizes),
                "block_param_size": sizes,
                "block_repeat_size": [1] * len(sizes),
                "pooling_type": kind,
            },
            "encoder": [("SelfAttention", WITH_BIAS), "DenseReluDense"],
            "decoder": ["SelfAttention", "EncDecAttention"],
            "num_layers": 1,
        }
        for kind, sizes in (("mean", [1, 2, 1]), ("max", [1, 1]))
    },
    "product_key_memory": {
        "description": "ProductKeyValueMemory",
        "encoder": ["SelfAttention", ("ProductKeyValueMemory", MEMORY)],
        "decoder": [("ProductKeyValueMemory", MEMORY), "EncDecAttention"],
        "num_layers": 1,
    },
    "transparent_attention": {
        "description": "blocks of the decoder attend to mixtures of the encoder's blocks",
        "encoder": ["SelfAttention", "DenseReluDense"],
        "decoder": [
            "SelfAttention",
            (
                "TransparentEncDecAttention",
                {
                    **{"layers_per_encoder_module": 2, "layers_per_decoder_module": 2},
                    **{"encoder_num_modules": 2, "decoder_num_modules": 2},
                },
            ),
        ],
    },
    "convolution": {
        "description": "Conv1DLayer in an encoder, of odd and even size",
        "encoder": [
            ("Conv1DLayer", {"filter_size": 3, "output_size": 16, "activation": "relu"}),
            ("Conv1DLayer", {"filter_size": 4, "output_size": 16}),
        ],
        "decoder": ["SelfAttention", "EncDecAttention"],
        "num_layers": 1,
    },
    "separable_convolution": {
        "description": "SeparableConv1DLayer",
        "encoder": [("SeparableConv1DLayer", {**AROUND, "activation": "relu"})],
        "decoder": [("SeparableConv1DLayer", BEFORE), "EncDecAttention"],
        "num_layers": 1,
    },
    "lightweight_convolution": {
        "description": "LightweightConv1DLocalAttn",
        "encoder": [("LightweightConv1DLocalAttn", {**AROUND, "num_unique_depth_filters": 4})],
        "decoder": [("LightweightConv1DLocalAttn", BEFORE), "EncDecAttention"],
        "num_layers": 1,
    },
    "dynamic_convolution": {
        "description": "DynamicConv1DLocalAttn",
        "encoder": [("DynamicConv1DLocalAttn", {**AROUND, "num_unique_depth_filters": 4})],
        "decoder": [("DynamicConv1DLocalAttn", BEFORE), "EncDecAttention"],
        "num_layers": 1,
    },
    "gated_convolution": {
        "description": "LocalConvAttnBlock of both kinds",
        "encoder": [("LocalConvAttnBlock", {**AROUND, "attention_type": "lightweight_conv"})],
        "decoder": [
            ("LocalConvAttnBlock", {**BEFORE, "attention_type": "dynamic_conv"}),
            "EncDecAttention",
        ],
        "num_layers": 1,
    },
}


def _of_memory(parameters: Any, memory: Any) -> Any:
    """Returns the keys, and values, of attention by experts, with the positions of the memory.

    The original leaves them the queries' dimension "length": the weights of its attention, a
    softmax over the memory that no key has, then sum up to 1 over the values of a position itself.
    """
    del memory
    length = [dim for dim in parameters._k.shape.dims if dim.name == "length"]
    if not length:
        return parameters._k
    memory_length = mtf.Dimension("memory_length", length[0].size)
    return mtf.replace_dimensions(parameters._k, length[0], memory_length)


attention.ExpertsAttentionParams.compute_kv = _of_memory


_call = heterogeneous_moe.HeterogeneousMoE1D.call


def _call_again(layer: Any, context: Any, x: Any, losses: Any = None) -> Any:
    """Returns what the first call does: it changes its arguments, and later ones mask no widths."""
    arguments = dict(vars(layer._hparams))
    y = _call(layer, context, x, losses)
    vars(layer._hparams).update(arguments)
    return y


heterogeneous_moe.HeterogeneousMoE1D.call = _call_again


def layer_of(entry: Any) -> Any:
    """Returns a layer of the original for (class, arguments), or for a name with usual sizes."""
    name, arguments = (entry, {}) if isinstance(entry, str) else entry
    if name == "ParallelLayer":
        classes = [(lambda inner=inner: layer_of(inner)) for inner in arguments["layer_classes"]]
        rest = {k: v for k, v in arguments.items() if k != "layer_classes"}
        return transformer_layers.ParallelLayer(layer_classes=classes, **rest)
    usual: dict[str, Any] = {}
    if name == "DenseReluDense":
        usual = {"hidden_size": SIZES["d_ff"]}
    attentions = ("SelfAttention", "EncDecAttention", "TransparentEncDecAttention", "Synthesizer")
    if name in (*attentions, "ExpertsSelfAttention"):
        usual = {"num_heads": SIZES["num_heads"], "key_value_size": SIZES["d_kv"]}
    if name == "DecoderAttentionLayer":  # it has no argument for the size
        gin.bind_parameter("SelfAttention.key_value_size", SIZES["d_kv"])
    modules = (transformer_layers, memory_layers, evolved_transformer, heterogeneous_moe)
    module = next(each for each in modules if hasattr(each, name))
    return getattr(module, name)(**(usual | arguments))


def stack(name: str, case: dict[str, Any]) -> Any:
    """Returns a stack as `make_layer_stack` names it, with a norm and a residual around layers."""
    made = []
    funnel = case.get("funnel", {}) if name == "encoder" else {}
    for block in range(sum(funnel.get("block_param_size", [case.get("num_layers", 2)]))):
        for i, entry in enumerate(case[name]):
            layer = layer_of(entry)
            layer.set_name(f"block_{block:03d}/layer_{i:03d}")
            made.append(layer)
    if case.get("stack") == "UTLayerStack":
        return universal_transformer.UTLayerStack(made, **case["universal"])
    around = [transformer.sublayer_rms_norm, transformer.sublayer_call_layer]
    sublayers: dict[str, Any] = {
        "sublayers_initial": [],
        "sublayers_per_layer": [*around, transformer.sublayer_residual],
        "sublayers_final": [transformer.sublayer_rms_norm],
    }
    if funnel:
        return funnel_transformer.FunnelTransformerLayerStack(made, **funnel, **sublayers)
    if case.get("stack") == "ReversibleLayerStack":
        recomputes = case.get("recompute_grads", True)
        sublayers |= {"sublayers_per_layer": around, "recompute_grads": recomputes}
        return transformer.ReversibleLayerStack(made, **sublayers)
    return transformer.LayerStack(made, **sublayers)


def unitransformer(case: dict[str, Any], name: str) -> Any:
    """Returns a stack with its embedding."""
    decodes = name == "decoder"
    return transformer.Unitransformer(
        stack(name, case),
        d_model=SIZES["d_model"],
        input_vocab_size=VOCABULARY,
        output_vocab_size=VOCABULARY if decodes else None,
        autoregressive=decodes,
        max_length=16,
        # The members of an ensemble share an untied softmax, by mistake.
        shared_embedding_and_softmax_weights="softmax" in case or "ensemble" in case,
        loss_fn=adaptive_softmax.adaptive_softmax_loss_fn
        if decodes and has_adaptive_softmax(case)
        else None,
        vocab_divisor=DIVISOR,
        layout="",
        mesh_shape="all:1",
        ensemble=case.get("ensemble"),
        positional_embedding=False,
        name=name,
    )


def has_adaptive_softmax(case: dict[str, Any]) -> bool:
    return str(case.get("softmax", [""])[0]).startswith("AdaptiveSoftmax")


class Program:
    """The original's model in a graph, whose variables have given values."""

    def __init__(self, case: dict[str, Any]) -> None:
        encoder, decoder = (unitransformer(case, name) for name in ("encoder", "decoder"))
        kinds = (transformer.Bitransformer, funnel_transformer.BitransformerFunnel)
        self.model = kinds["funnel" in case](encoder, decoder)
        self.softmax = transformer.VocabEmbedding
        if "softmax" in case:
            cls, arguments = case["softmax"]
            module = adaptive_softmax if has_adaptive_softmax(case) else vocab_embeddings
            self.softmax = functools.partial(getattr(module, cls), **arguments)

    def run(
        self,
        build: Callable[[Any, Any], dict[str, Any]],
        weights: dict[str, np.ndarray] | None,
        rng: np.random.Generator,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, list[str]]]:
        """Returns what `build(graph, mesh)` computes, the weights and their dimensions.

        Without weights they are drawn: the initial values and a little beside them.
        """
        with tf.Graph().as_default():
            tf.set_random_seed(1)
            transformer.get_vocab_embedding_cls = lambda: self.softmax
            graph = mtf.Graph()
            mesh = mtf.Mesh(graph, "mesh")
            results = build(graph, mesh)
            lowering = mtf.Lowering(
                graph, {mesh: mtf.placement_mesh_impl.PlacementMeshImpl("all:1", "", [""])}
            )
            fetches = {name: lowering.export_to_tf_tensor(x) for name, x in results.items()}
            dims = {x.name: [d.name for d in x.shape] for x in graph.trainable_variables}
            variables = {v.name.split(":")[0]: v for v in tf.global_variables()}
            masters = {x.name: variables[x.name] for x in graph.trainable_variables}
            with tf.Session() as session:
                session.run(tf.global_variables_initializer())
                if weights is None:
                    initial = session.run(masters)
                    weights = {
                        name: value + 0.25 * rng.normal(size=value.shape).astype(np.float32)
                        for name, value in initial.items()
                    }
                    for name, value in weights.items():
                        if name.endswith("/R"):  # of 512 positions, few are used
                            value[16:] = value[:, :, 16:] = 0.0
                for name, variable in masters.items():
                    variable.load(weights[name], session)
                session.run(lowering.copy_masters_to_slices())
                return session.run(fetches), weights, dims


def named(mesh: Any, array: np.ndarray) -> Any:
    """Returns ids [batch, length] as a tensor."""
    dims = [mtf.Dimension("batch", array.shape[0]), mtf.Dimension("length", array.shape[1])]
    return mtf.import_fully_replicated(
        mesh, tf.constant(array, tf.int32), mtf.Shape(dims), name="ids"
    )


def run_case(name: str, case: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays of a case and the names of their dimensions."""
    rng = np.random.default_rng(len(name))
    inputs = rng.integers(2, VOCABULARY, [2, case.get("inputs_length", 7)]).astype(np.int32)
    targets = rng.integers(2, VOCABULARY, [2, 6]).astype(np.int32)
    inputs[1, 5:] = targets[0, 4:] = 0
    program = Program(case)

    def losses(graph: Any, mesh: Any) -> dict[str, Any]:
        ids = named(mesh, inputs), named(mesh, targets)
        train, evaluate = tf.estimator.ModeKeys.TRAIN, tf.estimator.ModeKeys.EVAL
        with tf.variable_scope("", reuse=tf.AUTO_REUSE):
            _, loss = program.model.call_simple(*ids, compute_loss=True, mode=train)
            gradients = mtf.gradients([loss], [v.outputs[0] for v in graph.trainable_variables])
            variables = list(graph.trainable_variables)
            # In evaluations it would take logits for vectors, and fail.
            program.model.decoder._loss_fn = None
            logits, loss_eval = program.model.call_simple(*ids, compute_loss=True, mode=evaluate)
        results = {"out/loss_train": loss, "out/loss_eval": loss_eval, "out/logits_eval": logits}
        return results | {
            f"grad/{v.name}": g for v, g in zip(variables, gradients, strict=True) if g is not None
        }

    def decode(graph: Any, mesh: Any) -> dict[str, Any]:
        # The original cannot decode with a stack that recomputes.
        model = Program({**case, "recompute_grads": False}).model
        return {"ids": model.decode(named(mesh, inputs))}

    results, weights, dims = program.run(losses, None, rng)
    arrays = {"in/inputs": inputs, "in/targets": targets}
    arrays |= {f"w/{key}": value for key, value in weights.items()} | results
    if not case.get("without_decode"):
        near = {
            key: value * (1 + 1e-5 * rng.normal(size=value.shape)).astype(np.float32)
            for key, value in weights.items()
        }
        ids, other = (program.run(decode, w, rng)[0]["ids"] for w in (weights, near))
        if np.any(ids != other):
            raise RuntimeError(f"{name}: small changes of the weights change the decode")
        arrays["out/greedy_ids"] = ids
    names = {
        **{"in/inputs": ["batch", "inputs_length"], "in/targets": ["batch", "targets_length"]},
        **{"out/loss_train": [], "out/loss_eval": []},
        **{"out/logits_eval": ["batch", "length", "vocab"], "out/greedy_ids": ["batch", "length"]},
        **{f"{role}/{key}": value for key, value in dims.items() for role in ("w", "grad")},
    }
    usual = functools.partial(usual_name, case.get("funnel", {}).get("block_param_size", []))
    return {usual(key): x for key, x in arrays.items()}, {usual(key): names[key] for key in arrays}


def usual_name(sizes: list[int], key: str) -> str:
    """Returns the name that a variable of a funnel's block has in other stacks."""
    match = re.search(r"funnel_block_(\d+)/param_idx_(\d+)/submodule_(\d+)", key)
    if match is None:
        return key
    part, block, layer = (int(number) for number in match.groups())
    name = f"block_{sum(sizes[:part]) + block:03d}/layer_{layer:03d}"
    return key.replace(match[0], name)


def main() -> None:
    """Writes both files."""
    tf.disable_v2_behavior()
    stored: dict[str, Any] = {}
    description: dict[str, Any] = {}
    for name, case in CASES.items():
        arrays, dims = run_case(name, case)
        stored |= {f"{name}/{key}": value for key, value in arrays.items()}
        hparams = {
            **SIZES,
            **{"type": "bi", "vocab": VOCABULARY, "vocab_divisor": DIVISOR},
            **{"num_layers": case.get("num_layers", 2)},
            **{key: value for key, value in case.items() if key != "description"},
        }
        if "out/greedy_ids" in arrays:
            hparams["decode_greedy"] = {}
        description[name] = {
            "description": case["description"],
            "hparams": hparams,
            "arrays": {
                key: {"shape": list(x.shape), "dtype": str(x.dtype), "dims": dims[key]}
                for key, x in arrays.items()
            },
        }
        print(name, len(arrays), arrays["out/loss_train"], arrays.get("out/greedy_ids"))
    np.savez_compressed(FOLDER / "transformer_layers.npz", **stored)
    text = json.dumps({"mesh_tensorflow": "0.1.21", "cases": description}, indent=1)
    (FOLDER / "transformer_layers.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
