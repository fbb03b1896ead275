"""Packing of texts into rows of a fixed length.

Documents, for language models: the documents of a split, each closed by the end id, form one stream
of tokens, which is cut every `length` tokens. Only the last row is padded. A document that exceeds
the end of a row continues in the next row as that row's first segment, with positions from 0, and
does not attend to its beginning. Every token is in exactly one row.

Pairs of texts are not divided: each is put into the first row with enough free space.
"""

from __future__ import annotations

import tensorflow as tf

from mtfrun.data.vocabularies import Vocabulary

# Documents that one call tokenises: enough to amortise tf.data's cost per element over documents of
# one line, few enough to bound the memory that long ones need.
DOCUMENTS_PER_CALL = 32


def pack(documents: tf.data.Dataset, vocabulary: Vocabulary, length: int) -> tf.data.Dataset:
    """Returns the rows, int32 [length], of `documents`, string scalars; skips empty documents.

    Uses tf.data's own stateful transformations only, no Python generator, so that its position can
    be saved.
    """

    def tokens(batch: tf.Tensor) -> tf.Tensor:
        ids = vocabulary.encode_documents(tf.boolean_mask(batch, tf.strings.length(batch) > 0))
        ends = tf.fill([ids.nrows(), 1], vocabulary.end_id)
        return tf.concat([ids, ends], axis=1).flat_values

    def padded(row: tf.Tensor) -> tf.Tensor:
        row = tf.pad(row, [[0, length - tf.size(row)]], constant_values=vocabulary.pad_id)
        return tf.ensure_shape(row, [length])

    return documents.batch(DOCUMENTS_PER_CALL).map(tokens).rebatch(length).map(padded)


def first_fit(texts: tf.RaggedTensor, length: int) -> tf.RaggedTensor:
    """Returns the ids [rows, (at most length)] of undivided texts [texts, (at most length)].

    Each text is put, in order, into the first row with enough free space (Johnson et al. 1974,
    https://doi.org/10.1137/0203025: at most 1.7 times the optimal number of rows).

    >>> texts = tf.ragged.constant([[5, 5, 1], [6, 6, 6, 1], [7, 1], [8, 1]], dtype=tf.int32)
    >>> first_fit(texts, 5).to_list()
    [[5, 5, 1, 7, 1], [6, 6, 6, 1], [8, 1]]
    """
    sizes = tf.cast(texts.row_lengths(), tf.int32)
    max_rows = tf.size(sizes)

    def put(state: tuple[tf.Tensor, tf.Tensor], size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        free, _ = state
        row = tf.argmax(tf.cast(free >= size, tf.int32), output_type=tf.int32)
        return free - size * tf.one_hot(row, max_rows, dtype=tf.int32), row

    _, row_of_text = tf.scan(put, sizes, (tf.fill([max_rows], length), 0))
    in_rows = tf.gather(texts, tf.argsort(row_of_text, stable=True))
    row_sizes = tf.math.segment_sum(in_rows.row_lengths(), tf.sort(row_of_text))
    return tf.RaggedTensor.from_row_lengths(in_rows.flat_values, row_sizes, validate=False)


def segmentation_and_position(
    targets: tf.Tensor, *, pad_id: int, end_id: int, ends_of_segment: int = 1
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns segment ids and positions of packed rows; all three int32 [batch, length].

    Segments count from 1 in each row and end with the `ends_of_segment`-th end id, that is the
    second one for pairs of texts; positions count from 0 in each segment; both are 0 for padding.
    `pack` ends every segment with the end id or with the row, `first_fit` with the end id. Hence
    both can be computed from the targets, and a shuffle buffer (with its checkpoint) holds the
    targets only.

    >>> s, p = segmentation_and_position(tf.constant([[7, 1, 8, 9, 1, 0]]), pad_id=0, end_id=1)
    >>> s.numpy().tolist(), p.numpy().tolist()
    ([[1, 1, 2, 2, 2, 0]], [[0, 1, 0, 1, 2, 0]])
    """
    present = tf.cast(targets != pad_id, tf.int32)
    ends_before = tf.cumsum(tf.cast(targets == end_id, tf.int32), axis=1, exclusive=True)
    segments_before = ends_before // ends_of_segment
    batch, length = tf.unstack(tf.shape(targets))
    columns = tf.broadcast_to(tf.range(length), [batch, length])
    # A segment's first column is the minimum of its columns: TensorFlow has no cumulative maximum.
    segment = tf.range(batch)[:, tf.newaxis] * length + segments_before
    first_column = tf.math.unsorted_segment_min(columns, segment, batch * length)
    position = columns - tf.gather(first_column, segment)
    return (segments_before + 1) * present, position * present
