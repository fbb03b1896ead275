from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtfrun.configuration.gin_values import reference
from mtfrun.extras.mesh_tensorflow.importer.config import Parameters, SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.data import RowForm
from mtfrun.extras.mesh_tensorflow.importer.gin import Draft
from mtfrun.extras.mesh_tensorflow.importer.model.layers import SourceStack
from mtfrun.extras.mesh_tensorflow.importer.model.stacks import read_stack
from mtfrun.extras.mesh_tensorflow.importer.model.vocabulary import CLUSTERS, read_vocabulary
from mtfrun.extras.mesh_tensorflow.names import StackNames

_LANGUAGE_MODELS = ("lm", "delimited_lm")
_STACK, _REVERSIBLE = "transformer.Stack", "zoo.ReversibleStack"
_PARTS = {
    "zoo.FunnelStack": {"funnel": reference("@zoo.Funnel()")},
    "zoo.UniversalStack": {"recurrence": reference("@zoo.Recurrence()")},
    "zoo.TransparentDecoder": {"mixture": reference("@zoo.EncoderMixture()")},
}
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


def is_language_model(source: SourceConfig) -> bool:
    return model_type(source) in _LANGUAGE_MODELS


def model_type(source: SourceConfig) -> str:
    types = ["bitransformer", *_LANGUAGE_MODELS]
    why = "only bitransformer, lm and delimited_lm are supported"
    return str(source.require("run.model_type", types, why))


def read_stacks(source: SourceConfig) -> list[SourceStack]:
    if is_language_model(source):
        return [read_stack(source, source.get("Unitransformer.name", "transformer"))]
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


def variable_names(stacks: Sequence[SourceStack]) -> dict[str, StackNames]:
    """Returns the original's names of the stacks, by side."""
    return {stack.scope or "decoder": stack.variable_names() for stack in stacks}


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


def _ensemble(source: SourceConfig, stacks: Sequence[SourceStack], *, is_tied: bool) -> Parameters:
    """Returns the parameters of our ensemble, or {}."""
    target = "Unitransformer.ensemble"
    sides = [source.within(stack.scope) for stack in stacks]
    sizes = [side.get_optional(target, 2) for side in sides]
    if any(size != sizes[0] for size in sizes):
        sides[0].refuse(target, "encoder and decoder differ: not supported")
    if not sizes[0]:
        return {}
    if not is_tied:
        why = "the members of the original's ensembles share this softmax: not supported"
        sides[-1].refuse("Unitransformer.shared_embedding_and_softmax_weights", why)
    average = source.choose("reduce_ensemble_logits.reduce_fn", _AVERAGES)
    return {"size": sizes[0], "average": _AVERAGES[average]}


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


def write_model(
    source: SourceConfig, draft: Draft, stacks: Sequence[SourceStack], microbatches: int = 1
) -> tuple[RowForm, int]:
    """Returns the form of the model's rows, and the rows of its table that stand for clusters."""
    scope = stacks[-1].scope
    embedding, loss = _embedding(source.within(scope)), _loss(source.within(scope))
    softmax = read_vocabulary(source, embedding, loss, scope)
    clusters = softmax.get(CLUSTERS, {})
    is_adaptive = clusters.get("adaptive_softmax", False)
    settings = {}
    rows = RowForm.PAIRS
    if not scope:
        get = source.getter("Unitransformer")
        names = {"prefix": "input_full_attention", "loss_on_targets_only": "loss_on_targets_only"}
        settings = {ours: get(theirs, default=False) for ours, theirs in names.items()}
        if is_adaptive:  # the original's loss ignores it
            del settings["loss_on_targets_only"]
        reads_pairs = model_type(source) == "delimited_lm" or any(settings.values())
        rows = RowForm.PAIRS_IN_A_ROW if reads_pairs else RowForm.TEXTS
    ensemble = _ensemble(source, stacks, is_tied=embedding["tied_softmax"])
    _write_classes(draft, stacks, settings, ensemble)
    _write_stacks(stacks, draft)
    draft.macro("D_MODEL", embedding.pop("d_model"))
    draft.macro("VOCABULARY_DIVISOR", embedding.pop("vocabulary_divisor"))
    draft.bind("transformer.TokenEmbedding", embedding)
    comment = "the original's softmax is over all rows of the table"
    draft.bind("transformer.TokenEmbedding", {"masks_padding": False}, comment=comment)
    for cls, parameters in softmax.items():
        draft.bind(cls, parameters)
    _write_loss(loss, draft, microbatches)
    return rows, len(clusters["cutoffs"]) if is_adaptive else 0


