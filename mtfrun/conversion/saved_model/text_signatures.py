"""Signatures of models of text."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mtfrun.conversion.saved_model.decoding_graph import DecodingGraph, Outputs
from mtfrun.conversion.saved_model.signatures import Served, Signature, served
from mtfrun.conversion.saved_model.texts_graph import (
    Decoder,
    Encoder,
    decoder_of,
    encoder_of,
    replaced,
)
from mtfrun.experiment import Decoding


@served.register
def _(inference: Decoding, *, tensorflow_text: bool = False) -> Served:
    prompting = inference.prompting
    graph = DecodingGraph(inference)
    by_ids = _of_ids(graph, prompting.prompt_vocabulary.size)
    encoder = encoder_of(prompting.prompt_vocabulary)
    decoder = decoder_of(prompting.output_vocabulary, continuing=prompting.continues)
    signatures = {"decode": by_ids, "decode_ids": by_ids}
    if encoder is not None and decoder is not None:
        signatures["decode"] = _of_texts(graph, encoder, decoder)
    settings = {
        "longest_prompt": prompting.form.longest,
        "longest_output": graph.table.longest_output,
        "num_outputs": inference.num_outputs,
        "end_id": prompting.output_vocabulary.end_id,
        "pad_id": prompting.output_vocabulary.pad_id,
    }
    vocabularies = [prompting.prompt_vocabulary, prompting.output_vocabulary]
    return Served(signatures, "decode", settings, vocabularies)


def _of_ids(graph: DecodingGraph, size: int) -> Signature:
    """Returns the signature of prompts that are ids, below `size`."""

    def decode_ids(ids: tf.Tensor, lengths: tf.Tensor) -> Mapping[str, tf.Tensor]:
        checks = [
            tf.debugging.assert_non_negative(lengths, "lengths must not be negative"),
            tf.debugging.assert_less_equal(
                lengths, tf.shape(ids)[1], "lengths must be at most the number of columns of ids"
            ),
            tf.debugging.assert_less(
                _within(ids, lengths), size, f"ids must be below {size}, the vocabulary's size"
            ),
            tf.debugging.assert_non_negative(_within(ids, lengths), "ids must not be negative"),
        ]
        with tf.control_dependencies(checks):
            ids, lengths = tf.identity(ids), tf.identity(lengths)
        outputs = graph(ids, lengths)
        return {"ids": outputs.ids, "lengths": outputs.lengths, **_numbers(outputs)}

    inputs = [
        tf.TensorSpec([None, None], tf.int32, "ids"),
        tf.TensorSpec([None], tf.int32, "lengths"),
    ]
    return Signature(inputs, decode_ids, "ids of prompts, without an end, to ids of outputs")


def _of_texts(graph: DecodingGraph, encoder: Encoder, decoder: Decoder) -> Signature:
    """Returns the signature of prompts that are texts."""

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
            "valid_utf8": tf.equal(replaced(prompts), prompts),
            **_numbers(outputs),
        }

    inputs = [tf.TensorSpec([None], tf.string, "prompts")]
    return Signature(inputs, decode, "texts to texts, as `mtfrun decode` prints them")


def _numbers(outputs: Outputs) -> dict[str, tf.Tensor]:
    """Returns what texts and ids have in common."""
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


def _within(ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Returns the ids, 0 for padding."""
    return tf.where(tf.sequence_mask(lengths, tf.shape(ids)[1]), ids, 0)
