from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.configuration.gin_values import reference
from mtfrun.extras.mesh_tensorflow.importer.config import Parameters, SourceConfig, name_of
from mtfrun.extras.mesh_tensorflow.importer.data import RowForm
from mtfrun.extras.mesh_tensorflow.importer.gin import Draft
from mtfrun.extras.mesh_tensorflow.importer.model.layers import SourceStack
from mtfrun.extras.mesh_tensorflow.importer.model.stacks import read_stack
from mtfrun.extras.mesh_tensorflow.importer.model.variable_patterns import VariablePatterns
from mtfrun.extras.mesh_tensorflow.importer.model.vocabulary import CLUSTERS, read_vocabulary

LANGUAGE_MODELS = ("lm", "delimited_lm")
_STACK, _REVERSIBLE = "transformer.Stack", "zoo.ReversibleStack"
_WITH_D_FF = ("transformer.FeedForward", "transformer.GatedFeedForward")
_MACROS = {
    ("transformer.AttentionHeads", "num_heads"): "NUM_HEADS",
    ("transformer.AttentionHeads", "d_kv"): "D_KV",
    ("transformer.FeedForward", "d_ff"): "D_FF",
    ("transformer.GatedFeedForward", "d_ff"): "D_FF",
    ("transformer.RelativePositionBias", "num_heads"): "NUM_HEADS",
    ("transformer.Stack", "rematerialise"): "REMATERIALISE",
    ("transformer.SublayerDropout", "rate"): "DROPOUT_RATE",
    **{
        (cls, "dropout_rate"): "DROPOUT_RATE"
        for cls in (
            *(*_WITH_D_FF, "transformer.SelfAttention", "transformer.EncoderDecoderAttention"),
            *("zoo.TalkingHeadsSelfAttention", "zoo.TalkingHeadsEncoderDecoderAttention"),
        )
    },
}


@dataclasses.dataclass(frozen=True)
class SourceModel:
    """A model: its stacks, and the parameters of TokenEmbedding, TokenLoss and its class.

    `softmax` has the parameters, by class, of a special embedding or softmax; `ensemble` is empty
    for a single model.
    """

    model_type: str
    stacks: Sequence[SourceStack]
    embedding: Parameters
    loss: Parameters
    model_parameters: Parameters
    softmax: Mapping[str, Parameters]
    ensemble: Parameters

    @property
    def is_language_model(self) -> bool:
        return self.model_type in LANGUAGE_MODELS

    @property
    def shares_layers(self) -> bool:
        """Whether the decoder has the variables of the encoder."""
        return len({stack.name for stack in self.stacks}) < len(self.stacks)

    @property
    def rows_of_clusters(self) -> int:
        """The number of rows that stand for clusters instead of ids."""
        clusters = self.softmax.get(CLUSTERS, {})
        return len(clusters["cutoffs"]) if clusters.get("adaptive_softmax") else 0

    @property
    def row_form(self) -> RowForm:
        if not self.is_language_model:
            return RowForm.PAIRS
        reads_pairs = self.model_type == "delimited_lm" or any(self.model_parameters.values())
        return RowForm.PAIRS_IN_A_ROW if reads_pairs else RowForm.TEXTS

    def patterns(self) -> VariablePatterns:
        classes = []
        if self.embedding["position"] == reference("@transformer.PositionalEmbedding"):
            classes.append("transformer.PositionalEmbedding")
        if not self.embedding["tied_softmax"]:
            classes.append("transformer.TokenSoftmax")
        classes.append(CLUSTERS if CLUSTERS in self.softmax else "transformer.TokenEmbedding")
        return VariablePatterns(classes, self.stacks)


def read_model(source: SourceConfig) -> SourceModel:
    model_type = source.require(
        "run.model_type",
        ["bitransformer", *LANGUAGE_MODELS],
        "only bitransformer, lm and delimited_lm are supported",
    )
    model_parameters: Parameters = {}
    if model_type in LANGUAGE_MODELS:
        get, scope = source.getter("Unitransformer"), ""
        stacks = [read_stack(source, get("name", "transformer"))]
        model_parameters = {
            "prefix": get("input_full_attention", default=False),
            "loss_on_targets_only": get("loss_on_targets_only", default=False),
        }
    else:
        stacks, scope = _two_stacks(source), "decoder"
    embedding = _embedding(source.within(scope))
    loss = _loss(source.within(scope))
    softmax = read_vocabulary(source, embedding, loss, scope)
    if softmax.get(CLUSTERS, {}).get("adaptive_softmax"):
        # The original's loss ignores it.
        model_parameters.pop("loss_on_targets_only", None)
    ensemble = _ensemble(source, [stack.scope for stack in stacks], embedding)
    return SourceModel(model_type, stacks, embedding, loss, model_parameters, softmax, ensemble)


