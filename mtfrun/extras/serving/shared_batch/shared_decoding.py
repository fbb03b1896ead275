"""A shared batch for the model of an experiment."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import TARGETS
from mtfrun.decoding import Decoder
from mtfrun.experiment.experiment import Inference
from mtfrun.experiment.inference.decoding import Decoding
from mtfrun.extras.serving.shared_batch.shared_batch import SharedBatch


@functools.singledispatch
def shared_batch_of(inference: Inference, places: Sequence[int]) -> SharedBatch | None:
    """Returns a batch for rows of `prompt_format`, each with its `Search`; None for other models.

    All rows must be at one position in encoder-decoders, prefix language models, models with
    learned prompts, and in layers that read positions one after the other. `places`: see
    `SharedBatch`; on several devices only the last number counts.
    """
    del inference, places
    return None


@shared_batch_of.register
def _(decoding: Decoding, places: Sequence[int]) -> SharedBatch | None:
    experiment, model = decoding.experiment, decoding.model
    if not model.shares_beginnings:
        return None
    size = decoding.prompt_format.max_lengths[TARGETS]
    length = mtf.Dimension("length", size)

    def decoder_for(batch: mtf.Dimension) -> Decoder:
        targets = mtf.zeros(experiment.mesh, [batch, length], tf.int32)
        in_blocks = model.decoder({TARGETS: targets}).in_blocks
        assert in_blocks is not None
        return in_blocks()

    rows = [experiment.rows_for(n) for n in places]
    return SharedBatch(
        decoder_for,
        model.vocab,
        model.named_variables(),
        length=size,
        places=rows[-1:] if experiment.mesh.is_distributed else rows,
        first_position=int(not model.predicts_first_id),
        end_id=decoding.search.controls.ends(decoding.data.vocabulary.end_id)[0],
    )
