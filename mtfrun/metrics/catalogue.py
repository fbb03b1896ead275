"""The metrics of a run: their descriptions and charts in TensorBoard."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple, TypeVar

_Item = TypeVar("_Item")


class Entry(NamedTuple):
    """A kind of metric, or of another summary.

    Attributes:
      pattern: a regular expression of the tag; its groups may stand in the title and in the text.
      title: "" for an entry that only has a chart.
      text: Markdown: meaning, unit, and how to read it.
      chart: the category and the title of its chart on the page Custom Scalars, in the order in
        which the page has them; a group "each" makes a chart of everything that it matches.
    """

    pattern: str
    title: str = ""
    text: str = ""
    chart: str = ""


# pattern :: title :: chart, where <name> stands for any text, and the text below them. The title of
# a variable's distribution is its tag, which TensorBoard then does not write below: it is long.
_ENTRIES = r"""
loss :: loss (nats) :: Learning: loss
    Cross entropy of the targets, the mean over all of them, in nats. In training of the batches
    since the value before, with dropout.
accuracy :: accuracy :: Learning: accuracy
    Share of the targets with the right most probable prediction.
accuracy/top_5_accuracy :: top-5 accuracy
    Share of the images with the label among the five most probable classes.
accuracy/mean_(?P<what>dice|iou) :: mean {what} of classes :: Masks: means over classes
    How well predicted and true masks overlap, the mean over all classes but the background.
dice/<what> :: Dice coefficient of {what} :: Masks: Dice coefficients
    2 |A and B| / (|A| + |B|) of the predicted pixels A and the true ones B of this class.
iou/<what> :: intersection over union of {what} :: Masks: intersections over unions
    |A and B| / |A or B| of the predicted pixels A and the true ones B of this class.
learning_rate :: learning rate :: Learning: learning rate
    Learning rate of the last step, before any factors.
loss/bits_per_byte :: bits per byte :: Learning: bits per byte, entropies of the text
    Cross entropy in bits, divided by the bytes of text that the targets stand for: it can be
    compared between vocabularies.
loss/order_(?P<order>\d+)_entropy :: order-{order} entropy (bits)
    :: Learning: bits per byte, entropies of the text
    Entropy of a byte of the split after the {order} bytes before it, in bits: what a table of
    counts would reach, a baseline for the bits per byte.
loss/perplexity :: perplexity :: Learning: perplexity
    exp(loss): the number of equally likely tokens that are as hard to guess.
loss/objective :: objective
    The differentiated loss, with smoothing, regularisation and the losses of layers, such as
    the balance of experts; a mean per target.
loss/dice_loss :: Dice loss :: Learning: Dice loss
    1 - the soft Dice coefficient of the masks of an image, the mean over all classes but the
    background and over images.
loss/distillation :: divergence from the teacher (nats)
    KL(teacher || student) of the softmax of their logits, divided by the temperature; a mean
    per target.
loss/hidden_distance :: distance from the teacher's vectors
    Distance between the last vectors of student and teacher, as `Teacher.hidden_distance` says;
    a mean per target.
tasks/[^/]+/loss :: :: Tasks: loss by task
tasks/[^/]+/accuracy :: :: Tasks: accuracy by task
data/examples_seen/<task> :: examples seen {task} :: Tasks: examples seen by task
    Training examples so far, repetitions included.
data/padding_fraction :: padding
    Share of the positions of inputs and targets that are padding: wasted work.
data/examples_seen :: examples seen
    Training examples so far, repetitions included.
decodes/<each> :: :: Predictions: {each}
decodes/bleu :: BLEU
    BLEU of the decodes against their targets, 0 to 100 (sacreBLEU).
decodes/chrf :: chrF
    chrF of the decodes against their targets, 0 to 100 (sacreBLEU).
decodes/(exact_match|em) :: exact match
    Share of the decodes that equal their target; T5's metrics are percentages.
decodes/token_accuracy :: token accuracy
    Share of the positions at which a decode has the token of its target.
decodes/(?P<what>rouge.*|.*f1|.*_(?:correlation|corrcoef)|auc-.*) :: {what}
    A metric of the predictions of the evaluation's examples against their targets.
tasks/[^/]+/(?!(loss|accuracy|perplexity|bits_per_byte)$)<each> :: :: Predictions: {each} by task
moe/<layer>/dropped :: {layer}: dropped :: Mixture of experts: dropped choices
    Share of the choices of experts that found no place in them. 0 is best; dropped tokens pass
    the layer unchanged. A larger capacity factor drops fewer.
