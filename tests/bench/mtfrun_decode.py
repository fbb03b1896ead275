"""The subject: decoding in mtfrun, with the functions that `mtfrun decode` calls."""

from __future__ import annotations

import argparse
import functools

import numpy as np

from tests.bench.without_keras import tf

# isort: split
from mtfrun import decoding, mtf
from mtfrun.experiment.inference.decoding_batches import concurrent_map
from mtfrun.models.transformer import (
    AttentionHeads,
    EncoderDecoder,
    EncoderDecoderAttention,
    FeedForward,
    SelfAttention,
    Stack,
    TokenEmbedding,
)
from tests.bench.decode import ALPHA, NO_END, DecodeConfig, add_sizes, prompts, sizes, weight
from tests.bench.worker import Step, serve

LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"


def encoder_decoder(mesh: mtf.Mesh, config: DecodeConfig, activation: str) -> EncoderDecoder:
    heads = AttentionHeads(config.num_heads, d_kv=config.d_kv)
    attention = functools.partial(SelfAttention, heads=heads)
    to_encoder = functools.partial(EncoderDecoderAttention, heads=heads)
    feed_forward = functools.partial(FeedForward, d_ff=config.d_ff)
    stack = functools.partial(Stack, num_layers=config.num_layers)
    max_length = max(config.inputs_length, config.targets_length)
    model = EncoderDecoder(
        mesh,
        config.vocabulary,
        encoder=functools.partial(stack, layers=[attention, feed_forward]),
        decoder=functools.partial(stack, layers=[attention, to_encoder, feed_forward]),
        embedding=TokenEmbedding(config.d_model, max_length, tied_softmax=False),
        dtypes=mtf.DTypePolicy(activation=activation),
    )
    set_weights(model, mesh)
    return model


def set_weights(model: mtf.Module, mesh: mtf.Mesh) -> None:
    mtf.initialize(model, seed=0)
    for path, variable in model.named_variables().items():
        value = weight(path, tuple(variable.shape.to_integer_list))
        mtf.assign(variable, mtf.import_tf_tensor(mesh, value, variable.shape))


def setup(arguments: argparse.Namespace) -> Step:
    config = sizes(arguments)
    mesh = mtf.Mesh(arguments.mesh, LAYOUT)
    model = encoder_decoder(mesh, config, arguments.activation)
    search = decoding.Search(beam_size=arguments.beam, alpha=ALPHA)
    batch = mtf.Dimension("batch", config.batch // arguments.parts)
    length = mtf.Dimension("length", config.targets_length)

    def run(ids: mtf.Tensor) -> mtf.Tensor:
        prompts = mtf.zeros(mesh, [batch, length], tf.int32)
        hypotheses = search(
            functools.partial(model.decoder, {"inputs": ids, "targets": prompts}),
            prompts,
            mtf.Dimension("vocab", config.vocabulary),
            lines=mtf.range(mesh, batch),
            rules=search.controls.rules(NO_END),
        )
        return hypotheses.ids

    program = mtf.function(run, jit_compile=not mesh.is_distributed)
    shape = [batch, ("length", config.inputs_length)]
    parts = [
        mtf.import_tf_tensor(mesh, ids, shape)
        for ids in np.split(prompts(config, config.inputs_length), arguments.parts)
    ]

    def step() -> float:
        with concurrent_map(arguments.parts) as map_parts:
            decoded = map_parts(lambda ids: mtf.to_numpy(program(ids)), parts)
            return float(sum(np.sum(ids[:, 0]) for ids in decoded))

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_sizes(parser)
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--mesh", default="data:1,model:1")
    parser.add_argument("--activation", default="float32")
    parser.add_argument("--parts", type=int, default=1, help="of the batch, decoded concurrently")
    serve(setup, parser)
