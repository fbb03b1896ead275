"""Classifiers of images that are cut into patches, and segmentation."""

from mtfrun.extras.vision.convnext import ConvNext as ConvNext
from mtfrun.extras.vision.convnext import ConvNextBlock as ConvNextBlock
from mtfrun.extras.vision.convnext import ConvNextStages as ConvNextStages
from mtfrun.extras.vision.mixing import ImageMixing as ImageMixing
from mtfrun.extras.vision.pixels.class_conditional import ClassConditional as ClassConditional
from mtfrun.extras.vision.pixels.image_sampling import ImageSampling as ImageSampling
from mtfrun.extras.vision.pixels.image_sampling import SampledImages as SampledImages
from mtfrun.extras.vision.pixels.image_sequences import ImagePositions as ImagePositions
from mtfrun.extras.vision.pixels.image_sequences import ImageSize as ImageSize
from mtfrun.extras.vision.pixels.image_sequences import LocalImageAttention as LocalImageAttention
from mtfrun.extras.vision.pixels.pixel_data import PixelData as PixelData
from mtfrun.extras.vision.pixels.pixel_data import PixelVocabulary as PixelVocabulary
from mtfrun.extras.vision.rand_augment import RandAugment as RandAugment
from mtfrun.extras.vision.segmentation.drawn_shapes import DrawnShapes as DrawnShapes
from mtfrun.extras.vision.segmentation.evaluators import PredictedImage as PredictedImage
from mtfrun.extras.vision.segmentation.evaluators import SegmentationScores as SegmentationScores
from mtfrun.extras.vision.segmentation.evaluators import SegmentedImages as SegmentedImages
from mtfrun.extras.vision.segmentation.evaluators import segmented_images as segmented_images
from mtfrun.extras.vision.segmentation.inference import Segmentation as Segmentation
from mtfrun.extras.vision.segmentation.mask_folders import MaskFolders as MaskFolders
from mtfrun.extras.vision.segmentation.model import SegmentationLoss as SegmentationLoss
from mtfrun.extras.vision.segmentation.model import SegmentationModel as SegmentationModel
from mtfrun.extras.vision.segmentation.model import soft_dice as soft_dice
from mtfrun.extras.vision.segmentation.segmentation_data import SegmentationData as SegmentationData
from mtfrun.extras.vision.segmentation.segmentation_data import (
    SegmentationSource as SegmentationSource,
)
from mtfrun.extras.vision.segmentation.segmentation_data import SegmentedImage as SegmentedImage
from mtfrun.extras.vision.segmentation.unet import UNet as UNet
from mtfrun.extras.vision.segmentation.unet import UNetStages as UNetStages
from mtfrun.extras.vision.vision_transformer import VisionTransformer as VisionTransformer
