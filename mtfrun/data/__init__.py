"""Text or images in, batches of integer features on the mesh out."""

from mtfrun.data.entropy import bz2_bits_per_byte, conditional_entropy
from mtfrun.data.errors import DataError
from mtfrun.data.features import (
    LANGUAGE_MODEL_FEATURES,
    TARGETS,
    TARGETS_POSITION,
    TARGETS_SEGMENTATION,
    language_model_shapes,
    validate_batch,
)
from mtfrun.data.image_data import ImageData, ImageSource
from mtfrun.data.infeed import Infeed
from mtfrun.data.language_model_data import LanguageModelData
from mtfrun.data.packing import pack, segmentation_and_position
from mtfrun.data.sources import TextSource, read_bytes
from mtfrun.data.text_files import TextFiles, TextLines
from mtfrun.data.tfds_images import TfdsImages
from mtfrun.data.tfds_text import TfdsText
from mtfrun.data.vocabulary import ByteVocabulary, Vocabulary

__all__ = [
    "LANGUAGE_MODEL_FEATURES",
    "TARGETS",
    "TARGETS_POSITION",
    "TARGETS_SEGMENTATION",
    "ByteVocabulary",
    "DataError",
    "ImageData",
    "ImageSource",
    "Infeed",
    "LanguageModelData",
    "TextFiles",
    "TextLines",
    "TextSource",
    "TfdsImages",
    "TfdsText",
    "Vocabulary",
    "bz2_bits_per_byte",
    "conditional_entropy",
    "language_model_shapes",
    "pack",
    "read_bytes",
    "segmentation_and_position",
    "validate_batch",
]
