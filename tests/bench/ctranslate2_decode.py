"""CTranslate2, a C++ engine for Transformers, with the same weights, if it is installed.

https://github.com/OpenNMT/CTranslate2; `pip install ctranslate2`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import TransformerSpec

from tests.bench.decode import ALPHA, DecodeConfig, add_sizes, prompts, sizes, weight
from tests.bench.worker import Step, serve


def specification(c: DecodeConfig) -> TransformerSpec:
    """Returns the model with the benchmark's weights; its matrices are [outputs, inputs]."""
    spec = TransformerSpec.from_config(
        (c.num_layers, c.num_layers), c.num_heads, pre_norm=True, rms_norm=True
    )
    longest = max(c.inputs_length, c.targets_length)
    ones = np.ones([c.d_model], np.float32)
    table = weight("embedding/table", (c.vocabulary, c.d_model))
    for side, stack, embeddings in (
        ("encoder", spec.encoder, spec.encoder.embeddings[0]),
        ("decoder", spec.decoder, spec.decoder.embeddings),
    ):
        embeddings.weight = table
        stack.scale_embeddings = False
        stack.position_encodings.encodings = weight("position/table", (longest, c.d_model))
        stack.layer_norm.gamma = ones
        for i, layer in enumerate(stack.layer):
            root = f"{side}_stack/blocks/{i}"
            _set_attention(
                layer.self_attention, f"{root}/self_attention", c, [("query", "key", "value")]
            )
            if side == "decoder":
                names = [("query",), ("key", "value")]
                _set_attention(layer.attention, f"{root}/encoder_decoder_attention", c, names)
            feed_forward = f"{root}/feed_forward/layer"
            layer.ffn.layer_norm.gamma = ones
            wi = weight(f"{feed_forward}/wi/kernel", (c.d_model, c.d_ff))
            wo = weight(f"{feed_forward}/wo/kernel", (c.d_ff, c.d_model))
            layer.ffn.linear_0.weight, layer.ffn.linear_1.weight = wi.T.copy(), wo.T.copy()
    spec.decoder.projection.weight = weight("softmax/kernel", (c.d_model, c.vocabulary)).T.copy()
    tokens = [str(i) for i in range(c.vocabulary)]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    begin, spec.config.eos_token, spec.config.unk_token = tokens[:3]
    spec.config.bos_token = spec.config.decoder_start_token = begin
    spec.config.layer_norm_epsilon = 1e-6
    spec.validate()
    spec.optimize(quantization="float32")
    return spec


def _set_attention(spec: Any, path: str, c: DecodeConfig, products: list[tuple[str, ...]]) -> None:
    """Sets norm, projections and output; `products`: names of projections that are one matrix."""
    shape = (c.d_model, c.num_heads, c.d_kv)

    def matrix(name: str) -> np.ndarray:
        return weight(f"{path}/layer/attention/{name}", shape).reshape([c.d_model, -1]).T

    spec.layer_norm.gamma = np.ones([c.d_model], np.float32)
    spec.queries_scale = np.float32(1.0)  # the scale is in the weights
    for linear, names in zip(spec.linear, products, strict=False):
        linear.weight = np.concatenate([matrix(name) for name in names], 0)
    output = weight(f"{path}/layer/attention/output", (c.num_heads, c.d_kv, c.d_model))
    spec.linear[-1].weight = output.reshape([-1, c.d_model]).T.copy()


def setup(arguments: argparse.Namespace) -> Step:
    config = sizes(arguments)
    with tempfile.TemporaryDirectory() as folder:
        specification(config).save(folder)
        translator = ctranslate2.Translator(
            folder,
            compute_type=arguments.compute_type,
            inter_threads=arguments.parts,
            intra_threads=len(os.sched_getaffinity(0)) // arguments.parts,
        )
    texts = [[str(id_) for id_ in row] for row in prompts(config, config.inputs_length)]

    def step() -> float:
        results = translator.translate_batch(
            texts,
            beam_size=arguments.beam,
            length_penalty=ALPHA,
            # The end is never chosen.
            min_decoding_length=config.targets_length,
            max_decoding_length=config.targets_length,
            max_batch_size=config.batch // arguments.parts,
        )
        return float(sum(int(token) for result in results for token in result.hypotheses[0]))

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_sizes(parser)
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--compute_type", default="float32")
    parser.add_argument("--parts", type=int, default=1, help="of the batch, decoded concurrently")
    serve(setup, parser)
