"""Names of metrics, the tags under which TensorBoard groups them, and their descriptions.

A tag's group is its part before the first "/". At the top are "loss", "accuracy" and
"learning_rate"; evaluations have the same tags as training, so that their curves overlay.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from mtfrun.metrics.catalogue import CATALOGUE

_ENTRY = re.compile(r"(.*)/(\d+)")
_KINDS = "dropped|entropy|balance_loss|greatest_load|least_load"
# Tags of layers by patterns of names: mixtures, residual streams, and any other metric.
_OF_LAYERS = {
    r"(?P<layer>.+)/(level_\d+)/load/(\d+)": "moe_load/{layer}/{1}/expert_{2}",
    r"(?P<layer>.+)/experts_per_token/(\d+)": "moe_load/{layer}/experts_per_token_{1}",
    rf"(?P<layer>.+)/(level_\d+)/({_KINDS})": "moe/{layer}/{1}/{2}",
    r"(?P<layer>.+)/activation/(rms|max)": "activations/{layer}/{1}",
    r"(?P<layer>)activation/(\d+)/(\d+)/(rms|max)": "activations/stage_{1}/block_{2}/{3}",
    r"(?P<layer>(?:.*/)?blocks/\d+/.+)": "layers/{layer}",
}
# The groups of metrics that are not at the top, by patterns of names.
_GROUPS = {
    name: group
    for group, name in (entry.pattern.split("/", 1) for entry in CATALOGUE if "/" in entry.pattern)
    if group in ("loss", "accuracy", "decodes") and "<each>" not in name
}
_TASK = re.compile(r"tasks(?P<group>_\w+)?/(?P<task>[^/]+)/(?P<tag>.+)")
_USER_DEFINED = (
    "A value of a class that is not of mtfrun; the class or the action that writes it describes it."
)


def entries(values: Mapping[str, np.ndarray | float]) -> dict[str, float]:
    """Names the entries of a vector "load" "load/0", "load/1", ...; numbers are unchanged."""
    named: dict[str, float] = {}
    for name, value in values.items():
        array = np.asarray(value)
        if array.ndim == 0:
            named[name] = float(array)
        else:
            named.update((f"{name}/{i}", float(entry)) for i, entry in enumerate(array.ravel()))
    return named


def vectors(named: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Returns the vectors from the entries that `entries` named, without scalars.

    >>> vectors({"loss": 2.0, "load/0": 0.25, "load/1": 0.75})
    {'load': array([0.25, 0.75])}
    """
    entries_by_name: dict[str, list[float]] = {}
    for name, value in named.items():
        match = _ENTRY.fullmatch(name)
        # A name such as "blocks/2" belongs to a vector only after "blocks/0" and "blocks/1".
        if match and int(match[2]) == len(entries_by_name.get(match[1], [])):
            entries_by_name.setdefault(match[1], []).append(value)
    return {name: np.array(entries) for name, entries in entries_by_name.items()}


def tag_of(name: str, tasks: Collection[str] = ()) -> str:
    """Returns the tag of a metric.

    >>> tag_of("loss"), tag_of("perplexity"), tag_of("spell/loss", ["spell"])
    ('loss', 'loss/perplexity', 'tasks/spell/loss')
    >>> tag_of("decoder_stack/blocks/1/moe_2d/layer/level_1/dropped")
    'moe/decoder/block_1/moe_2d/level_1/dropped'
    """
    task, _, metric = name.partition("/")
    if metric and task in tasks:
        tag = tag_of(metric)
        group = tag.partition("/")[0]
        # Tags of single layers, which are many, apart.
        is_of_layer = group in ("moe", "moe_load", "layers")
        return f"tasks_{group}/{task}/{tag[len(group) + 1 :]}" if is_of_layer else f"tasks/{name}"
    for pattern, group in _GROUPS.items():
        if re.fullmatch(pattern, name):
            return f"{group}/{name}"
    for pattern, template in _OF_LAYERS.items():
        if match := re.fullmatch(pattern, name):
            return template.format(*match.groups(), layer=layer_name(match["layer"]))
    return name


def layer_name(path: str) -> str:
    """Returns "decoder/block_1/moe_2d" for "decoder_stack/blocks/1/moe_2d/layer"."""
    path = re.sub(r"(^|/)blocks/(\d+)", r"\1block_\2", path)
    return re.sub(r"_stack/", "/", path).removesuffix("/layer")


class Description(NamedTuple):
    title: str
    text: str


def description_of(tag: str) -> Description:
    """Returns the title and the text that TensorBoard shows for a tag.

    >>> description_of("norm/update/embedding").title
    'update norm embedding'
    >>> description_of("tasks/spell/loss").title
    'spell: loss (nats)'
    """
    for entry in CATALOGUE:
        match = re.fullmatch(entry.pattern, tag)
        if match and entry.title:
            words = {name: word or "" for name, word in match.groupdict().items()}
            return Description(entry.title.format(**words).strip(), entry.text.format(**words))
    if match := _TASK.fullmatch(tag):
        group = (match["group"] or "")[1:]
        inner = description_of(f"{group}/{match['tag']}" if group else tag_of(match["tag"]))
        return Description(
            f"{match['task']}: {inner.title}", f"Of the task `{match['task']}` alone: {inner.text}"
        )
    return Description(tag.replace("_", " "), _USER_DEFINED)
