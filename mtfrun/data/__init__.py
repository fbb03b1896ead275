"""Sources of text and images, vocabularies, and batches of integer features on a mesh."""

from mtfrun.data.data import Data, TextData
from mtfrun.data.delimited_pairs_data import DelimitedPairsData
from mtfrun.data.entropy import bz2_bits_per_byte, conditional_entropy
from mtfrun.data.epochs import ahead, endless, filled, shuffled
from mtfrun.data.errors import DataError
from mtfrun.data.features import (
    INPUTS,
    LANGUAGE_MODEL_FEATURES,
    OUTER_BATCH,
    TARGETS,
    TARGETS_POSITION,
    TARGETS_SEGMENTATION,
    Feature,
    ids_feature,
    language_model_shapes,
    packed_features,
    sequence_to_sequence_shapes,
    split_batch,
    validate_batch,
)
from mtfrun.data.idx_images import IdxImages
from mtfrun.data.image_data import IMAGES, ImageData, ImageSource
from mtfrun.data.image_files import read_image
from mtfrun.data.infeed import Infeed
from mtfrun.data.language_model_data import LanguageModelData
from mtfrun.data.packing import first_fit, pack, segmentation_and_position
from mtfrun.data.pairs_data import PairsData
from mtfrun.data.prompting import (
    Answering,
    AnsweringInRow,
    Continuing,
    Prompting,
    PromptLimits,
    Row,
    ScoredRow,
    bucket,
    padded,
)
from mtfrun.data.sequence_to_sequence_data import SequenceToSequenceData
from mtfrun.data.sources.source import Example, Source
from mtfrun.data.sources.text_files import TextFiles, TextLines, TextParagraphs
from mtfrun.data.sources.tfds_source import Tfds
from mtfrun.data.sources.tsv import Tsv
from mtfrun.data.tfds_images import TfdsImages
from mtfrun.data.vocabularies import ByteVocabulary, EncodedTexts, Vocabulary

__all__ = [
    "IMAGES",
    "INPUTS",
    "LANGUAGE_MODEL_FEATURES",
    "OUTER_BATCH",
    "TARGETS",
    "TARGETS_POSITION",
    "TARGETS_SEGMENTATION",
    "Answering",
    "AnsweringInRow",
    "ByteVocabulary",
    "Continuing",
    "Data",
    "DataError",
    "DelimitedPairsData",
    "EncodedTexts",
    "Example",
    "Feature",
    "IdxImages",
    "ImageData",
    "ImageSource",
    "Infeed",
    "LanguageModelData",
    "PairsData",
    "PromptLimits",
    "Prompting",
    "Row",
    "ScoredRow",
    "SequenceToSequenceData",
    "Source",
    "TextData",
    "TextFiles",
    "TextLines",
    "TextParagraphs",
    "Tfds",
    "TfdsImages",
    "Tsv",
    "Vocabulary",
    "ahead",
    "bucket",
    "bz2_bits_per_byte",
    "conditional_entropy",
    "endless",
    "filled",
    "first_fit",
    "ids_feature",
    "language_model_shapes",
    "pack",
    "packed_features",
    "padded",
    "read_image",
    "segmentation_and_position",
    "sequence_to_sequence_shapes",
    "shuffled",
    "split_batch",
    "validate_batch",
]
