"""What TensorBoard says about a tag: its title and a description."""

from __future__ import annotations

import re
from typing import NamedTuple

from mtfrun.rundir.tensorboard.metric_tags import tag_of


class Description(NamedTuple):
    """A title, and Markdown that says what is shown, in which unit, and how to read it."""

    title: str
    text: str


# By a pattern of the tag, whose groups may stand in the title and in the text.
_TABLE: tuple[tuple[str, str, str], ...] = (
    (
        "loss",
        "loss (nats)",
        "Cross entropy of the targets, the mean over all of them, in nats. In training it is that "
        "of the batches since the point before, with dropout and other noise.",
    ),
    ("accuracy", "accuracy", "Share of the targets whose most probable prediction is right."),
    ("learning_rate", "learning rate", "Learning rate of the last step, before any factors."),
    (
        "loss/objective",
        "objective",
        "What is differentiated: the loss with smoothing, regularisation and the losses of layers, "
        "such as the balance of experts; a mean per target.",
    ),
    (
        "loss/perplexity",
        "perplexity",
        "exp(loss): the number of equally likely tokens that are as hard to guess.",
    ),
    (
        "loss/bits_per_byte",
        "bits per byte",
        "Cross entropy in bits, divided by the bytes of text that the targets stand for: it can be "
        "compared between vocabularies.",
    ),
    (
        r"loss/order_(?P<order>\d+)_entropy",
        "order-{order} entropy (bits)",
        "Entropy of a byte of the split given the {order} bytes before it, in bits: what a table "
        "of counts would reach, a baseline for the bits per byte.",
    ),
    (
        "accuracy/top_5_accuracy",
        "top-5 accuracy",
        "Share of the images whose label is among the five most probable ones.",
    ),
    ("decodes/bleu", "BLEU", "BLEU of the decodes against their targets, 0 to 100 (sacreBLEU)."),
    ("decodes/chrf", "chrF", "chrF of the decodes against their targets, 0 to 100 (sacreBLEU)."),
    (
        "decodes/(exact_match|em)",
        "exact match",
        "Share of the decodes that equal their target.",
    ),
    (
        "decodes/token_accuracy",
        "token accuracy",
        "Share of the positions at which a decode has the token of its target.",
    ),
    (
        "decodes/(?P<what>.+)",
        "{what}",
        "A metric of the predictions of the evaluation's examples against their targets.",
    ),
    (
        "perf/steps_per_sec",
        "steps / s",
        "Optimizer steps a second since the point before, without evaluations and checkpoints, and "
        "without the step that compiles.",
    ),
    (
        "perf/data_wait_fraction",
        "share of time: waiting for data",
        "Share of the time in which the devices waited for data. Above 0.05 the input is too slow.",
    ),
    (
        "perf/device_fraction",
        "share of time: devices",
        "Share of the time in which the devices computed. The three shares add up to 1.",
    ),
    (
        "perf/host_fraction",
        "share of time: host",
        "Share of the time in which the host did the rest: copied batches, wrote points.",
    ),
    (
        "perf/model_tflop_per_sec",
        "model TFLOP / s",
        "10^12 floating point operations a second in the model's matrix products and convolutions: "
        "three times those of a forward pass, on all devices. Rematerialisation does not count.",
    ),
    (
        "perf/peak_fraction",
        "share of the machine's peak",
        "The model's operations a second as a share of what this machine reaches in products of "
        "large square matrices of the same type (model FLOPs utilisation). The peak is measured "
        "once, at the first point; other programs that ran then make it too small.",
    ),
    (
        r"perf/(?P<unit>\w+)_per_sec",
        "{unit} / s",
        "Trained {unit} a second on all devices, padding not counted; as steps a second.",
    ),
    (
        "perf/host_memory_gb",
        "host memory (GB)",
        "Resident memory of the (first) process, 10^9 bytes. On CPUs the parameters are in it.",
    ),
    (
        "perf/device_memory_gb",
        "device memory (GB)",
        "Memory in use on the first device, 10^9 bytes.",
    ),
    (
        "perf/device_memory_peak_gb",
        "device memory, peak (GB)",
        "The most memory that has been in use on the first device, 10^9 bytes.",
    ),
    (
        "data/padding_fraction",
        "padding",
        "Share of the positions of inputs and targets that are padding: work for nothing.",
    ),
    (
        "data/examples_seen(/(?P<task>.+))?",
        "examples seen {task}",
        "Training examples so far, repetitions included.",
    ),
    (
        "skipped_steps",
        "skipped updates",
        "Updates so far that `TrainOptions.on_nan` has left out, as they were not finite.",
    ),
    (
        "norm/gradient(/(?P<module>.+))?",
        "gradient norm {module}",
        "Root of the sum of squares of the gradients before clipping, at the last step. Sudden "
        "peaks come before a diverging loss; `clip_norm` limits the norm of all together.",
    ),
    (
        "norm/parameter(/(?P<module>.+))?",
        "parameter norm {module}",
        "Root of the sum of squares of the trained parameters before the last step.",
    ),
    (
        "norm/update(/(?P<module>.+))?",
        "update norm {module}",
        "Root of the sum of squares of what the last step has added to the parameters. About a "
        "thousandth of the parameter norm is usual; a hundredth is much.",
    ),
    (
        "moe/(?P<layer>.+)/dropped",
        "{layer}: dropped",
        "Share of the choices of experts that found no place in them. 0 is best; dropped tokens "
        "pass the layer unchanged. A larger capacity factor drops fewer.",
    ),
    (
        "moe/(?P<layer>.+)/entropy",
        "{layer}: entropy of the gates (nats)",
        "Mean entropy of a token's gates, in nats: 0 where it is sure of one expert, the logarithm "
        "of the number of experts where all are alike.",
    ),
    (
        "moe/(?P<layer>.+)/balance_loss",
        "{layer}: balance loss",
        "Load balancing loss before its coefficient; 1 where all experts have an equal share.",
    ),
    (
        "moe/(?P<layer>.+)/(?P<which>greatest|least)_load",
        "{layer}: {which} load",
        "Share of the tokens of the {which} used expert, times the number of experts: 1 is an "
        "equal share, 0 an idle expert.",
    ),
    (
        r"(tasks_)?moe_load/(?P<layer>.+)/expert_(?P<expert>\d+)",
        "{layer}: expert {expert}",
        "Share of the dispatched tokens that went to this expert; all shares of a layer add up to "
        "1.",
    ),
    (
        r"(tasks_)?moe_load/(?P<layer>.+)/visits_(?P<number>\d+)",
        "{layer}: {number} experts",
        "Share of the tokens that visit this number of experts; the last one counts more as well.",
    ),
    (
        r"(tasks_)?moe_load/(?P<layer>.+)/load",
        "{layer}: load",
        "Distribution of the experts' shares of tokens, times their number: 1 is an equal share.",
    ),
    (
        "activations/(?P<layer>.+)/rms",
        "{layer}: rms",
        "Root mean square of the residual stream after this layer, a mean over the steps since the "
        "point before.",
    ),
    (
        "activations/(?P<layer>.+)/max",
        "{layer}: largest",
        "Largest absolute value of the residual stream after this layer, a mean over the steps "
        "since the point before. In bfloat16 much larger values than the rms cost digits.",
    ),
    (
        # The tag itself, which TensorBoard then does not write below: paths are long.
        "weights/(?P<what>.+)",
        "weights/{what}",
        "Distribution of the entries of this variable.",
    ),
    (
        "gradients/(?P<what>.+)",
        "gradients/{what}",
        "Distribution of the entries of the gradient of this variable, before clipping, for the "
        "batch of the last step and the weights after it.",
    ),
    ("config", "configuration", "The configuration of the run, as it was parsed."),
    ("operative_config", "configuration in use", "The parameters of the run that are in use."),
    ("command", "command", "The command that has started the run."),
    ("(.*/)?samples", "samples", "What the model writes after the prompts of the configuration."),
    (
        "(.*/)?decodes",
        "decodes",
        "Inputs of the split, what the model makes of them, and their targets.",
    ),
    (
        "(.*/)?confusion_matrix",
        "confusion matrix",
        "How often each class (row) was predicted as each class (column).",
    ),
    ("(.*/)?predictions", "predictions", "Images of the split with predicted and true labels."),
    (
        "routing/.+",
        "load of experts",
        "The share of the tokens of every expert, a column, in every layer, a row, times the "
        "number of experts: 1 is an equal share.",
    ),
    (
        "experts_of_tokens/(?P<level>.+)",
        "experts of tokens, {level}",
        "The experts that the tokens of a sample visit, by layer.",
    ),
    (
        "(?P<what>attention(_to_encoder)?)(/(?P<layer>.+))?",
        "{what} {layer}",
        "Where the positions of a sample, rows, look: the weights of every head.",
    ),
    ("mesh", "mesh", "The devices, and the dimensions that the layout splits over their axes."),
    ("layers/(?P<what>.+)", "{what}", "A measurement of this layer; its class says what it is."),
)
_OWN = "A value of this run's own classes; the class or the action that writes it says what it is."
_TASK = re.compile(r"tasks(?P<group>_\w+)?/(?P<task>[^/]+)/(?P<tag>.+)")


def description_of(tag: str) -> Description:
    """Returns what is said about a tag.

    Examples:
      >>> description_of("norm/update/embedding").title
      'update norm embedding'
      >>> description_of("tasks/spell/loss").title
      'spell: loss (nats)'
    """
    for pattern, title, text in _TABLE:
        if match := re.fullmatch(pattern, tag):
            words = {name: word or "" for name, word in match.groupdict().items()}
            return Description(title.format(**words).strip(), text.format(**words))
    if match := _TASK.fullmatch(tag):
        group = (match["group"] or "")[1:]
        inner = description_of(f"{group}/{match['tag']}" if group else tag_of(match["tag"]))
        return Description(
            f"{match['task']}: {inner.title}", f"Of the task `{match['task']}` alone: {inner.text}"
        )
    return Description(tag.replace("_", " "), _OWN)
