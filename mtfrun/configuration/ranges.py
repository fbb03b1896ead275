"""Ranges of the numeric parameters of mtfrun, by name: it means the same in all its classes.

The classes check their arguments too, for users of Python. Here it is clear which line or flag has
set a value, before anything is built. Parameters of a user's classes have no range.
"""

from __future__ import annotations

from mtfrun.checks import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_ABOVE_0,
    SHARE_BELOW_1,
    SHARE_WITHIN,
    Range,
)

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
        AT_LEAST_1,
    ),
    # Numbers of steps, rows and files.
    **dict.fromkeys(
        (
            *("batch_size", "outer_batch", "microbatches", "train_steps", "iterations_per_loop"),
            *("log_every_steps", "every_steps", "evaluate_every_steps", "max_to_keep"),
            *("max_batches", "total_steps", "beam_size", "num_outputs"),
            *("concurrent_batches",),
        ),
        AT_LEAST_1,
    ),
    **dict.fromkeys(
        (
            *("learning_rate", "factors", "weight_decay", "warmup_steps", "seed", "temperature"),
            *("top_k", "skip_bad_records", "z_loss", "loss_coef", "num_decodes", "num_examples"),
            *("decode_length_multiplier", "decode_length_constant"),
            *("cutout", "crop_padding", "mixup_alpha", "cutmix_alpha", "min_expert_capacity"),
            *("learning_rate_factors", "start_step", "epsilon", "stddev"),
        ),
        NOT_NEGATIVE,
    ),
    **dict.fromkeys(
        (
            *("epsilon1", "clip_norm", "clipping_threshold", "secs_per_loop", "every_secs"),
            *("max_norm",),
        ),
        POSITIVE,
    ),
    **dict.fromkeys(("top_p",), SHARE_ABOVE_0),
    **dict.fromkeys(("random_probability", "keep_probability"), SHARE),
    **dict.fromkeys(
        (
            *("dropout_rate", "beta1", "beta2", "momentum", "average_decay", "decay"),
            *("label_smoothing",),
        ),
        SHARE_BELOW_1,
    ),
    # Longer outputs would take hours, and their rows terabytes.
    "decode_length": Range(1, 1_000_000),
    "noise_density": SHARE_WITHIN,
    "mean_noise_span_length": AT_LEAST_1,
}


def range_of(module: str, parameter: str) -> Range | None:
    """Returns None if any number is allowed."""
    return _OF_NAMES.get(parameter) if module.partition(".")[0] == "mtfrun" else None
