"""A shared batch for the model of an experiment."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mtfrun import decoding, mtf
from mtfrun.data import TARGETS
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.records import require
from mtfrun.models import TextModel

_REMEDY = "decode with a model of text"


def make_shared_batch(
    experiment: Experiment, size: int, places: Sequence[int], end_id: int
) -> decoding.SharedBatch | None:
    """Returns a batch for rows of at most `size` ids; None if they must be at one position.

    These are rows of encoder-decoders, prefix language models, models with learned prompts, and of
    layers that read positions one after the other. `places`: see `SharedBatch`; on several devices
    only the last number counts.
    """
    model = require(experiment.model, TextModel, "a shared batch", _REMEDY)
    if not model.shares_beginnings:
        return None
    length = mtf.Dimension("length", size)

    def decoder_for(batch: mtf.Dimension) -> decoding.Decoder:
        targets = mtf.zeros(experiment.mesh, [batch, length], tf.int32)
        in_blocks = model.decoder({TARGETS: targets}).in_blocks
        assert in_blocks is not None
        return in_blocks()

    rows = [experiment.rows_for(n) for n in places]
    return decoding.SharedBatch(
        decoder_for,
        model.vocab,
        model.named_variables(),
        length=size,
        places=rows[-1:] if experiment.mesh.is_distributed else rows,
        first_position=int(not model.predicts_first_id),
        end_id=end_id,
    )