def _write_classes(
    draft: Draft, stacks: Sequence[SourceStack], settings: Parameters, ensemble: Parameters
) -> None:
    """Adds the model's class; shipped files configure only their own classes."""
    sides = {
        stack.scope or "stack": reference(f"@{_in_scope(stack.cls, stack)}") for stack in stacks
    }
    cls, written = "transformer.EncoderDecoder", ""
    if "stack" in sides:
        draft.include("models/transformer.gin")
        cls = "transformer.DecoderOnly"
        written = "parity.PaddedPrefixDecoderOnly" if settings["prefix"] else cls
    elif any(stack.relative_bias is None for stack in stacks):
        draft.include("models/encoder_decoder.gin")
    else:
        is_gated = any("transformer.GatedFeedForward" in stack.parameters for stack in stacks)
        draft.include("models/t5.1.1.gin" if is_gated else "models/t5.1.0.gin")
    if "stack" not in sides and any(stack.cls != _STACK for stack in stacks):
        draft.bind(cls, sides)
    if len({stack.name for stack in stacks}) < len(stacks):
        # The decoder has the variables of the encoder.
        written = "parity.SharedLayersEncoderDecoder"
    if written:
        parts: Parameters = {
            "embedding": reference("@transformer.TokenEmbedding()"),
            "loss": reference("@transformer.TokenLoss()"),
            "dtypes": reference("@mtf.DTypePolicy()"),
            **sides,
        }
        draft.bind("experiment.Experiment", {"model": reference(f"@{written}")})
        draft.bind(written, parts | {name: value for name, value in settings.items() if value})
    if ensemble:
        draft.bind("experiment.Experiment", {"model": reference("@zoo.make_ensemble")})
        draft.bind("zoo.make_ensemble", {"model": reference(f"@{cls}"), **ensemble})


def _write_loss(loss: Parameters, draft: Draft, microbatches: int) -> None:
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


def _write_stacks(stacks: Sequence[SourceStack], draft: Draft) -> None:
    """Adds the parameters of layers, with a scope where stacks differ."""
    macros: dict[str, Any] = {}
    if not any(cls in stack.parameters for stack in stacks for cls in _WITH_D_FF):
        sizes = (stack.parameters.get("moe.Experts") for stack in stacks)
        macros["D_FF"] = next((size["hidden_size"] for size in sizes if size), 0)
    num_layers = stacks[0].num_layers
    draft.macro("NUM_LAYERS", num_layers)
    bias = {"relative_bias": reference("@transformer.RelativePositionBias")}
    all_have_bias = all(stack.relative_bias is not None for stack in stacks)
    for stack in stacks:
        target = _in_scope(stack.cls, stack)
        parameters: Parameters = {"layers": stack.layers}
        if stack.num_layers != num_layers:
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
        has_own = stack.relative_bias is not None and not (all_have_bias and stack.cls == _STACK)
        draft.bind(target, parameters | _PARTS.get(stack.cls, {}) | (bias if has_own else {}))
    if all_have_bias:
        draft.bind(_STACK, bias)
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


def _in_scope(cls: str, stack: SourceStack) -> str:
    return f"{stack.scope}/{cls}" if stack.scope else cls
