"""The subject: a language model of mtfrun that continues prompts."""

from __future__ import annotations

import argparse
import functools

import numpy as np

from mtfrun import decoding, mtf
from tests.bench.decode import CONFIGS, NO_END, prompts
from tests.bench.mtfrun_decode import set_weights
from tests.bench.mtfrun_lm import LAYOUT, language_model
from tests.bench.worker import Step, serve


def setup(arguments: argparse.Namespace) -> Step:
    config = CONFIGS[arguments.config]
    length = arguments.prompt + config.targets_length
    mesh = mtf.Mesh(arguments.mesh, LAYOUT)
    model = language_model(mesh, config, length)
    set_weights(model, mesh)
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
    serve(setup, parser)
