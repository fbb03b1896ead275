"""Classifiers of images that are cut into patches, and segmentation."""

from mtfrun.models.vision.convnext import ConvNext as ConvNext
from mtfrun.models.vision.convnext import ConvNextBlock as ConvNextBlock
from mtfrun.models.vision.convnext import ConvNextStages as ConvNextStages
from mtfrun.models.vision.segmentation import SegmentationLoss as SegmentationLoss
from mtfrun.models.vision.segmentation import SegmentationModel as SegmentationModel
from mtfrun.models.vision.segmentation import soft_dice as soft_dice
from mtfrun.models.vision.unet import ConvolutionBlock as ConvolutionBlock
from mtfrun.models.vision.unet import UNet as UNet
from mtfrun.models.vision.unet import UNetStages as UNetStages
from mtfrun.models.vision.vision_transformer import VisionTransformer as VisionTransformer
