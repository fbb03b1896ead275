from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mtfrun.data import INPUTS, TARGETS
from mtfrun.experiment import Decoding
from mtfrun.experiment.records import require
from mtfrun.models import TextModel
from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.tools.conversion.saved_model.decoding_graph import DecodingGraph, Outputs
from mtfrun.tools.conversion.saved_model.export import Served, Signature, signatures_of
from mtfrun.tools.conversion.saved_model.logits_graph import LogitsGraph, logits_signatures
from mtfrun.tools.conversion.saved_model.texts_graph import (
    Decoder,
    Encoder,
    decoder_of,
    encoder_of,
    labels_of,
    replace_invalid_utf8,
)

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
    graph = DecodingGraph(inference)
    by_ids = _of_ids(graph)
    encoder = encoder_of(prompt_format.prompt_vocabulary, tensorflow_text=tensorflow_text)
    decoder = decoder_of(
        prompt_format.output_vocabulary,
        continuing=prompt_format.continues,
        tensorflow_text=tensorflow_text,
    )
    signatures = {"decode": by_ids, "decode_ids": by_ids}
    if encoder is not None and decoder is not None:
        signatures["decode"] = _of_texts(graph, encoder, decoder)
    model = require(inference.experiment.model, TextModel, "--format=saved_model", "set it")
    signatures |= logits_signatures(inference.experiment, model, inference.rows)
    labels = labels_of(prompt_format.output_vocabulary)
    if labels is not None:
        logits = LogitsGraph(inference.experiment, model, model.required_features, inference.rows)
        signatures |= _label_signatures(graph, logits, labels, encoder)
    settings = {
        "longest_prompt": prompt_format.longest,
        "longest_output": graph.longest_output,
        "num_outputs": inference.num_outputs,
        "end_id": prompt_format.output_vocabulary.end_id,
        "pad_id": prompt_format.output_vocabulary.pad_id,
    }
    vocabularies = [prompt_format.prompt_vocabulary, prompt_format.output_vocabulary]
    converters = [converter for converter in (encoder, decoder) if converter is not None]
    return Served(signatures, "decode", settings, vocabularies, converters)


def _of_ids(graph: DecodingGraph) -> Signature:
    def decode_ids(ids: tf.Tensor, lengths: tf.Tensor) -> Mapping[str, tf.Tensor]:
        outputs = graph(*_checked_ids(ids, lengths, graph.num_ids))
        return {"ids": outputs.ids, "lengths": outputs.lengths, **_common_outputs(outputs)}

    return Signature(_ID_INPUTS, decode_ids, "ids of prompts, without an end, to ids of outputs")


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
        "tokens": outputs.tokens,
        "outputs_finished": outputs.finished,
        "num_outputs": outputs.count,
        "prompt_tokens": outputs.read,
        "truncated_tokens": outputs.truncated,
        "output_tokens": outputs.tokens[:, 0],
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
