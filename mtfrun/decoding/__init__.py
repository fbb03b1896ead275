"""Decoding: takes a step function and knows no model."""

from mtfrun.decoding.decoder import Decoder, StepFunction

__all__ = ["Decoder", "StepFunction"]
