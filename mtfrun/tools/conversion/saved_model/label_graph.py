"""Classification of texts as operations of TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mtfrun.data import INPUTS, TARGETS
from mtfrun.tools.conversion.saved_model.decoding_graph import DecodingGraph
from mtfrun.tools.conversion.saved_model.id_inputs import ID_INPUTS, checked
from mtfrun.tools.conversion.saved_model.logits_graph import LogitsGraph
from mtfrun.tools.conversion.saved_model.signatures import Signature
from mtfrun.tools.conversion.saved_model.texts_graph import Encoder


class LabelGraph:
    """Gives every label of a text its probability, that of its id where the text begins.

    Args:
      decoding: makes rows of prompts.
      logits: of inputs and targets.
      labels: the ids of the labels.
    """

    def __init__(
        self, decoding: DecodingGraph, logits: LogitsGraph, labels: Mapping[str, int]
    ) -> None:
        self._decoding, self._logits, self._labels = decoding, logits, labels

    def of_ids(self) -> Signature:
        """Returns the signature of texts that are ids, without an end."""

        def classify_ids(ids: tf.Tensor, lengths: tf.Tensor) -> Mapping[str, tf.Tensor]:
            return self._classified(*checked(ids, lengths, self._decoding.num_ids))

        return Signature(ID_INPUTS, classify_ids, "ids of texts, without an end, to labels")

    def of_texts(self, encoder: Encoder) -> Signature:
        """Returns the signature of texts."""

        def classify(prompts: tf.Tensor) -> Mapping[str, tf.Tensor]:
            return self._classified(*encoder(prompts))

        inputs = [tf.TensorSpec([None], tf.string, "prompts")]
        return Signature(inputs, classify, "texts to all labels, the likeliest first")

    def _classified(self, ids: tf.Tensor, lengths: tf.Tensor) -> Mapping[str, tf.Tensor]:
        rows = self._decoding.rows(ids, lengths)
        inputs = rows.ids[:, : tf.reduce_max(rows.lengths)]
        logits = self._logits({INPUTS: inputs, TARGETS: tf.zeros_like(inputs)})
        logits = tf.debugging.check_numerics(
            logits[:, 0], "logits of labels are infinite or not a number"
        )
        probabilities = tf.gather(tf.nn.softmax(logits), list(self._labels.values()), axis=1)
        best, number = tf.math.top_k(probabilities, len(self._labels))
        labels = tf.gather(tf.constant([label.encode() for label in self._labels]), number)
        return {
            "label": labels[:, 0],
            "probability": best[:, 0],
            "labels": labels,
            "probabilities": best,
        }
