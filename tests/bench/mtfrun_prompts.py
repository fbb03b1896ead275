"""The subject: a language model of mtfrun that continues prompts."""

import time

STARTED = time.time()

import argparse  # noqa: E402
import functools  # noqa: E402

import numpy as np  # noqa: E402

from mtfrun import decoding, mtf  # noqa: E402
from mtfrun.models.transformer import (  # noqa: E402
    AttentionHeads,
    DecoderOnly,
    FeedForward,
    SelfAttention,
    Stack,
    TokenEmbedding,
)
from tests.bench.decode_configs import CONFIGS, NO_END, DecodeConfig, prompts  # noqa: E402
from tests.bench.mtfrun_decode import set_weights  # noqa: E402
from tests.bench.worker import Step, serve  # noqa: E402

LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"


def language_model(mesh: mtf.Mesh, config: DecodeConfig, length: int) -> DecoderOnly:
    """Returns the model with the benchmark's weights."""
    attention = functools.partial(
        SelfAttention, heads=AttentionHeads(config.num_heads, d_kv=config.d_kv)
    )
    feed_forward = functools.partial(FeedForward, d_ff=config.d_ff)
    model = DecoderOnly(
        mesh,
        config.vocabulary,
        embedding=TokenEmbedding(config.d_model, length, tied_softmax=False),
        stack=functools.partial(
            Stack, num_layers=config.num_layers, layers=[attention, feed_forward]
        ),
    )
    set_weights(model, mesh)
    return model


def setup(arguments: argparse.Namespace) -> Step:
    """Returns a step, which continues the prompts and blocks until the ids are computed."""
    config = CONFIGS[arguments.config]
    length = arguments.prompt + config.targets_length
    mesh = mtf.Mesh(arguments.mesh, LAYOUT)
    model = language_model(mesh, config, length)
    search = decoding.Search(beam_size=arguments.beam)

    def run(ids: mtf.Tensor) -> mtf.Tensor:
        hypotheses = search(
            functools.partial(model.decoder, {"targets": ids}),
            ids,
            mtf.Dimension("vocab", config.vocabulary),
            lines=mtf.range(mesh, mtf.Dimension("batch", config.batch)),
            longest_prompt=0 if arguments.step_by_step else arguments.prompt,
            rules=search.controls.rules(NO_END),
        )
        return hypotheses.ids

    program = mtf.function(run, jit_compile=not mesh.is_distributed)
    ids = np.pad(prompts(config, arguments.prompt), [(0, 0), (0, config.targets_length)])
    prompt_ids = mtf.import_tf_tensor(mesh, ids, [("batch", config.batch), ("length", length)])
    return lambda: float(np.sum(mtf.to_numpy(program(prompt_ids))[:, 0]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="small", choices=CONFIGS)
    parser.add_argument("--prompt", type=int, default=192)
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--mesh", default="data:1,model:1")
    parser.add_argument("--step_by_step", action="store_true")
    parsed = parser.parse_args()
    serve(lambda: setup(parsed), STARTED)
