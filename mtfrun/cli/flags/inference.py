"""The flags that are settings of an inference."""

from __future__ import annotations

import argparse
from typing import Any

from mtfrun.configuration.ranges import range_of
from mtfrun.errors import InputError

INFERENCE_SETTINGS = (
    *("beam_size", "num_outputs", "alpha", "temperature", "top_k", "top_p"),
    *("decode_length", "seed"),
)
"""Flags that are settings of an `Inference`; None for the configuration's."""


def add_inference_flags(parser: argparse.ArgumentParser) -> None:
    """Adds them to a parser."""
    add = parser.add_argument
    add("--beam_size", type=int, help="beams of a beam search; 1 for none", metavar="N")
    add(
        "--num_outputs",
        type=int,
        help="outputs for each prompt: beams, up to beam_size, or samples",
        metavar="N",
    )
    add("--alpha", type=float, help="exponent of a beam search's length penalty", metavar="A")
    add("--temperature", type=float, help="0 takes the most likely token each time", metavar="T")
    add(
        "--top_k",
        type=int,
        help="sample among the K most likely tokens; of images: number of labels",
        metavar="K",
    )
    add(
        "--top_p",
        type=float,
        help="sample among the fewest tokens of this total probability",
        metavar="P",
    )
    add(
        "--decode_length",
        type=int,
        help="largest number of new tokens for a prompt; an answer to n tokens also ends at "
        "Decoding.decode_length_multiplier (1.5) * n + decode_length_constant (10)",
        metavar="N",
    )
    add("--seed", type=int, help="of the random numbers of sampling", metavar="N")


def check_inference(flags: argparse.Namespace) -> None:
    """Raises InputError for numbers that the settings cannot be."""
    for name, value in chosen_settings(flags).items():
        allowed = range_of("mtfrun", name)
        if allowed is not None and value not in allowed:
            raise InputError(f"--{name}={value}: it must be {allowed}")


def chosen_settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that the flags give, by name."""
    values = {name: getattr(flags, name) for name in INFERENCE_SETTINGS}
    return {name: value for name, value in values.items() if value is not None}
