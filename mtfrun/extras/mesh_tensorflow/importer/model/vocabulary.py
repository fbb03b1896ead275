from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtfrun.configuration.gin_values import reference
from mtfrun.extras.mesh_tensorflow.importer.config import Parameters, SourceConfig, name_of

_TARGET = "get_vocab_embedding_cls.cls"
_ADAPTIVE_SOFTMAX = "AdaptiveSoftmaxVocabEmbedding"
_SOFTMAX = "zoo.ClusterSoftmax"
_TABLE = "zoo.AdaptiveEmbedding"
CLUSTERS = "zoo.VocabularyClusters"


def read_vocabulary(
    source: SourceConfig, embedding: Parameters, loss: Parameters, scope: str
) -> dict[str, Parameters]:
    """Adds the classes of a special embedding to `embedding`, and returns their parameters.

    loss: the parameters of TokenLoss; scope: the scope of the stack with the softmax.
    """
    name = source.choose(_TARGET, _KINDS)
    _read_loss_function(source.within(scope), name, loss)
    if not embedding["tied_softmax"] and name not in _WITHOUT_SOFTMAX:
        source.refuse(_TARGET, f"without shared_embedding_and_softmax_weights {name} has no use")
    parameters = _KINDS[name](source, embedding)
    if name == _ADAPTIVE_SOFTMAX:
        parameters[_SOFTMAX] = {"tail_z_loss": loss["z_loss"]}
    return parameters


def _read_loss_function(source: SourceConfig, name: str, loss: Parameters) -> None:
    target = "Unitransformer.loss_fn"
    if name != _ADAPTIVE_SOFTMAX:
        source.require(target, [None], "only cross entropy is supported")
        return
    function = source.get(target, None)
    if function is None or name_of(function) != "adaptive_softmax_loss_fn":
        source.refuse(target, f"{name} is trained with adaptive_softmax_loss_fn")
    loss["label_smoothing"] = 0.0
    for ignored in ("label_smoothing", "loss_on_targets_only"):
        source.ignore(f"Unitransformer.{ignored}", "adaptive_softmax_loss_fn does not use it")


def _mixture_of_softmaxes(source: SourceConfig, embedding: Parameters) -> dict[str, Parameters]:
    embedding["softmax"] = reference("@zoo.MixtureOfSoftmaxes")
    number = source.get("MixtureOfSoftmaxes.num_softmaxes", 1)
    return {"zoo.MixtureOfSoftmaxes": {"num_softmaxes": number}}


def _mixtape(source: SourceConfig, embedding: Parameters) -> dict[str, Parameters]:
    embedding["softmax"] = reference("@zoo.Mixtape")
    get = source.getter("Mixtape")
    gates = {
        "size": get("gate_embedding_size", 1),
        "frequent_fraction": get("frequent_token_fraction", 0.1),
        "dropout_rate": get("dropout_rate", 0.0),
        "noise": get("noise_std_dev", 0.0),
    }
    return {"zoo.Mixtape": {"gates": reference("@zoo.MixtapeGates()")}, "zoo.MixtapeGates": gates}


def _read_factors(source: SourceConfig, embedding: Parameters) -> dict[str, Parameters]:
    target = "FactorizedVocabEmbedding.inner_dimension_size"
    size = source.get(target, 0)
    if size in (0, embedding["d_model"]):
        source.refuse(target, "it needs another size than d_model")
    return _clusters(embedding, [], [size or 1])


def _adaptive(kind: str, source: SourceConfig, embedding: Parameters) -> dict[str, Parameters]:
    target = f"{kind}.clusters"
    clusters = source.get(target, [])
    names = {"token_count", "embedding_size", "length_projection_factor"}
    is_valid = bool(clusters) and all(
        isinstance(each, Mapping) and {"token_count"} <= set(each) <= names for each in clusters
    )
    if not is_valid:
        source.refuse(target, "it needs a list of clusters with token_count, embedding_size")
        clusters = [{"token_count": 1}]
    if any(each.get("length_projection_factor", 1) != 1 for each in clusters):
        why = "length_projection_factor leaves out targets, which all have a loss here"
        source.refuse(target, why)
    ends = list(itertools.accumulate(int(each["token_count"]) for each in clusters))
    sizes = [each.get("embedding_size", embedding["d_model"]) for each in clusters]
    parameters = _clusters(embedding, ends[:-1], sizes)
    if kind == _ADAPTIVE_SOFTMAX:
        parameters[CLUSTERS]["adaptive_softmax"] = True
    return parameters


def _clusters(
    embedding: Parameters, cutoffs: Sequence[int], sizes: Sequence[Any]
) -> dict[str, Parameters]:
    embedding["table"] = reference(f"@{_TABLE}")
    if embedding["tied_softmax"]:
        embedding["softmax"] = reference(f"@{_SOFTMAX}")
    return {
        _TABLE: {"clusters": reference(f"@{CLUSTERS}()")},
        CLUSTERS: {"cutoffs": list(cutoffs), "d_embedding": list(sizes)},
    }


_KINDS: Mapping[str, Callable[[SourceConfig, Parameters], dict[str, Parameters]]] = {
    "VocabEmbedding": lambda *_: {},
    "MixtureOfSoftmaxes": _mixture_of_softmaxes,
    "Mixtape": _mixtape,
    "FactorizedVocabEmbedding": _read_factors,
    "AdaptiveVocabEmbedding": functools.partial(_adaptive, "AdaptiveVocabEmbedding"),
    _ADAPTIVE_SOFTMAX: functools.partial(_adaptive, _ADAPTIVE_SOFTMAX),
}
# Classes that may have a separate softmax.
_WITHOUT_SOFTMAX = ("VocabEmbedding", "FactorizedVocabEmbedding", "AdaptiveVocabEmbedding")
