"""The subject: causal self-attention with its gradients, at once or in blocks."""

from __future__ import annotations

import argparse

import numpy as np

from mtfrun import layers, mtf
from tests.bench.worker import Step, serve

WIDTH = mtf.Dimension("d_model", 512)
HEADS = layers.AttentionHeads(8, d_kv=64)
LAYOUT = "batch:data;length:sequence"


def setup(arguments: argparse.Namespace) -> Step:
    mesh = mtf.Mesh(arguments.mesh, LAYOUT)
    batch = mtf.Dimension("batch", arguments.batch)
    length = mtf.Dimension("length", arguments.length)
    attention = layers.MultiHeadAttention(
        mesh, WIDTH, heads=HEADS, block_length=arguments.block or None
    )
    mtf.initialize(attention, seed=0)
    variables = attention.named_variables()
    shape = mtf.Shape([batch, length, WIDTH])
    rows = np.random.default_rng(0).standard_normal(shape.to_integer_list, np.float32)
    x = mtf.import_tf_tensor(mesh, rows, shape)

    def norms(x: mtf.Tensor) -> list[mtf.Tensor]:
        def loss() -> tuple[mtf.Tensor, None]:
            bias = layers.AttentionBias.of(layers.causal_mask(mesh, length))
            y = attention.over_sequences(x, x, bias, layers.Call())
            return mtf.reduce_sum(mtf.square(y)), None

        (total, _), gradients = mtf.value_and_gradients(loss, variables)
        sums = [mtf.reduce_sum(mtf.square(g)) for g in gradients.values() if g is not None]
        return [total, *sums]

    compiled = mtf.function(norms)
    return lambda: float(mtf.to_numpy(compiled(x))[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--block", type=int, default=0)
    parser.add_argument("--mesh", default="data:1,sequence:1")
    serve(setup, parser)