moe/<layer>/(?P<which>greatest|least)_load :: {layer}: {which} load
    :: Mixture of experts: greatest and least load (1: an equal share)
    Share of the tokens of the {which} used expert, times the number of experts: 1 is an equal
    share, 0 an idle expert.
moe/<layer>/entropy :: {layer}: entropy of the gates (nats)
    :: Mixture of experts: entropy of the gates
    Mean entropy of a token's gates, in nats: 0 where it is sure of one expert, the logarithm of
    the number of experts where all are alike.
moe/<layer>/balance_loss :: {layer}: balance loss :: Mixture of experts: balance loss
    Load balancing loss before its coefficient; 1 where all experts have an equal share.
moe_load/<each>/expert_(?P<expert>\d+) :: {each}: expert {expert}
    :: Mixture of experts: load of {each}
    Share of the dispatched tokens that went to this expert; all shares of a layer add up to 1.
moe_load/<layer>/experts_per_token_(?P<number>\d+) :: {layer}: {number} experts
    Share of the tokens that go to this number of experts; the last counts more as well.
moe_load/<layer>/load :: {layer}: load
    Distribution of the experts' shares of tokens, times their number: 1 is an equal share.
norm/gradient(/<module>)? :: gradient norm {module} :: Norms: gradient
    Root of the sum of squares of the gradients before clipping, at the last step. Sudden peaks
    come before a diverging loss; `clip_norm` limits the norm of all together.
norm/parameter(/<module>)? :: parameter norm {module} :: Norms: parameter
    Root of the sum of squares of the trained parameters before the last step.
norm/update(/<module>)? :: update norm {module} :: Norms: update
    Root of the sum of squares of what the last step has added to the parameters. About a
    thousandth of the parameter norm is usual; a hundredth is much.
activations/<layer>/rms :: {layer}: rms :: Activations: rms
    Root mean square of the residual stream after this layer, a mean over the steps since the
    point before.
activations/<layer>/max :: {layer}: largest :: Activations: largest value
    Largest absolute value of the residual stream after this layer, a mean over the steps since
    the point before. In bfloat16 much larger values than the rms cost digits.
perf/(?P<unit>(?!steps|model)\w+)_per_sec :: {unit} / s :: Speed: units of data a second
    Trained {unit} a second on all devices, padding not counted; as steps a second.
perf/data_wait_fraction :: share of time: waiting for data :: Speed: shares of the time
    Share of the time in which the devices waited for data. Above 0.05 the input is too slow.
perf/device_fraction :: share of time: devices :: Speed: shares of the time
    Share of the time in which the devices computed. The three shares add up to 1.
perf/host_fraction :: share of time: host :: Speed: shares of the time
    Share of the time in which the host did the rest: copied batches, wrote points.
perf/model_tflop_per_sec :: model TFLOP / s :: Speed: model TFLOP / s
    10^12 floating point operations a second in the model's matrix products and convolutions:
    three times as many as in a forward pass, on all devices. Rematerialisation does not count.
perf/peak_fraction :: share of the machine's peak :: Speed: share of the machine's peak
    The model's operations a second as a share of what this machine reaches in products of large
    square matrices of the same type (model FLOPs utilisation). The peak is measured once, at
    the first point; other programs that ran then make it too small.
perf/host_memory_gb :: host memory (GB) :: Speed: memory (GB)
    Resident memory of the (first) process, 10^9 bytes. On CPUs the parameters are in it.
perf/device_memory_gb :: device memory (GB) :: Speed: memory (GB)
    Memory in use on the first device, 10^9 bytes.
perf/device_memory_peak_gb :: device memory, peak (GB) :: Speed: memory (GB)
    The most memory that has been in use on the first device, 10^9 bytes.
perf/steps_per_sec :: steps / s
    Optimizer steps a second since the point before, without evaluations and checkpoints, and
    without the step that compiles.
skipped_steps :: skipped updates
    Updates so far that `TrainOptions.on_nan` has left out, as they were not finite.
weights/<what> :: weights/{what}
    Distribution of the entries of this variable.
gradients/<what> :: gradients/{what}
    Distribution of the entries of the gradient of this variable, before clipping, for the batch
    of the last step and the weights after it.
config :: configuration
    The configuration of the run, as it was parsed.