def _two_stacks(source: SourceConfig) -> list[SourceStack]:
    encoder, decoder = source.within("encoder"), source.within("decoder")
    why = "only language models have inputs and targets in one row"
    for name in ("input_full_attention", "loss_on_targets_only"):
        decoder.require(f"Unitransformer.{name}", [False], why)
    for name in (
        *("d_model", "max_length", "vocab_divisor"),
        *("positional_embedding", "sinusoid_positional_embedding"),
    ):
        key = f"Unitransformer.{name}"
        if encoder.get(key, None) != decoder.get(key, None):
            encoder.refuse(key, "encoder and decoder differ: not supported")
    stacks = [
        read_stack(side, source.get(f"make_bitransformer.{side.scope}_name", side.scope))
        for side in (encoder, decoder)
    ]
    if stacks[1].cls == "zoo.TransparentDecoder":
        stacks[0].parameters["zoo.TransparentEncoder"] = {}
    first, second = stacks
    layers = [zip(stack.names, stack.layers, strict=True) for stack in stacks]
    fits = first.num_layers == second.num_layers and first.block_scope
    if first.name == second.name and not (fits and set(layers[0]) <= set(layers[1])):
        why = "an encoder shares variables with a decoder that has the same layers by name only"
        source.refuse("make_bitransformer.encoder_name", why)
    return stacks


def _embedding(source: SourceConfig) -> Parameters:
    get = source.getter("Unitransformer")
    position, max_length = None, get("max_length", 512)
    if get("positional_embedding", default=True):
        position = reference("@transformer.PositionalEmbedding")
    if get("sinusoid_positional_embedding", default=False):
        position = reference("@transformer.SinusoidPositions")
    return {
        "d_model": get("d_model", 1024),
        "position": position,
        "tied_softmax": get("shared_embedding_and_softmax_weights", default=False),
        "vocabulary_divisor": get("vocab_divisor", 128),
        **({} if position is None else {"max_length": max_length}),
    }


_AVERAGES = {
    "reduce_ensemble_logits_mean_prob": "probabilities",
    "reduce_ensemble_logits_mean_logit": "logits",
}


def _ensemble(source: SourceConfig, scopes: Sequence[str], embedding: Parameters) -> Parameters:
    """Returns the parameters of our ensemble, or {}."""
    target = "Unitransformer.ensemble"
    sizes = [source.within(scope).get_optional(target, 2) for scope in scopes]
    if any(size != sizes[0] for size in sizes):
        source.within("encoder").refuse(target, "encoder and decoder differ: not supported")
    if not sizes[0]:
        return {}
    if not embedding["tied_softmax"]:
        why = "the members of the original's ensembles share this softmax: not supported"
        target = "Unitransformer.shared_embedding_and_softmax_weights"
        source.within(scopes[-1]).refuse(target, why)
    target = "reduce_ensemble_logits.reduce_fn"
    average = source.get(target, None)
    name = "reduce_ensemble_logits_mean_prob" if average is None else name_of(average)
    if name not in _AVERAGES:
        source.refuse(target, f"only {' and '.join(_AVERAGES)} are supported")
    return {"size": sizes[0], "average": _AVERAGES.get(name, "probabilities")}


def _loss(source: SourceConfig) -> Parameters:
    get = source.getter("Unitransformer")
    denominator = source.get_optional("Unitransformer.loss_denominator", 0)
    loss: Parameters = {
        "label_smoothing": get("label_smoothing", 0.0),
        "z_loss": get("z_loss", 1e-4),
        "mean_over_padding": denominator is None,
    }
    if denominator is not None:
        loss["denominator"] = float(denominator)
    return loss


def write_model(model: SourceModel, draft: Draft, microbatches: int) -> None:
    stacks = model.stacks
    parts: Parameters = {
        "embedding": reference("@transformer.TokenEmbedding()"),
        "loss": reference("@transformer.TokenLoss()"),
        "dtypes": reference("@mtf.DTypePolicy()"),
    }
    if model.is_language_model:
        draft.include("models/transformer.gin")
        cls = "transformer.DecoderOnly"
        if model.model_parameters["prefix"]:
            cls = "parity.PaddedPrefixDecoderOnly"
        parts["stack"] = reference(f"@{stacks[0].cls}")
        _write_class(draft, cls, parts, model.model_parameters)
    elif any(stack.relative_bias is None for stack in stacks):
        draft.include("models/encoder_decoder.gin")
    else:
        is_gated = any("transformer.GatedFeedForward" in stack.parameters for stack in stacks)
        draft.include("models/t5.1.1.gin" if is_gated else "models/t5.1.0.gin")
    sides = {stack.scope: reference(f"@{_in_scope(stack.cls, stack)}") for stack in stacks}
    if not model.is_language_model and any(stack.cls != _STACK for stack in stacks):
        draft.bind("transformer.EncoderDecoder", sides)
    if model.shares_layers:
        _write_class(draft, "parity.SharedLayersEncoderDecoder", {**parts, **sides}, {})
    if model.ensemble:
        cls = "transformer.DecoderOnly" if model.is_language_model else "transformer.EncoderDecoder"
        draft.bind("experiment.Experiment", {"model": reference("@zoo.make_ensemble")})
        draft.bind("zoo.make_ensemble", {"model": reference(f"@{cls}"), **model.ensemble})
    _write_stacks(model, draft)
    embedding = dict(model.embedding)
    draft.macro("D_MODEL", embedding.pop("d_model"))
    draft.macro("VOCABULARY_DIVISOR", embedding.pop("vocabulary_divisor"))
    draft.bind("transformer.TokenEmbedding", embedding)
    comment = "the original's softmax is over all rows of the table"
    draft.bind("transformer.TokenEmbedding", {"masks_padding": False}, comment=comment)
    for cls, parameters in model.softmax.items():
        draft.bind(cls, parameters)
    _write_loss(model, draft, microbatches)


