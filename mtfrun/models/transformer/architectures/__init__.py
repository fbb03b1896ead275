"""Decoders, encoders and both."""