operative_config :: configuration in use
    The parameters of the run that are in use.
command :: command
    The command that has started the run.
(.*/)?samples :: samples
    What the model writes after the prompts of the configuration.
(.*/)?decodes :: decodes
    Inputs of the split, what the model makes of them, and their targets.
(.*/)?confusion_matrix :: confusion matrix
    How often each class (row) was predicted as each class (column).
(.*/)?predictions :: predictions
    Images of the split with predicted and true labels or masks.
routing/.+ :: load of experts
    The share of the tokens of every expert, a column, in every layer, a row, times the number
    of experts: 1 is an equal share.
experts_of_tokens/<level> :: experts of tokens, {level}
    The experts of the tokens of a sample, by layer.
(?P<what>attention(_to_encoder)?)(/<layer>)? :: {what} {layer}
    Where the positions of a sample, rows, look: the weights of every head.
mesh :: mesh
    The devices, and the dimensions that the layout splits over their axes.
layers/<what> :: {what}
    A metric of this layer; its class describes it.
"""


def _parse_entries() -> Iterator[Entry]:
    for block in re.split(r"\n(?=\S)", _ENTRIES.replace("\n    :: ", " :: ").strip()):
        head, _, text = block.partition("\n")
        pattern, title, chart = [*map(str.strip, head.split("::")), ""][:3]
        pattern = re.sub(r"(?<!P)<(\w+)>", r"(?P<\1>.+)", pattern)
        yield Entry(pattern, title, " ".join(text.split()), chart)


CATALOGUE = tuple(_parse_entries())


class ChartPattern(NamedTuple):
    """A chart of the curves with tags that match a regular expression."""

    category: str
    title: str
    pattern: str


def chart_patterns(tags: Collection[str]) -> Iterator[ChartPattern]:
    """Yields the charts that have curves, in the order of the catalogue.

    >>> [chart.title for chart in chart_patterns(["loss", "moe_load/a/expert_0"])]
    ['loss', 'load of a']
    """
    by_chart: dict[str, list[str]] = {}
    for entry in CATALOGUE:
        if entry.chart:
            by_chart.setdefault(entry.chart, []).append(entry.pattern)
    for chart, patterns in by_chart.items():
        category, _, title = chart.partition(": ")
        for name, pattern in _with_curves(title, "|".join(patterns), tags).items():
            yield ChartPattern(category, name, pattern)


def _with_curves(title: str, pattern: str, tags: Collection[str]) -> dict[str, str]:
    patterns = {}
    for match in filter(None, (re.fullmatch(pattern, tag) for tag in tags)):
        each = match.groupdict().get("each", "")
        expanded = pattern.replace("(?P<each>.+)", re.escape(each))
        patterns[title.format(each=each)] = re.sub(r"\?P<\w+>", "", expanded)
    return patterns


LOWEST, HIGHEST = "lowest", "highest"
MODES = (LOWEST, HIGHEST)
"""Which value of a metric is the best."""

# Of these more is worse; of accuracy, BLEU, F1 and a metric of any other name, less.
_LOWER_IS_BETTER = re.compile(
    r"loss|perplexity|bits_per_byte|entropy|error|distance|edit|dropped|padding|nll|\bwer\b|\bcer\b|difference|^(?:milli)?seconds"
)


def best_mode(metric: str) -> str:
    """Decides by the metric's name.

    >>> best_mode("eval/loss"), best_mode("accuracy"), best_mode("bleu")
    ('lowest', 'highest', 'highest')
    """
    return LOWEST if _LOWER_IS_BETTER.search(metric.lower()) else HIGHEST


def is_better(value: float, than: float, mode: str, min_delta: float = 0.0) -> bool:
    """Whether a value is better by more than `min_delta`; NaN is never better."""
    return value < than - min_delta if mode == LOWEST else value > than + min_delta


def best_of(
    items: Iterable[_Item], value: Callable[[_Item], float], mode: str, min_delta: float = 0.0
) -> _Item | None:
    """Returns the best item, later items counting as better only by more than `min_delta`.

    None if no value is finite.

    >>> best_of([2.0, 1.95, 1.5, 1.6], lambda x: x, "lowest", 0.1)
    1.5
    """
    best: _Item | None = None
    for item in items:
        if math.isfinite(value(item)) and (
            best is None or is_better(value(item), value(best), mode, min_delta)
        ):
            best = item
    return best
