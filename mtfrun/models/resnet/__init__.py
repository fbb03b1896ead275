"""Networks that classify images."""

from mtfrun.models.resnet.backbone import Backbone
from mtfrun.models.resnet.blocks import (
    BasicBlock,
    Blocking,
    BottleneckBlock,
    ConvolutionNorm,
    ResidualBlock,
)
from mtfrun.models.resnet.classifier import CONFUSION_MATRIX, ImageClassifier
from mtfrun.models.resnet.image_input import ImageInput, augmented
from mtfrun.models.resnet.image_loss import ImageLoss
from mtfrun.models.resnet.mixup import beta_quantiles, mixed, mixing_shares
from mtfrun.models.resnet.resnet import ResNet, in_blocks
from mtfrun.models.resnet.stems import LargeImageStem, SmallImageStem

__all__ = [
    "CONFUSION_MATRIX",
    "Backbone",
    "BasicBlock",
    "Blocking",
    "BottleneckBlock",
    "ConvolutionNorm",
    "ImageClassifier",
    "ImageInput",
    "ImageLoss",
    "LargeImageStem",
    "ResNet",
    "ResidualBlock",
    "SmallImageStem",
    "augmented",
    "beta_quantiles",
    "in_blocks",
    "mixed",
    "mixing_shares",
]
