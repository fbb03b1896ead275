from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import INPUTS, TARGETS
from mtfrun.data.prompts import bucket
from mtfrun.experiment import Decoding, Experiment
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.saved_model.decoding_graph import DecodingGraph, Outputs
from mtfrun.extras.saved_model.export import Served, Signature, in_batches, signatures_of
from mtfrun.extras.saved_model.texts_graph import (
    Decoder,
    Encoder,
    converters_of,
    replace_invalid_utf8,
)
from mtfrun.models import TextModel

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
    choices = [set(names) for names in model.logits_features]
    return {
        "logits" if "targets" in names else "next_logits": LogitsGraph(
            experiment, model, names, rows
        ).signature(
            "ids to the logits of every target, from the targets before it"
            if "targets" in names
            else "ids to the logits of the id after each"
        )
        for names in model.logits_features
        # An encoder reads the targets only where somebody has them.
        if "targets" in names or {*names, "targets"} not in choices
    }


# Ids of prompts [batch, length], without an end, and the number of ids of each.
_ID_INPUTS = (
    tf.TensorSpec([None, None], tf.int32, "ids"),
    tf.TensorSpec([None], tf.int32, "lengths"),
)
_TEXT_INPUTS = [tf.TensorSpec([None], tf.string, "prompts")]


@signatures_of.register
def _(inference: Decoding, *, tensorflow_text: bool = False) -> Served:
    if inference.num_outputs > inference.search.beam_size:
        raise ConversionError(
            f"num_outputs={inference.num_outputs}: a SavedModel draws one sample of a prompt: "
            "leave it out, and ask as often as you want"
        )
    prompt_format = inference.prompt_format
    if not prompt_format.has_plain_rows:
        raise ConversionError(
            f"a SavedModel makes no rows of the prompts of {type(prompt_format).__name__}: choose "
            "--format=huggingface"
        )
    graph = DecodingGraph(inference)

    def decode_ids(ids: tf.Tensor, lengths: tf.Tensor) -> Mapping[str, tf.Tensor]:
        outputs = graph(*_checked_ids(ids, lengths, graph.num_ids))
        return {"ids": outputs.ids, "lengths": outputs.lengths, **_common_outputs(outputs)}

    by_ids = Signature(_ID_INPUTS, decode_ids, "ids of prompts, without an end, to ids of outputs")
    read, written = prompt_format.prompt_vocabulary, prompt_format.output_vocabulary
    encoder = converters_of(read, tensorflow_text=tensorflow_text).encoder
    _, decoder, labels = converters_of(
        written, continues=prompt_format.continues, tensorflow_text=tensorflow_text
    )
    signatures = {"decode": by_ids, "decode_ids": by_ids}
    if encoder is not None and decoder is not None:
        signatures["decode"] = _of_texts(graph, encoder, decoder)
    model = inference.model
    signatures |= logits_signatures(inference.experiment, model, graph.batch_size)
    if labels is not None:
        logits = LogitsGraph(inference.experiment, model, model.required_features, graph.batch_size)
        signatures |= _label_signatures(graph, logits, labels, encoder)
    settings = {
        "longest_prompt": prompt_format.longest,
        "longest_output": graph.longest_output,
        "num_outputs": inference.num_outputs,
        "end_id": written.end_id,
        "pad_id": written.pad_id,
    }
    converters = [converter for converter in (encoder, decoder) if isinstance(converter, tf.Module)]
    return Served(signatures, "decode", settings, [read, written], converters)


def _of_texts(graph: DecodingGraph, encoder: Encoder, decoder: Decoder) -> Signature:
    def decode(prompts: tf.Tensor) -> Mapping[str, tf.Tensor]:
        outputs = graph(*encoder(prompts))
        places = tf.shape(outputs.lengths)
        longest = outputs.ids.shape[-1]
        texts = tf.reshape(decoder(tf.reshape(outputs.ids, [-1, longest])), places)
        is_output = tf.range(places[1]) < outputs.count[:, None]
        texts = tf.where(is_output, texts, "")
        return {
            "output": texts[:, 0],
            "outputs": texts,
            "valid_utf8": tf.equal(replace_invalid_utf8(prompts), prompts),
            **_common_outputs(outputs),
        }

    return Signature(_TEXT_INPUTS, decode, "texts to texts, as `mtfrun decode` prints them")


def _common_outputs(outputs: Outputs) -> dict[str, tf.Tensor]:
    return {
        "scores": outputs.scores,
        "tokens": outputs.lengths,
        "outputs_finished": outputs.finished,
        "num_outputs": outputs.count,
        "prompt_tokens": outputs.read,
        "truncated_tokens": outputs.truncated,
        "output_tokens": outputs.lengths[:, 0],
        "finished": outputs.finished[:, 0],
    }


def _checked_ids(ids: tf.Tensor, lengths: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    columns = tf.shape(ids)[1]
    within = tf.where(tf.sequence_mask(lengths, columns), ids, 0)
    checks = [
        tf.debugging.assert_non_negative(lengths, "lengths must not be negative"),
        tf.debugging.assert_less_equal(
            lengths, columns, "lengths must be at most the number of columns of ids"
        ),
        tf.debugging.assert_less(within, size, f"ids must be below {size}, the vocabulary's size"),
        tf.debugging.assert_non_negative(within, "ids must not be negative"),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(ids), tf.identity(lengths)


def _label_signatures(
    graph: DecodingGraph, logits: LogitsGraph, labels: Mapping[str, int], encoder: Encoder | None
) -> dict[str, Signature]:
    """The probability of a label is its first id's."""

    def classify_rows(ids: tf.Tensor, lengths: tf.Tensor) -> Mapping[str, tf.Tensor]:
        rows = graph.rows(ids, lengths)
        inputs = rows.ids[:, : tf.reduce_max(rows.lengths)]
        first = logits({INPUTS: inputs, TARGETS: tf.zeros_like(inputs)})[:, 0]
        first = tf.debugging.check_numerics(first, "logits of labels are infinite or not a number")
        probabilities = tf.gather(tf.nn.softmax(first), list(labels.values()), axis=1)
        best, number = tf.math.top_k(probabilities, len(labels))
        names = tf.gather(tf.constant([label.encode() for label in labels]), number)
        return {
            "label": names[:, 0],
            "probability": best[:, 0],
            "labels": names,
            "probabilities": best,
        }

    def classify_ids(ids: tf.Tensor, lengths: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return classify_rows(*_checked_ids(ids, lengths, graph.num_ids))

    of_ids = Signature(_ID_INPUTS, classify_ids, "ids of texts, without an end, to labels")
    if encoder is None:
        return {"classify_ids": of_ids, "classify": of_ids}

    def classify(prompts: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return classify_rows(*encoder(prompts))

    about = "texts to all labels, the likeliest first"
    return {"classify_ids": of_ids, "classify": Signature(_TEXT_INPUTS, classify, about)}
