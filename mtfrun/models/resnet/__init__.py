"""Residual networks for image classification."""

from mtfrun.models.resnet.backbone import Backbone
from mtfrun.models.resnet.blocks import (
    BasicBlock,
    Blocking,
    BottleneckBlock,
    ConvolutionNorm,
    ResidualBlock,
    StridedFirstBottleneckBlock,
)
from mtfrun.models.resnet.classifier import CONFUSION_MATRIX, ImageClassifier
from mtfrun.models.resnet.cutmix import cut_rectangles, paste_previous, uncut_fraction
from mtfrun.models.resnet.image_input import ImageInput, augment, cut_out
from mtfrun.models.resnet.image_loss import ImageLoss
from mtfrun.models.resnet.mixup import beta_quantiles, mix_with_previous, mixing_coefficients
from mtfrun.models.resnet.resnet import ResNet, cut_into_blocks
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
    "StridedFirstBottleneckBlock",
    "augment",
    "beta_quantiles",
    "cut_into_blocks",
    "cut_out",
    "cut_rectangles",
    "mix_with_previous",
    "mixing_coefficients",
    "paste_previous",
    "uncut_fraction",
]
