from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.data.prompts import bucket
from mtfrun.experiment import Experiment
from mtfrun.models import TextModel
from mtfrun.tools.conversion.saved_model.batches_graph import in_batches
from mtfrun.tools.conversion.saved_model.export import Signature

# The most logits that a batch may have: rows are as many as fit.
_LARGEST = 1 << 26


class LogitsGraph:
    """Logits of `rows` at a time, padded to one of a few lengths where the model allows it."""

    def __init__(
        self, experiment: Experiment, model: TextModel, names: Collection[str], rows: int
    ) -> None:
        self.names = list(names)
        self._mesh, self._model = experiment.mesh, model
        shapes = experiment.data.shapes(1)
        self.longest = {
            name: shapes.get(name, shapes["targets"]).get_dim_by_name("length").size
            for name in self.names
        }
        longest = max(self.longest.values())
        lengths = {bucket(number, longest) for number in range(1, longest + 1)}
        self._lengths = sorted(
            length for length in lengths if length == longest or model.allows_padding(length)
        )
        self._rows = max(1, min(rows, _LARGEST // (longest * model.vocab.size)))
        self._program = mtf.function(model.logits)

    def signature(self, about: str) -> Signature:
        def logits(*features: tf.Tensor) -> Mapping[str, tf.Tensor]:
            return {"logits": self(dict(zip(self.names, features, strict=True)))}

        inputs = [tf.TensorSpec([None, None], tf.int32, name) for name in self.names]
        return Signature(inputs, logits, about)

    def __call__(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns float32 [batch, length of targets, vocab], without padding of the vocabulary.

        Traced once for all sizes of features, int32 [batch, length], padded with 0.
        """
        checks = []
        for name, ids in features.items():
            longest, size = self.longest[name], self._model.vocab.size
            checks += [
                tf.debugging.assert_less_equal(
                    tf.shape(ids)[1], longest, f"{name} must have at most {longest} columns"
                ),
                tf.debugging.assert_less(
                    tf.abs(ids), size, f"{name} must be ids below {size}, the vocabulary's size"
                ),
            ]
        with tf.control_dependencies(checks):
            features = {name: tf.identity(ids) for name, ids in features.items()}
        number = tf.constant(0)
        for length in self._lengths[:-1]:
            for name, ids in features.items():
                fits = tf.shape(ids)[1] <= min(length, self.longest[name])
                number = tf.where(fits, number, self._lengths.index(length) + 1)
        branches = [
            lambda length=length: self._pad_to(length, features) for length in self._lengths
        ]
        logits = branches[0]() if len(branches) == 1 else tf.switch_case(number, branches)
        name = "targets" if "targets" in features else self.names[0]
        return logits[:, : tf.shape(features[name])[1], : self._model.num_classes]

    def _pad_to(self, length: int, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        lengths = {name: min(length, self.longest[name]) for name in self.names}
        inputs = []
        for name, ids in features.items():
            padding = [[0, 0], [0, tf.maximum(0, lengths[name] - tf.shape(ids)[1])]]
            ids = tf.pad(ids, padding, constant_values=0)[:, : lengths[name]]
            inputs.append(tf.ensure_shape(ids, [None, lengths[name]]))
        name = "targets" if "targets" in features else self.names[0]
        output = tf.TensorSpec([self._rows, lengths[name], self._model.vocab.size], tf.float32)
        (logits,) = in_batches(self._batch, self._rows, inputs, [output])
        return logits

    def _batch(self, *inputs: tf.Tensor) -> Sequence[tf.Tensor]:
        features = {}
        for name, ids in zip(self.names, inputs, strict=True):
            dims = [mtf.Dimension("batch", self._rows), mtf.Dimension("length", ids.shape[1])]
            ids = tf.ensure_shape(ids, [dim.size for dim in dims])
            features[name] = mtf.import_tf_tensor(self._mesh, ids, dims)
        logits = self._program(features)
        batch, length = (logits.shape.get_dim_by_name(name) for name in ("batch", "length"))
        return [mtf.transpose(logits, [batch, length, self._model.vocab]).value]


def logits_signatures(experiment: Experiment, model: TextModel, rows: int) -> dict[str, Signature]:
    return {
        "logits" if "targets" in names else "next_logits": LogitsGraph(
            experiment, model, names, rows
        ).signature(
            "ids to the logits of every target, from the targets before it"
            if "targets" in names
            else "ids to the logits of the id after each"
        )
        for names in model.logits_features
    }
