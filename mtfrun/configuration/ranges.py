"""The numbers that parameters of mtfrun may be.

A name means the same in all classes of mtfrun, so that names tell the range. The classes check
their arguments too, for those who use them from Python; here it is known which line or flag has set
a value, and nothing has been built. Parameters of a user's own classes have no range.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Range(NamedTuple):
    """Numbers from `lowest` to `highest`, with or without these.

    Attributes:
      lowest: the smallest number.
      highest: the largest number.
      without_lowest: whether `lowest` itself is not allowed.
      without_highest: whether `highest` itself is not allowed.
    """

    lowest: float
    highest: float = math.inf
    without_lowest: bool = False
    without_highest: bool = False

    def __contains__(self, number: object) -> bool:
        """Returns whether a number is allowed; one that is not a number is not."""
        if not isinstance(number, int | float):
            return False
        above = number > self.lowest or (number == self.lowest and not self.without_lowest)
        below = number < self.highest or (number == self.highest and not self.without_highest)
        return above and below and math.isfinite(number)

    def __str__(self) -> str:
        """Returns it as the end of "it must be ..."."""
        low = f"{'more than' if self.without_lowest else 'at least'} {self.lowest:g}"
        if self.highest == math.inf:
            return low
        return f"{low} and {'less than' if self.without_highest else 'at most'} {self.highest:,g}"


_COUNT = Range(1)
_NOT_NEGATIVE = Range(0)
_POSITIVE = Range(0, without_lowest=True)
_SHARE = Range(0, 1)
_SHARE_BELOW_ONE = Range(0, 1, without_highest=True)

_OF_NAMES: dict[str, Range] = {
    # Sizes of models and data.
    **dict.fromkeys(
        (
            *("d_model", "d_ff", "d_kv", "num_heads", "num_memory_heads", "num_layers"),
            *("vocabulary_size", "inputs_vocabulary_size", "vocabulary_divisor", "num_classes"),
            *("hidden_size", "num_experts", "group_size", "num_buckets", "max_distance"),
            *("length", "inputs_length", "targets_length", "max_length", "block_length"),
            *("window", "image_size", "widths", "stage_sizes", "scan_blocks", "stem_width"),
        ),
        _COUNT,
    ),
    # Numbers of steps, rows and files.
    **dict.fromkeys(
        (
            *("batch_size", "outer_batch", "microbatches", "train_steps", "iterations_per_loop"),
            *("log_every_steps", "every_steps", "evaluate_every_steps", "max_to_keep"),
            *("max_batches", "total_steps", "beam_size", "num_outputs"),
            *("concurrent_batches",),
        ),
        _COUNT,
    ),
    **dict.fromkeys(
        (
            *("learning_rate", "factors", "weight_decay", "warmup_steps", "seed", "temperature"),
            *("top_k", "skip_bad_records", "z_loss", "loss_coef", "num_decodes", "num_examples"),
            *("decode_length_multiplier", "decode_length_constant"),
            *("cutout", "crop_padding", "mixup_alpha", "cutmix_alpha", "min_expert_capacity"),
            *("learning_rate_factors", "start_step", "epsilon", "stddev"),
        ),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(
        (
            *("epsilon1", "clip_norm", "clipping_threshold", "secs_per_loop", "every_secs"),
            *("max_norm",),
        ),
        _POSITIVE,
    ),
    **dict.fromkeys(("top_p",), Range(0, 1, without_lowest=True)),
    **dict.fromkeys(("character_coverage", "random_probability", "keep_probability"), _SHARE),
    **dict.fromkeys(
        (
            *("dropout_rate", "beta1", "beta2", "momentum", "average_decay", "decay"),
            *("label_smoothing",),
        ),
        _SHARE_BELOW_ONE,
    ),
    # Longer outputs would take hours, and their rows terabytes.
    "decode_length": Range(1, 1_000_000),
    "noise_density": Range(0, 1, without_lowest=True, without_highest=True),
    "mean_noise_span_length": _COUNT,
}


def range_of(module: str, parameter: str) -> Range | None:
    """Returns the range of a parameter of a class of a module, None if any number is allowed."""
    return _OF_NAMES.get(parameter) if module.partition(".")[0] == "mtfrun" else None
