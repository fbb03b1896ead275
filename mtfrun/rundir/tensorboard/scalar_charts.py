"""The charts of TensorBoard's page Custom Scalars: several curves in one, training and evaluation.

A chart has the curves of all runs whose tags match. TensorBoard joins the charts of the training
and of the evaluation, and those of several runs.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from tensorboard.plugins.custom_scalar import layout_pb2

# By category: the title of a chart, and a pattern of its tags. A group "each" of a pattern makes a
# chart of everything that it matches.
_CATEGORIES: dict[str, dict[str, str]] = {
    "Learning": {
        "loss": "loss",
        "accuracy": "accuracy",
        "learning rate": "learning_rate",
        "bits per byte, entropies of the text": "loss/(bits_per_byte|order_.*_entropy)",
        "perplexity": "loss/perplexity",
    },
    "Tasks": {
        "loss by task": "tasks/[^/]+/loss",
        "accuracy by task": "tasks/[^/]+/accuracy",
        "examples seen by task": "data/examples_seen/.+",
    },
    "Predictions": {"{each}": "decodes/(?P<each>.+)", "{each} by task": "tasks/[^/]+/(?P<each>.+)"},
    "Mixture of experts": {
        "dropped choices": "moe/.+/dropped",
        "greatest and least load (1: an equal share)": "moe/.+/(greatest|least)_load",
        "entropy of the gates": "moe/.+/entropy",
        "balance loss": "moe/.+/balance_loss",
        "load of {each}": "moe_load/(?P<each>.+)/expert_.+",
    },
    "Norms": {
        "gradient": "norm/gradient(/.+)?",
        "parameter": "norm/parameter(/.+)?",
        "update": "norm/update(/.+)?",
    },
    "Activations": {"rms": "activations/.+/rms", "largest value": "activations/.+/max"},
    "Speed": {
        "units of data a second": r"perf/(?!steps|model)\w+_per_sec",
        "shares of the time": "perf/(data_wait|device|host)_fraction",
        "model TFLOP / s": "perf/model_tflop_per_sec",
        "share of the machine's peak": "perf/peak_fraction",
        "memory (GB)": "perf/.+_gb",
    },
}
# Those of an evaluation; the others also have curves of it, but are charts of the training, so that
# they come after these on the page.
_OF_EVALUATION = ("Learning", "Tasks", "Predictions")
# Tags with a chart of their own elsewhere.
_TASK_CHARTS = {"loss", "accuracy", "perplexity", "bits_per_byte"}


def scalar_charts(tags: Collection[str]) -> layout_pb2.Layout:
    """Returns the charts that have one of the tags of a run."""
    layout = layout_pb2.Layout()
    is_training = "learning_rate" in tags
    for category, charts in _CATEGORIES.items():
        is_here = is_training or category in _OF_EVALUATION
        patterns = _with_curves(charts, tags) if is_here else {}
        if patterns:
            multiline = [
                layout_pb2.Chart(
                    title=title, multiline=layout_pb2.MultilineChartContent(tag=[pattern + "$"])
                )
                for title, pattern in patterns.items()
            ]
            layout.category.add(title=category, chart=multiline)
    return layout


def _with_curves(charts: dict[str, str], tags: Collection[str]) -> dict[str, str]:
    """Returns titles and patterns of the charts that have curves, one for every "each"."""
    patterns: dict[str, str] = {}
    for title, pattern in charts.items():
        for match in filter(None, (re.fullmatch(pattern, tag) for tag in tags)):
            each = match.groupdict().get("each")
            if each is None:
                patterns[title] = pattern
            elif each not in _TASK_CHARTS:
                own = re.sub(r"\(\?P<each>\.\+\)", re.escape(each), pattern)
                patterns[title.format(each=each)] = own
    return patterns
