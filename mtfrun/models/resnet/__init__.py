"""Residual networks for image classification."""

from mtfrun.models.resnet.classifier import CONFUSION_MATRIX as CONFUSION_MATRIX
from mtfrun.models.resnet.classifier import ImageClassifier as ImageClassifier
from mtfrun.models.resnet.classifier import ImageLoss as ImageLoss
from mtfrun.models.resnet.classifier import MixImages as MixImages
from mtfrun.models.resnet.image_input import ImageInput as ImageInput
from mtfrun.models.resnet.resnet import Backbone as Backbone
from mtfrun.models.resnet.resnet import BasicBlock as BasicBlock
from mtfrun.models.resnet.resnet import Blocking as Blocking
from mtfrun.models.resnet.resnet import BottleneckBlock as BottleneckBlock
from mtfrun.models.resnet.resnet import ConvolutionNorm as ConvolutionNorm
from mtfrun.models.resnet.resnet import ConvolutionSettings as ConvolutionSettings
from mtfrun.models.resnet.resnet import LargeImageStem as LargeImageStem
from mtfrun.models.resnet.resnet import ResidualBlock as ResidualBlock
from mtfrun.models.resnet.resnet import ResNet as ResNet
from mtfrun.models.resnet.resnet import SmallImageStem as SmallImageStem
from mtfrun.models.resnet.resnet import StridedFirstBottleneckBlock as StridedFirstBottleneckBlock
