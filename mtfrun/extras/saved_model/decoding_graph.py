from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import TARGETS
from mtfrun.decoding import EMPTY_BELOW
from mtfrun.experiment import Decoding, DecodingShape
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.saved_model.export import in_batches


class DecodingGraph:
    """Decodes as the inference on one device does, with its programs and batches, bit for bit."""

    def __init__(self, decoding: Decoding) -> None:
        # Neither changes an output.
        self._decoding = decoding.with_settings({"draft": None, "log_probs": None})
        prompts = self._prompt_format = decoding.prompt_format
        self._pad_id = prompts.output_vocabulary.pad_id
        controls = decoding.search.controls
        if controls.stop or controls.constraints:
            raise ConversionError(
                "a SavedModel has neither stop texts nor constraints: export with "
                "--gin.Controls.stop=[] and --gin.Controls.constraints=[]"
            )
        self._end_ids = controls.ends(prompts.output_vocabulary.end_id)
        batches = self._batches = self._decoding.batches
        self.batch_size = batches.size
        # For every number of ids that are read of a prompt.
        rows = [prompts.row_of(np.zeros([n], np.int32)) for n in range(prompts.longest + 1)]
        shapes = [batches.shape_of(row) for row in rows]
        self._shapes = sorted(set(shapes))
        self._programs = np.array([self._shapes.index(shape) for shape in shapes], np.int32)
        self._prefixes = np.array([row.prefix for row in rows], np.int32)
        self._limits = np.array([row.limit for row in rows], np.int32)
        self._longest = max(dict(shape.lengths)[TARGETS] for shape in shapes)
        self.longest_output = int((self._limits - self._prefixes).max())

    def decode(self, ids: tf.Tensor, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the outputs of the signature "decode_ids", best first; traced once.

        ids: int32 [batch, length], without end ids, padded on the right.
        """
        row_ids, _ = self.rows(ids, lengths)
        read = tf.minimum(lengths, self._prompt_format.longest)
        prefixes, limits, programs = (
            tf.gather(tf.constant(table), read)
            for table in (self._prefixes, self._limits, self._programs)
        )
        if not self._decoding.model.predicts_first_id:
            check = tf.debugging.assert_positive(
                prefixes, "a prompt is empty, and the model does not predict a first token"
            )
            with tf.control_dependencies([check]):
                prefixes = tf.identity(prefixes)
        hypotheses = self._hypotheses(row_ids, prefixes, limits, programs)
        counts = {"prompt_tokens": read, "truncated_tokens": lengths - read}
        return {**self._outputs(hypotheses, prefixes, limits), **counts}

    def rows(self, ids: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns int32 [batch, width], padded, and [batch], the number of ids of each row.

        Prompts are cut off as `PromptFormat.row_of` does it.
        """
        ids, lengths = self._check(ids, lengths)
        prompts = self._prompt_format
        read = tf.minimum(lengths, prompts.longest)
        positions = tf.range(prompts.longest + len(prompts.after))
        first = lengths - read if prompts.from_end else tf.zeros_like(lengths)
        # A column more, so that there is something to gather where all prompts are empty.
        ids = tf.pad(ids, [[0, 0], [0, 1]])
        source = tf.minimum(first[:, None] + positions, tf.shape(ids)[1] - 1)
        row_ids = tf.gather(ids, source, batch_dims=1)
        row_ids = tf.where(positions < read[:, None], row_ids, prompts.padding)
        for i, number in enumerate(prompts.after):
            row_ids = tf.where(positions == read[:, None] + i, number, row_ids)
        return row_ids, read + len(prompts.after)

    def _check(self, ids: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        columns, size = tf.shape(ids)[1], self._prompt_format.prompt_vocabulary.size
        within = tf.where(tf.sequence_mask(lengths, columns), ids, 0)
        checks = [
            tf.debugging.assert_non_negative(lengths, "lengths must not be negative"),
            tf.debugging.assert_less_equal(
                lengths, columns, "lengths must be at most the number of columns of ids"
            ),
            tf.debugging.assert_less(
                within, size, f"ids must be below {size}, the vocabulary's size"
            ),
            tf.debugging.assert_non_negative(within, "ids must not be negative"),
        ]
        with tf.control_dependencies(checks):
            return tf.identity(ids), tf.identity(lengths)

    def _hypotheses(
        self, ids: tf.Tensor, prefixes: tf.Tensor, limits: tf.Tensor, programs: tf.Tensor
    ) -> list[tf.Tensor]:
        """Returns ids [batch, beam, longest], scores and finished [batch, beam] of all rows."""
        size, beam = self.batch_size, self._decoding.search.beam_size
        outputs = [
            tf.TensorSpec([size, beam, self._longest], tf.int32),
            tf.TensorSpec([size, beam], tf.float32),
            tf.TensorSpec([size, beam], tf.bool),
        ]
        # As in `DecodingBatches`: rows of a program follow each other, the shortest prefix first.
        key = programs * (int(self._prefixes.max()) + 1) + prefixes
        order = tf.argsort(key, stable=True)
        by_program = []
        for index, shape in enumerate(self._shapes):
            lines = tf.boolean_mask(order, tf.gather(programs, order) == index)
            inputs = [lines, tf.gather(ids, lines), tf.gather(limits, lines), tf.ones_like(lines)]
            decode = functools.partial(self._batch, shape)
            by_program.append(in_batches(decode, size, inputs, outputs))
        places = tf.argsort(order)
        return [tf.gather(tf.concat(xs, 0), places) for xs in zip(*by_program, strict=True)]

    def _batch(
        self,
        shape: DecodingShape,
        lines: tf.Tensor,
        ids: tf.Tensor,
        limits: tf.Tensor,
        is_row: tf.Tensor,
    ) -> list[tf.Tensor]:
        """Of a full batch; rows of padding have zeros in all arguments."""
        batch, is_row = mtf.Dimension("batch", self.batch_size), is_row[:, None] > 0

        def tensor(x: tf.Tensor, *dims: mtf.Dimension) -> mtf.Tensor:
            dims = (batch, *dims)
            x = tf.ensure_shape(x, [dim.size for dim in dims])
            return mtf.import_tf_tensor(self._decoding.experiment.mesh, x, dims)

        features = {
            name: tensor(x, mtf.Dimension("length", x.shape[1]))
            for name, x in self._features(shape, ids, is_row).items()
        }
        hypotheses = self._batches.program(shape)(features, tensor(lines), tensor(limits))
        ids, scores, finished = (x.value for x in hypotheses[:3])
        # Rows of padding may have any scores.
        scores = tf.debugging.check_numerics(
            tf.where(is_row, scores, 0.0), "scores of outputs are infinite or not a number"
        )
        missing = self._longest - ids.shape[-1]
        return [tf.pad(ids, [[0, 0], [0, 0], [0, missing]]), scores, finished]

    def _features(
        self, shape: DecodingShape, ids: tf.Tensor, is_row: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Returns the features [rows, length] of a batch, as `PromptFormat.features` does."""
        prompts, lengths = self._prompt_format, dict(shape.lengths)
        features = prompts.features([], self.batch_size, lengths)
        length = lengths[prompts.feature]
        missing = [[0, 0], [0, max(0, length - ids.shape[1])]]
        ids = tf.pad(ids[:, :length], missing, constant_values=prompts.padding)
        ids = features[prompts.feature] = tf.where(is_row, ids, features[prompts.feature])
        if prompts.mask is not None:
            features[TARGETS] = tf.where(ids == prompts.mask, 0, ids)
        return features

    def _outputs(
        self, hypotheses: Sequence[tf.Tensor], prefixes: tf.Tensor, limits: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        number = self._decoding.num_outputs
        ids, scores, finished = hypotheses
        filled = scores > EMPTY_BELOW  # as `decoding.n_best`
        best = tf.argsort(tf.cast(~filled, tf.int32), stable=True)[:, :number]
        is_output, scores, finished, ids = (
            tf.gather(x, best, batch_dims=1) for x in (filled, scores, finished, ids)
        )
        positions = tf.range(self.longest_output)
        source = tf.minimum(prefixes[:, None] + positions, self._longest - 1)
        source = tf.tile(source[:, None], [1, number, 1])
        ids = tf.gather(ids, source, batch_dims=2)
        limits = tf.where(is_output, (limits - prefixes)[:, None], 0)
        is_end = tf.reduce_any([ids == end_id for end_id in self._end_ids], axis=0)
        ends = is_end & (positions < limits[:, :, None])
        first_end = tf.reduce_min(tf.where(ends, positions, np.iinfo(np.int32).max), axis=-1)
        lengths = tf.minimum(first_end, limits)
        ids = tf.where(positions < lengths[:, :, None], ids, self._pad_id)
        finished &= is_output
        return {
            "ids": ids,
            "lengths": lengths,
            "tokens": lengths,
            "scores": scores,
            "outputs_finished": finished,
            "num_outputs": tf.reduce_sum(tf.cast(is_output, tf.int32), axis=-1),
            "output_tokens": lengths[:, 0],
            "finished": finished[:, 0],
        }
