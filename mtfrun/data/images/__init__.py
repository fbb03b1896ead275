"""Labelled images: sources, caches, and batches that are cropped and augmented."""

from mtfrun.data.images.crops import CentreCrop as CentreCrop
from mtfrun.data.images.crops import Crop as Crop
from mtfrun.data.images.crops import RandomResizedCrop as RandomResizedCrop
from mtfrun.data.images.crops import WholeImage as WholeImage
from mtfrun.data.images.idx_images import IdxImages as IdxImages
from mtfrun.data.images.image_cache import EncodedCache as EncodedCache
from mtfrun.data.images.image_cache import ImageCache as ImageCache
from mtfrun.data.images.image_cache import PixelCache as PixelCache
from mtfrun.data.images.image_cache import open_cache as open_cache
from mtfrun.data.images.image_data import ImageData as ImageData
from mtfrun.data.images.image_files import encode_image as encode_image
from mtfrun.data.images.image_files import read_image as read_image
from mtfrun.data.images.image_folders import ImageFolders as ImageFolders
from mtfrun.data.images.image_rows import IMAGES as IMAGES
from mtfrun.data.images.image_rows import Augmentation as Augmentation
from mtfrun.data.images.image_rows import CroppedRows as CroppedRows
from mtfrun.data.images.image_rows import PixelRows as PixelRows
from mtfrun.data.images.image_source import ImageExample as ImageExample
from mtfrun.data.images.image_source import ImageSource as ImageSource
from mtfrun.data.images.image_source import NoImages as NoImages
from mtfrun.data.images.rand_augment import RandAugment as RandAugment
from mtfrun.data.images.stored_image import EncodedImage as EncodedImage
from mtfrun.data.images.stored_image import PixelImage as PixelImage
from mtfrun.data.images.stored_image import StoredImage as StoredImage
from mtfrun.data.images.stored_image import Window as Window
from mtfrun.data.images.tfds_images import TfdsImages as TfdsImages
