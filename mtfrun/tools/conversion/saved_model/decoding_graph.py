"""Decoding as operations of TensorFlow: rows of any number and length to hypotheses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import TARGETS
from mtfrun.decoding import EMPTY_BELOW
from mtfrun.experiment import Decoding, DecodingShape


class Outputs(NamedTuple):
    """The outputs for prompts {batch}, best first; `num_outputs` places for each.

    Attributes:
      ids: int32 [batch, num_outputs, longest_output], before the end id; padding behind them.
      lengths: int32 [batch, num_outputs], the number of positions before the end or the limit.
      scores: float32 [batch, num_outputs].
      tokens: int32 [batch, num_outputs], the number of tokens, without padding.
      finished: bool [batch, num_outputs], whether the end was reached.
      count: int32 [batch], the number of outputs; the places behind them are empty.
      read: int32 [batch], the ids of the prompt that were read.
      truncated: int32 [batch], those that were cut off.
    """

    ids: tf.Tensor
    lengths: tf.Tensor
    scores: tf.Tensor
    tokens: tf.Tensor
    finished: tf.Tensor
    count: tf.Tensor
    read: tf.Tensor
    truncated: tf.Tensor


class Rows(NamedTuple):
    """Rows made of prompts.

    Attributes:
      ids: int32 [batch, width], padded.
      lengths: int32 [batch].
      prefix, limit, program: int32 [batch], see `RowTable`.
    """

    ids: tf.Tensor
    lengths: tf.Tensor
    prefix: tf.Tensor
    limit: tf.Tensor
    program: tf.Tensor


class _Found(NamedTuple):
    """The hypotheses of all rows.

    Attributes:
      ids: int32 [batch, beam, longest].
      scores: float32 [batch, beam].
      finished: bool [batch, beam].
    """

    ids: tf.Tensor
    scores: tf.Tensor
    finished: tf.Tensor


class RowTable(NamedTuple):
    """Rows by the number of ids of their prompt that are kept, 0 to the largest number.

    Attributes:
      shapes: of the programs, in the order in which they run.
      program: int32 [numbers], the index in `shapes` of the program that decodes a row.
      prefix: int32 [numbers], the ids at the beginning of an output that are the prompt's.
      limit: int32 [numbers], the largest number of ids of an output, the prefix included.
    """

    shapes: Sequence[DecodingShape]
    program: np.ndarray
    prefix: np.ndarray
    limit: np.ndarray

    @property
    def longest(self) -> int:
        """The largest number of ids that a program returns, prefix included."""
        return max(dict(shape.lengths)["targets"] for shape in self.shapes)

    @property
    def longest_output(self) -> int:
        """The largest number of ids of an output, behind the prefix."""
        return int((self.limit - self.prefix).max())


def row_table(decoding: Decoding) -> RowTable:
    """Returns the table of a decoding; nothing of a row depends on more than its number of ids."""
    prompt_format = decoding.prompt_format
    numbers = range(prompt_format.longest + 1)
    rows = [prompt_format.row_of(np.zeros([number], np.int32)) for number in numbers]
    shape_of_row = [decoding.shape_of(row) for row in rows]
    shapes = sorted(set(shape_of_row))
    return RowTable(
        shapes,
        np.array([shapes.index(shape) for shape in shape_of_row], np.int32),
        np.array([row.prefix for row in rows], np.int32),
        np.array([row.limit for row in rows], np.int32),
    )


class DecodingGraph:
    """Decodes as the inference does, with its programs and in its batches, bit for bit.

    Args:
      decoding: on one device, restored.

    Attributes:
      table: what happens to rows.
      num_ids: the size of the vocabulary of prompts.
    """

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self.num_ids = decoding.prompt_format.prompt_vocabulary.size
        self._prompt_format = decoding.prompt_format
        self.table: RowTable = row_table(decoding)
        self._pad_id = decoding.prompt_format.output_vocabulary.pad_id
        self._end_id = decoding.prompt_format.output_vocabulary.end_id

    def __call__(self, ids: tf.Tensor, lengths: tf.Tensor) -> Outputs:
        """Returns the outputs for prompts; traced once for all numbers and lengths.

        Args:
          ids: int32 [batch, length], without an end, padded on the right with anything.
          lengths: int32 [batch], the ids of each prompt.
        """
        rows = self.rows(ids, lengths)
        if not self._decoding.predicts_first_id:
            check = tf.debugging.assert_positive(
                rows.prefix, "a prompt is empty, and the model does not predict a first token"
            )
            with tf.control_dependencies([check]):
                rows = Rows(*map(tf.identity, rows))
        found = self._decoded(rows)
        read = tf.minimum(lengths, self._prompt_format.longest)
        return self._outputs(found, rows, read, lengths - read)

    def rows(self, ids: tf.Tensor, lengths: tf.Tensor) -> Rows:
        """Returns the rows of prompts, cut off as `PromptFormat.row_of` does it."""
        prompts = self._prompt_format
        kept = tf.minimum(lengths, prompts.longest)
        width = prompts.longest + len(prompts.after)
        positions = tf.range(width)
        first = lengths - kept if prompts.from_end else tf.zeros_like(lengths)
        # A column more, so that there is something to gather where all prompts are empty.
        ids = tf.pad(ids, [[0, 0], [0, 1]])
        source = tf.minimum(first[:, None] + positions, tf.shape(ids)[1] - 1)
        row_ids = tf.gather(ids, source, batch_dims=1)
        row_ids = tf.where(positions < kept[:, None], row_ids, prompts.padding)
        for i, number in enumerate(prompts.after):
            row_ids = tf.where(positions == kept[:, None] + i, number, row_ids)
        return Rows(
            row_ids,
            kept + len(prompts.after),
            *(
                tf.gather(tf.constant(column), kept)
                for column in (self.table.prefix, self.table.limit, self.table.program)
            ),
        )

    def _decoded(self, rows: Rows) -> _Found:
        """Returns the hypotheses, program by program, in the batches of `Decoding`."""
        # Rows of a program follow each other, those of the shortest prefix first.
        key = rows.program * (int(self.table.prefix.max()) + 1) + rows.prefix
        order = tf.argsort(key, stable=True)
        number, beam = tf.shape(rows.ids)[0], self._decoding.search.beam_size
        found = _Found(
            tf.zeros([number, beam, self.table.longest], tf.int32),
            tf.zeros([number, beam]),
            tf.zeros([number, beam], tf.bool),
        )
        for index, shape in enumerate(self.table.shapes):
            lines = tf.boolean_mask(order, tf.gather(rows.program, order) == index)
            found = self._decoded_by(shape, rows, lines, found)
        return found

    def _decoded_by(
        self, shape: DecodingShape, rows: Rows, lines: tf.Tensor, found: _Found
    ) -> _Found:
        """Returns the hypotheses so far and those of the rows of one program, `lines`."""
        size, number = self._decoding.rows, tf.size(lines)

        def decode_batch(start: tf.Tensor, found: _Found) -> tuple[tf.Tensor, _Found]:
            some = lines[start : start + size]
            hypotheses = self._batch(shape, rows, some)
            return start + size, _Found(
                *(
                    tf.tensor_scatter_nd_update(old, some[:, None], new[: tf.size(some)])
                    for old, new in zip(found, hypotheses, strict=True)
                )
            )

        _, found = tf.while_loop(
            lambda start, _: start < number,
            decode_batch,
            [tf.constant(0), found],
            parallel_iterations=1,
        )
        return found

    def _batch(self, shape: DecodingShape, rows: Rows, lines: tf.Tensor) -> _Found:
        """Returns the hypotheses of a full batch, of which the first rows are `lines`."""
        size, mesh = self._decoding.rows, self._decoding.experiment.mesh
        batch = mtf.Dimension("batch", size)

        def tensor(x: tf.Tensor, *dims: mtf.Dimension) -> mtf.Tensor:
            shape = mtf.Shape([batch, *dims])
            return mtf.import_tf_tensor(mesh, tf.ensure_shape(x, shape.to_integer_list), shape)

        def filled(x: tf.Tensor) -> tf.Tensor:
            """Returns values of the lines, and 0 for rows of padding."""
            return tf.pad(x, [[0, size - tf.size(lines)]])

        features = {
            name: tensor(x, mtf.Dimension("length", x.shape[1]))
            for name, x in self._features(shape, rows, lines).items()
        }
        hypotheses = self._decoding.program(shape)(
            features, tensor(filled(lines)), tensor(filled(tf.gather(rows.limit, lines)))
        )
        ids, scores, finished = (x.value for x in hypotheses)
        # Rows of padding may have any scores.
        is_row = (tf.range(size) < tf.size(lines))[:, None]
        scores = tf.debugging.check_numerics(
            tf.where(is_row, scores, 0.0), "scores of outputs are infinite or not a number"
        )
        missing = self.table.longest - ids.shape[-1]
        return _Found(tf.pad(ids, [[0, 0], [0, 0], [0, missing]]), scores, finished)

    def _features(self, shape: DecodingShape, rows: Rows, lines: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the features [rows, length] of a batch, as `PromptFormat.features` does."""
        size, lengths = self._decoding.rows, dict(shape.lengths)
        padding = self._decoding.prompt_format.features([], size, lengths)
        prompts = self._prompt_format
        ids = tf.gather(rows.ids, lines)
        width, length = ids.shape[1], lengths[prompts.feature]
        ids = ids[:, : min(width, length)]
        missing = [[0, size - tf.size(lines)], [0, length - min(width, length)]]
        ids = tf.pad(ids, missing, constant_values=prompts.padding)
        count = tf.pad(tf.gather(rows.lengths, lines), missing[:1])
        features = {name: tf.constant(array) for name, array in padding.items()}
        ids = tf.where(count[:, None] > 0, ids, features[prompts.feature])
        features[prompts.feature] = ids
        if prompts.mask is not None:
            features[TARGETS] = tf.where(ids == prompts.mask, 0, ids)
        return features

    def _outputs(self, found: _Found, rows: Rows, read: tf.Tensor, truncated: tf.Tensor) -> Outputs:
        """Returns the best hypotheses of every row, without prefix and end."""
        number = self._decoding.num_outputs
        filled = found.scores > EMPTY_BELOW  # as `decoding.n_best`
        best = tf.argsort(tf.cast(~filled, tf.int32), stable=True)[:, :number]
        is_output, scores, finished, ids = (
            tf.gather(x, best, batch_dims=1)
            for x in (filled, found.scores, found.finished, found.ids)
        )
        positions = tf.range(self.table.longest_output)
        source = tf.minimum(rows.prefix[:, None] + positions, self.table.longest - 1)
        source = tf.tile(source[:, None], [1, number, 1])
        ids = tf.gather(ids, source, batch_dims=2)
        limits = tf.where(is_output, (rows.limit - rows.prefix)[:, None], 0)
        ends = (ids == self._end_id) & (positions < limits[:, :, None])
        first_end = tf.reduce_min(tf.where(ends, positions, np.iinfo(np.int32).max), axis=-1)
        lengths = tf.minimum(first_end, limits)
        ids = tf.where(positions < lengths[:, :, None], ids, self._pad_id)
        has_end = tf.reduce_any(ends, axis=-1)
        not_padding = tf.reduce_sum(tf.cast(ids != self._pad_id, tf.int32), axis=-1)
        return Outputs(
            ids=ids,
            lengths=lengths,
            scores=scores,
            tokens=tf.where(has_end, lengths, not_padding),
            finished=finished & is_output,
            count=tf.reduce_sum(tf.cast(is_output, tf.int32), axis=-1),
            read=read,
            truncated=truncated,
        )