def _write_class(draft: Draft, cls: str, parts: Parameters, settings: Parameters) -> None:
    """Shipped files configure only their own classes."""
    draft.bind("experiment.Experiment", {"model": reference(f"@{cls}")})
    draft.bind(cls, {**parts, **{name: value for name, value in settings.items() if value}})


def _write_loss(model: SourceModel, draft: Draft, microbatches: int) -> None:
    loss = dict(model.loss)
    mean_over_padding = loss.pop("mean_over_padding")
    draft.bind("transformer.TokenLoss", loss)
    if mean_over_padding:
        comment = "the original divides by all positions of a batch"
        draft.bind("transformer.TokenLoss", {"mean_over_padding": True}, comment=comment)
        return
    comment = "the original's loss_denominator"
    if microbatches > 1:
        comment += f" {loss['denominator']}, of {microbatches} microbatches"
    # Divisors of microbatches are added.
    denominator = loss["denominator"] / microbatches
    draft.bind("transformer.TokenLoss", {"denominator": denominator}, comment=comment)


def _write_stacks(model: SourceModel, draft: Draft) -> None:
    """Adds the parameters of layers, with a scope where stacks differ."""
    stacks = model.stacks
    macros: dict[str, Any] = {}
    if not any(cls in stack.parameters for stack in stacks for cls in _WITH_D_FF):
        sizes = (stack.parameters.get("moe.Experts") for stack in stacks)
        macros["D_FF"] = next((size["hidden_size"] for size in sizes if size), 0)
    numbers = [stack.num_layers for stack in stacks]
    draft.macro("NUM_LAYERS", numbers[0])
    for stack in stacks:
        target = _in_scope(stack.cls, stack)
        parameters: Parameters = {"layers": stack.layers}
        if stack.num_layers != numbers[0]:
            parameters["num_layers"] = stack.num_layers
        if stack.cls != _STACK:
            # Shipped files configure only Stack.
            parameters = {
                "num_layers": reference("%NUM_LAYERS"),
                "transforms": reference("@transformer.StackTransforms()"),
                **parameters,
            }
        if stack.cls not in (_STACK, _REVERSIBLE):
            parameters["rematerialise"] = reference("%REMATERIALISE")
        if stack.cls == "zoo.FunnelStack":
            del parameters["num_layers"]
            parameters["funnel"] = reference("@zoo.Funnel()")
        if stack.cls == "zoo.UniversalStack":
            parameters["recurrence"] = reference("@zoo.Recurrence()")
        if stack.cls == "zoo.TransparentDecoder":
            parameters["mixture"] = reference("@zoo.EncoderMixture()")
        draft.bind(target, parameters)
    _write_relative_bias(model, draft)
    classes = dict.fromkeys(cls for stack in stacks for cls in stack.parameters)
    for cls in classes:
        having = [stack for stack in stacks if cls in stack.parameters]
        for name in dict.fromkeys(name for stack in having for name in stack.parameters[cls]):
            _write_parameter(draft, macros, cls, name, having)
    for name, value in macros.items():
        draft.macro(name, value)
    for name in ("NUM_HEADS", "D_KV"):
        if name not in macros:
            draft.macro(name, 1, "no layer of this model uses it")


def _write_parameter(
    draft: Draft, macros: dict[str, Any], cls: str, name: str, stacks: Sequence[SourceStack]
) -> None:
    macro = _MACROS.get((cls, name))
    # ... marks stacks without the parameter.
    values = [stack.parameters[cls].get(name, ...) for stack in stacks]
    is_shared = all(value == values[0] for value in values)
    for stack, value in zip(stacks[:1] if is_shared else stacks, values, strict=False):
        if value is ...:
            continue
        target = cls if is_shared else _in_scope(cls, stack)
        if macro is not None and macros.setdefault(macro, value) == value:
            value = reference(f"%{macro}")
        draft.bind(target, {name: value})


def _write_relative_bias(model: SourceModel, draft: Draft) -> None:
    stacks = model.stacks
    biases = [stack.relative_bias for stack in stacks]
    if all(bias is None for bias in biases):
        return
    cls = reference("@transformer.RelativePositionBias")
    if None not in biases:
        draft.bind(_STACK, {"relative_bias": cls})
    for stack in stacks:
        if stack.relative_bias is None:
            continue
        if None in biases or stack.cls != _STACK:
            draft.bind(_in_scope(stack.cls, stack), {"relative_bias": cls})
        known = stack.parameters.setdefault("transformer.RelativePositionBias", {})
        known.update(stack.relative_bias)


def _in_scope(cls: str, stack: SourceStack) -> str:
    return f"{stack.scope}/{cls}" if stack.scope else cls
