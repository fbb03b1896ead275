"""Signatures of models of text."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mtfrun.experiment import Decoding
from mtfrun.experiment.inference import required
from mtfrun.models import TextModel
from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.tools.conversion.saved_model.decoding_graph import DecodingGraph, Outputs
from mtfrun.tools.conversion.saved_model.id_inputs import ID_INPUTS, checked
from mtfrun.tools.conversion.saved_model.label_graph import LabelGraph
from mtfrun.tools.conversion.saved_model.logits_graph import LogitsGraph, logits_signatures
from mtfrun.tools.conversion.saved_model.signatures import Served, Signature, served
from mtfrun.tools.conversion.saved_model.texts_graph import (
    Decoder,
    Encoder,
    decoder_of,
    encoder_of,
    labels_of,
    replaced,
)


@served.register
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
    model = required(inference.experiment.model, TextModel, "--format=saved_model", "set it")
    signatures |= logits_signatures(inference.experiment, model, inference.rows)
    labels = labels_of(prompt_format.output_vocabulary)
    if labels is not None:
        logits = LogitsGraph(inference.experiment, model, model.required_features, inference.rows)
        classifier = LabelGraph(graph, logits, labels)
        signatures["classify_ids"] = classifier.of_ids()
        signatures["classify"] = (
            classifier.of_ids() if encoder is None else classifier.of_texts(encoder)
        )
    settings = {
        "longest_prompt": prompt_format.longest,
        "longest_output": graph.table.longest_output,
        "num_outputs": inference.num_outputs,
        "end_id": prompt_format.output_vocabulary.end_id,
        "pad_id": prompt_format.output_vocabulary.pad_id,
    }
    vocabularies = [prompt_format.prompt_vocabulary, prompt_format.output_vocabulary]
    converters = [converter for converter in (encoder, decoder) if converter is not None]
    return Served(signatures, "decode", settings, vocabularies, converters)


def _of_ids(graph: DecodingGraph) -> Signature:
    """Returns the signature of prompts that are ids."""

    def decode_ids(ids: tf.Tensor, lengths: tf.Tensor) -> Mapping[str, tf.Tensor]:
        outputs = graph(*checked(ids, lengths, graph.num_ids))
        return {"ids": outputs.ids, "lengths": outputs.lengths, **_numbers(outputs)}

    return Signature(ID_INPUTS, decode_ids, "ids of prompts, without an end, to ids of outputs")


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
