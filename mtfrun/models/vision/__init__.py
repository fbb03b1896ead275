"""Classifiers of images that are cut into patches."""

from mtfrun.models.vision.convnext import ConvNext as ConvNext
from mtfrun.models.vision.convnext import ConvNextBlock as ConvNextBlock
from mtfrun.models.vision.convnext import ConvNextStages as ConvNextStages
from mtfrun.models.vision.vision_transformer import VisionTransformer as VisionTransformer
