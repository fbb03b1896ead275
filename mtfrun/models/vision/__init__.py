"""Transformers for images."""

from mtfrun.models.vision.vision_transformer import VisionTransformer as VisionTransformer
