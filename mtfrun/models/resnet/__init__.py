"""Residual networks for image classification."""

from mtfrun.models.resnet.augmentation import augment as augment
from mtfrun.models.resnet.augmentation import cut_out as cut_out
from mtfrun.models.resnet.blocks import BasicBlock as BasicBlock
from mtfrun.models.resnet.blocks import Blocking as Blocking
from mtfrun.models.resnet.blocks import BottleneckBlock as BottleneckBlock
from mtfrun.models.resnet.blocks import ConvolutionNorm as ConvolutionNorm
from mtfrun.models.resnet.blocks import ResidualBlock as ResidualBlock
from mtfrun.models.resnet.blocks import StridedFirstBottleneckBlock as StridedFirstBottleneckBlock
from mtfrun.models.resnet.classifier import CONFUSION_MATRIX as CONFUSION_MATRIX
from mtfrun.models.resnet.classifier import ImageClassifier as ImageClassifier
from mtfrun.models.resnet.classifier import ImageLoss as ImageLoss
from mtfrun.models.resnet.image_input import ImageInput as ImageInput
from mtfrun.models.resnet.mixup_and_cutmix import beta_quantiles as beta_quantiles
from mtfrun.models.resnet.mixup_and_cutmix import cut_rectangles as cut_rectangles
from mtfrun.models.resnet.mixup_and_cutmix import mix_with_previous as mix_with_previous
from mtfrun.models.resnet.mixup_and_cutmix import mixing_coefficients as mixing_coefficients
from mtfrun.models.resnet.mixup_and_cutmix import paste_previous as paste_previous
from mtfrun.models.resnet.mixup_and_cutmix import uncut_fraction as uncut_fraction
from mtfrun.models.resnet.resnet import Backbone as Backbone
from mtfrun.models.resnet.resnet import LargeImageStem as LargeImageStem
from mtfrun.models.resnet.resnet import ResNet as ResNet
from mtfrun.models.resnet.resnet import SmallImageStem as SmallImageStem
from mtfrun.models.resnet.resnet import cut_into_blocks as cut_into_blocks
