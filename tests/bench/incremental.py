"""`bin/bench incremental`: a step of decoding with a cache against the whole forward pass.

At each number of positions a language model of the quickstart's size decodes the last ones, with
the keys and values of the positions before in its cache; without a cache it would compute all
positions for every id. The logits of both are compared. A repeat measures both, one after the
other; a step is the mean of 63.

Writes the results for `mtfrun table`, and prints them as JSON lines.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable

import numpy as np

from tests.bench.without_keras import tf

# isort: split
from mtfrun import decoding, mtf
from mtfrun.extras.sweeps.result import RunResult
from mtfrun.models.transformer import DecoderOnly
from tests.bench.decode import NO_END
from tests.bench.mtfrun_lm import language_model
from tests.bench.results import make_result, write_results
from tests.bench.train import Sizes

QUESTION = "How much does a cache of keys and values save in decoding, by the number of positions?"
LENGTHS = (64, 256, 1024, 4096)
SIZES = Sizes(d_model=128, d_ff=512, num_layers=3, num_heads=4, vocabulary=384)
BATCH = 8
# Positions that are decoded; the difference of a decode of all and of one of them is the steps'.
DECODED = 64
# Calls of a repeat, of which the median counts.
CALLS = 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench incremental", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--output", type=pathlib.Path, help="a new file of results, .jsonl")
    options = parser.parse_args()
    results = []
    for length in options.lengths:
        measure = _subject(length)
        results += [measure(repeat) for repeat in range(options.repeats)]
        for result in results[-options.repeats :]:
            print(json.dumps({"row": result.row, **result.metrics}), flush=True)
    if options.output is not None:
        write_results(options.output, QUESTION, results, "times_as_fast")


def _subject(length: int) -> Callable[[int], RunResult]:
    """Returns a function of a repeat to its result, compiled."""
    mesh = mtf.Mesh()
    model = language_model(mesh, SIZES, length)
    mtf.initialize(model, seed=0)
    shape = mtf.Shape([("batch", BATCH), ("length", length)])
    row_ids = np.random.default_rng(0).integers(
        2, SIZES.vocabulary, size=[BATCH, length], dtype=np.int32
    )
    ids = mtf.import_tf_tensor(mesh, row_ids, shape)
    search, batch = decoding.Search(), shape.dims[0]

    def decode(prompts: mtf.Tensor) -> mtf.Tensor:
        hypotheses = search(
            functools.partial(model.decoder, {"targets": prompts}),
            prompts,
            mtf.Dimension("vocab", SIZES.vocabulary),
            lines=mtf.range(mesh, batch),
            rules=search.controls.rules(NO_END),
        )
        return hypotheses.ids

    whole = mtf.function(lambda ids: model.logits({"targets": ids}), jit_compile=True)
    decoded = mtf.function(decode, jit_compile=True)
    known = {number: np.arange(length) < length - number for number in (1, DECODED)}
    prompts = {
        number: mtf.import_tf_tensor(mesh, np.where(is_known, row_ids, 0), shape)
        for number, is_known in known.items()
    }
    difference = _largest_difference(model, ids, mtf.to_numpy(whole(ids)))

    def decode_whole(known: mtf.Tensor) -> object:
        return mtf.to_numpy(decoded(known))

    def measure(repeat: int) -> RunResult:
        forward = _median_secs(lambda: mtf.to_numpy(whole(ids)))
        one, many = (
            _median_secs(functools.partial(decode_whole, known)) for known in prompts.values()
        )
        step = (many - one) / (DECODED - 1)
        metrics = {
            "times_as_fast": round(forward / step, 2),
            "tokens_per_second": round(BATCH / step),
            "milliseconds_of_step": round(1e3 * step, 3),
            "milliseconds_of_forward_pass": round(1e3 * forward, 3),
            "largest_difference": difference,
        }
        return make_result(f"{length:,} positions", repeat, metrics)

    measure(0)  # compiles
    return measure


def _largest_difference(model: DecoderOnly, ids: mtf.Tensor, whole: np.ndarray) -> float:
    """Returns that of the last logits of a step and of the forward pass, to the largest logit."""
    mesh, (batch, length) = ids.mesh, ids.shape.dims
    sizes = mtf.import_tf_tensor(mesh, np.full([BATCH], length.size - 1, np.int32), [batch])
    row_ids = mtf.to_numpy(ids)
    before = mtf.import_tf_tensor(mesh, row_ids[:, -2], [batch])
    position = mtf.constant(mesh, length.size - 1, dtype=tf.int32)

    def last_logits() -> mtf.Tensor:
        at_once = model.decoder({"targets": ids}).at_once
        assert at_once is not None
        decoder = at_once(length.size - 1, sizes)
        return decoder.step(before, position, decoder.initial_state)[0]

    last = mtf.to_numpy(mtf.function(last_logits)())
    return float(np.max(np.abs(last - whole[:, -1])) / np.max(np.abs(whole[:, -1])))


def _median_secs(call: Callable[[], object]) -> float:
    times = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    main()
