from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import INPUTS, TARGETS
from mtfrun.data.prompts import bucket
from mtfrun.experiment import Decoding
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.saved_model.decoding_graph import DecodingGraph
from mtfrun.extras.saved_model.export import Served, Signature, in_batches, signatures_of
from mtfrun.extras.saved_model.texts_graph import (
    Decoder,
    Encoder,
    converters_of,
    replace_invalid_utf8,
)

# The most logits that a batch may have: rows are as many as fit.
_LARGEST = 1 << 26


class LogitsGraph:
    """Logits of `rows` at a time, padded to one of a few lengths where the model allows it."""

    def __init__(self, decoding: Decoding, names: Collection[str], rows: int) -> None:
        self.names = list(names)
        experiment, model = decoding.experiment, decoding.model
        self._mesh, self._model = experiment.mesh, model
        # The feature whose positions have logits.
        self._output = TARGETS if TARGETS in names else self.names[0]
        shapes = experiment.data.shapes(1)
        self._longest = {
            name: shapes.get(name, shapes[TARGETS]).get_dim_by_name("length").size
            for name in self.names
        }
        longest = max(self._longest.values())
        lengths = {bucket(number, longest) for number in range(1, longest + 1)}
        self._lengths = sorted(
            length for length in lengths if length == longest or model.allows_padding(length)
        )
        self._rows = max(1, min(rows, _LARGEST // (longest * model.vocab.size)))
        self._program = mtf.function(model.logits)

    def signature(self, about: str) -> Signature:
        def logits(*features: tf.Tensor) -> Mapping[str, tf.Tensor]:
            return {"logits": self(*features)}

        inputs = [tf.TensorSpec([None, None], tf.int32, name) for name in self.names]
        return Signature(inputs, logits, about)

    def __call__(self, *features: tf.Tensor) -> tf.Tensor:
        """Returns float32 [batch, length of targets, vocab], without padding of the vocabulary.

        Traced once for all sizes of features, int32 [batch, length], padded with 0, in the order
        of `names`.
        """
        checks, widths, size = [], [tf.shape(ids)[1] for ids in features], self._model.vocab.size
        for name, ids, width in zip(self.names, features, widths, strict=True):
            longest = self._longest[name]
            checks += [
                tf.debugging.assert_less_equal(
                    width, longest, f"{name} must have at most {longest} columns"
                ),
                tf.debugging.assert_less(
                    tf.abs(ids), size, f"{name} must be ids below {size}, the vocabulary's size"
                ),
            ]
        with tf.control_dependencies(checks):
            features = tuple(tf.identity(ids) for ids in features)
            number = tf.searchsorted(self._lengths, [tf.reduce_max(widths)])[0]
        branches = [functools.partial(self._padded, n, features) for n in self._lengths]
        logits = branches[0]() if len(branches) == 1 else tf.switch_case(number, branches)
        width = widths[self.names.index(self._output)]
        return logits[:, :width, : self._model.num_classes]

    def _padded(self, length: int, features: Sequence[tf.Tensor]) -> tf.Tensor:
        lengths = {name: min(length, longest) for name, longest in self._longest.items()}
        inputs = []
        for length, ids in zip(lengths.values(), features, strict=True):
            # A branch that is not taken may have wider features.
            padding = [[0, 0], [0, tf.maximum(0, length - tf.shape(ids)[1])]]
            inputs.append(tf.ensure_shape(tf.pad(ids, padding)[:, :length], [None, length]))
        sizes = [self._rows, lengths[self._output], self._model.vocab.size]
        (logits,) = in_batches(self._batch, self._rows, inputs, [tf.TensorSpec(sizes, tf.float32)])
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


def logits_signatures(decoding: Decoding, rows: int) -> dict[str, Signature]:
    choices, signatures = [set(names) for names in decoding.model.logits_features], {}
    for names in decoding.model.logits_features:
        graph = LogitsGraph(decoding, names, rows)
        if TARGETS in names:
            about = "ids to the logits of every target, from the targets before it"
            signatures["logits"] = graph.signature(about)
        # An encoder reads the targets only where somebody has them.
        elif {*names, TARGETS} not in choices:
            signatures["next_logits"] = graph.signature("ids to the logits of the id after each")
    return signatures


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
    read, written = prompt_format.prompt_vocabulary, prompt_format.output_vocabulary
    encoder = converters_of(read, tensorflow_text=tensorflow_text).encoder
    _, decoder, labels = converters_of(
        written, continues=prompt_format.continues, tensorflow_text=tensorflow_text
    )
    by_ids = Signature(
        _ID_INPUTS, graph.decode, "ids of prompts, without an end, to ids of outputs"
    )
    signatures = {"decode": by_ids, "decode_ids": by_ids}
    if encoder is not None and decoder is not None:
        decode = functools.partial(_decode_texts, graph, encoder, decoder)
        about = "texts to texts, as `mtfrun decode` prints them"
        signatures["decode"] = Signature(_TEXT_INPUTS, decode, about)
    signatures |= logits_signatures(inference, graph.batch_size)
    if labels is not None:
        logits = LogitsGraph(inference, inference.model.required_features, graph.batch_size)
        classify = functools.partial(_classify, graph, logits, labels)
        by_ids = Signature(_ID_INPUTS, classify, "ids of texts, without an end, to labels")
        signatures |= {"classify": by_ids, "classify_ids": by_ids}
        if encoder is not None:
            about = "texts to all labels, the likeliest first"
            by_text = Signature(_TEXT_INPUTS, lambda prompts: classify(*encoder(prompts)), about)
            signatures["classify"] = by_text
    settings = {
        "longest_prompt": prompt_format.longest,
        "longest_output": graph.longest_output,
        "num_outputs": inference.num_outputs,
        "end_id": written.end_id,
        "pad_id": written.pad_id,
    }
    converters = [converter for converter in (encoder, decoder) if isinstance(converter, tf.Module)]
    return Served(signatures, "decode", settings, [read, written], converters)


def _decode_texts(
    graph: DecodingGraph, encoder: Encoder, decoder: Decoder, prompts: tf.Tensor
) -> dict[str, tf.Tensor]:
    outputs = graph.decode(*encoder(prompts))
    ids, lengths = outputs.pop("ids"), outputs.pop("lengths")
    texts = tf.reshape(decoder(tf.reshape(ids, [-1, ids.shape[-1]])), tf.shape(lengths))
    is_output = tf.range(tf.shape(texts)[1]) < outputs["num_outputs"][:, None]
    texts = tf.where(is_output, texts, "")
    valid_utf8 = tf.equal(replace_invalid_utf8(prompts), prompts)
    return {"output": texts[:, 0], "outputs": texts, "valid_utf8": valid_utf8, **outputs}


def _classify(
    graph: DecodingGraph,
    logits: LogitsGraph,
    labels: Mapping[str, int],
    ids: tf.Tensor,
    lengths: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """The probability of a label is its first id's."""
    row_ids, numbers = graph.rows(ids, lengths)
    inputs = row_ids[:, : tf.reduce_max(numbers)]
    features = {INPUTS: inputs, TARGETS: tf.zeros_like(inputs)}
    first = logits(*(features[name] for name in logits.names))[:, 0]
    first = tf.debugging.check_numerics(first, "logits of labels are infinite or not a number")
    probabilities = tf.gather(tf.nn.softmax(first), list(labels.values()), axis=1)
    best, number = tf.math.top_k(probabilities, len(labels))
    names = tf.gather(tf.constant([label.encode() for label in labels]), number)
    return {"label": names[:, 0], "probability": best[:, 0], "labels": names, "probabilities": best}
