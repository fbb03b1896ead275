"""Ranges of numeric parameters by name."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from mtfrun.configuration.arguments import check_argument
from mtfrun.errors import checks

# Numeric parameters of mtfrun by range: a name means the same in all classes. The classes check
# their arguments too, for users of Python. Of gin's values it is clear which line or flag has set
# them, if they are checked before anything is built. Parameters of a user's classes have no range.
_NAMES = {
    checks.AT_LEAST_1: """
        d_model d_ff d_kv num_heads num_memory_heads num_layers hidden_size num_experts group_size
        vocabulary_size inputs_vocabulary_size vocabulary_divisor num_classes num_buckets
        max_distance length inputs_length targets_length max_length block_length window image_size
        widths stage_sizes scan_blocks stem_width batch_size outer_batch microbatches train_steps
        iterations_per_loop log_every_steps every_steps evaluate_every_steps max_to_keep max_batches
        total_steps beam_size num_outputs concurrent_batches draft_tokens mean_noise_span_length
    """,
    checks.NOT_NEGATIVE: """
        learning_rate factors weight_decay warmup_steps seed temperature top_k skip_bad_records
        z_loss loss_coef num_decodes num_saved num_examples decode_length_multiplier
        decode_length_constant cutout crop_padding min_expert_capacity learning_rate_factors
        start_step epsilon stddev
    """,
    checks.POSITIVE: "epsilon1 clip_norm clipping_threshold secs_per_loop every_secs max_norm",
    checks.SHARE_ABOVE_0: "top_p noise_density",
    checks.SHARE: "random_probability keep_probability",
    checks.SHARE_BELOW_1: "dropout_rate beta1 beta2 momentum average_decay decay label_smoothing",
    # Longer outputs would take hours, and their rows terabytes.
    checks.Range(1, 1_000_000): "decode_length",
}
_OF_NAMES = {name: allowed for allowed, names in _NAMES.items() for name in names.split()}

_FRACTIONS = ("alpha", "temperature", "top_p")


def range_of(module: str, parameter: str) -> checks.Range | None:
    """Returns the range of a parameter; None if any number is allowed."""
    return _OF_NAMES.get(parameter) if module.partition(".")[0] == "mtfrun" else None


def numbers_of(settings: Mapping[str, Any]) -> dict[str, int | float]:
    """Returns the settings that are not None, checked against the ranges of their parameters."""
    result: dict[str, int | float] = {}
    for name, value in settings.items():
        if value is None:
            continue
        if name in _FRACTIONS:
            check_argument(_is_number(value, numbers.Real), name, value, "a number")
        else:
            check_argument(_is_number(value, numbers.Integral), name, value, "an integer")
        result[name] = number = float(value) if name in _FRACTIONS else int(value)
        allowed = range_of("mtfrun", name)
        check_argument(allowed is None or number in allowed, name, value, str(allowed))
        check_argument(math.isfinite(number), name, value, "finite")
    return result


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
