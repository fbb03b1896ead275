"""Sources of text and images, vocabularies, and batches of integer features on a mesh."""

from mtfrun.data.batches import Batches, every_row
from mtfrun.data.data import Data, TextData
from mtfrun.data.delimited_pairs_data import DelimitedPairsData
from mtfrun.data.entropy import bz2_bits_per_byte, conditional_entropy
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
from mtfrun.data.order import ONLY_HOST, Host
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
from mtfrun.data.rows import Batch, Rows, Selection
from mtfrun.data.sequence_to_sequence_data import SequenceToSequenceData
from mtfrun.data.sources.source import Example, Source
from mtfrun.data.sources.text_files import TextFiles, TextLines, TextParagraphs
from mtfrun.data.sources.tfds_source import Tfds
from mtfrun.data.sources.tsv import Tsv
from mtfrun.data.task import Fields, Preprocessor, Task
from mtfrun.data.task_data import TaskData
from mtfrun.data.tfds_images import TfdsImages
from mtfrun.data.vocabularies import ByteVocabulary, EncodedTexts, Vocabulary

__all__ = [
    "IMAGES",
    "INPUTS",
    "LANGUAGE_MODEL_FEATURES",
    "ONLY_HOST",
    "OUTER_BATCH",
    "TARGETS",
    "TARGETS_POSITION",
    "TARGETS_SEGMENTATION",
    "Answering",
    "AnsweringInRow",
    "Batch",
    "Batches",
    "ByteVocabulary",
    "Continuing",
    "Data",
    "DataError",
    "DelimitedPairsData",
    "EncodedTexts",
    "Example",
    "Feature",
    "Fields",
    "Host",
    "IdxImages",
    "ImageData",
    "ImageSource",
    "Infeed",
    "LanguageModelData",
    "PairsData",
    "Preprocessor",
    "PromptLimits",
    "Prompting",
    "Row",
    "Rows",
    "ScoredRow",
    "Selection",
    "SequenceToSequenceData",
    "Source",
    "Task",
    "TaskData",
    "TextData",
    "TextFiles",
    "TextLines",
    "TextParagraphs",
    "Tfds",
    "TfdsImages",
    "Tsv",
    "Vocabulary",
    "bucket",
    "bz2_bits_per_byte",
    "conditional_entropy",
    "every_row",
    "ids_feature",
    "language_model_shapes",
    "packed_features",
    "padded",
    "read_image",
    "sequence_to_sequence_shapes",
    "split_batch",
    "validate_batch",
]
