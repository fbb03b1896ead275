"""All families of models."""

from mtfrun.conversion.hugging_face.families.resnet import ResNet as ResNet
from mtfrun.conversion.hugging_face.families.t5 import T5 as T5

__all__ = ["T5", "ResNet"]
