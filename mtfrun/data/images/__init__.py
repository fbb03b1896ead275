"""Labelled images: sources, caches, and batches that are cropped and augmented."""

from mtfrun.data.images.crops import CentreCrop, Crop, RandomResizedCrop, WholeImage
from mtfrun.data.images.idx_images import IdxImages
from mtfrun.data.images.image_cache import (
    EncodedCache,
    ImageCache,
    PixelCache,
    open_encoded_cache,
    open_pixel_cache,
)
from mtfrun.data.images.image_data import ImageData
from mtfrun.data.images.image_files import encoded_image, read_image
from mtfrun.data.images.image_folders import ImageFolders
from mtfrun.data.images.image_rows import IMAGES, Augmentation, CroppedRows, PixelRows
from mtfrun.data.images.image_source import ImageExample, ImageSource
from mtfrun.data.images.no_images import NoImages
from mtfrun.data.images.rand_augment import RandAugment
from mtfrun.data.images.stored_image import EncodedImage, PixelImage, StoredImage, Window
from mtfrun.data.images.tfds_images import TfdsImages

__all__ = [
    "IMAGES",
    "Augmentation",
    "CentreCrop",
    "Crop",
    "CroppedRows",
    "EncodedCache",
    "EncodedImage",
    "IdxImages",
    "ImageCache",
    "ImageData",
    "ImageExample",
    "ImageFolders",
    "ImageSource",
    "NoImages",
    "PixelCache",
    "PixelImage",
    "PixelRows",
    "RandAugment",
    "RandomResizedCrop",
    "StoredImage",
    "TfdsImages",
    "WholeImage",
    "Window",
    "encoded_image",
    "open_encoded_cache",
    "open_pixel_cache",
    "read_image",
]
