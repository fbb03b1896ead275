"""Sources of text and images, vocabularies, and batches of integer features on a mesh."""

from mtfrun.data.batches import Batches, every_row
from mtfrun.data.builders.reading import reading
from mtfrun.data.data import Data, TextData
from mtfrun.data.delimited_pairs_data import DelimitedPairsData
from mtfrun.data.denoising_data import DelimitedDenoisingData, DenoisingData
from mtfrun.data.entropy import bz2_bits_per_byte, conditional_entropy
from mtfrun.data.errors import DataError
from mtfrun.data.features import (
    INPUTS,
    OUTER_BATCH,
    TARGETS,
    TARGETS_POSITION,
    TARGETS_SEGMENTATION,
    Feature,
    ids_feature,
    packed_features,
    split_batch,
    validate_batch,
)
from mtfrun.data.images import (
    IMAGES,
    CentreCrop,
    Crop,
    IdxImages,
    ImageData,
    ImageExample,
    ImageFolders,
    ImageSource,
    NoImages,
    RandAugment,
    RandomResizedCrop,
    TfdsImages,
    read_image,
)
from mtfrun.data.infeed import Infeed, host_of
from mtfrun.data.language_model_data import LanguageModelData
from mtfrun.data.masked_language_model_data import MaskedLanguageModelData
from mtfrun.data.mixture import Mixture, ProportionalToExamples, choose, feature_length
from mtfrun.data.objectives import (
    Denoiser,
    FeatureLengths,
    IidDenoising,
    MaskedLanguageModel,
    MixtureOfDenoisers,
    Objective,
    PrefixLanguageModel,
    RawText,
    SpanCorruption,
)
from mtfrun.data.order import ONLY_HOST, Host
from mtfrun.data.padding import Padding, padding_of
from mtfrun.data.pairs_data import PairsData
from mtfrun.data.postprocessing import LabelNumber, Number
from mtfrun.data.preprocessors import (
    Fields,
    FillInTheBlank,
    FilterByStringLength,
    Glue,
    LabelNames,
    MultiTranslate,
    NextSentencePrediction,
    ParseTsv,
    Preprocessor,
    RankClassification,
    Record,
    Rekey,
    Squad,
    StreamPreprocessor,
    Summarize,
    Translate,
    TriviaQa,
    Wsc,
)
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
from mtfrun.data.sources.json_lines import JsonLines
from mtfrun.data.sources.libreoffice_help import LibreOfficeHelp
from mtfrun.data.sources.no_source import NoSource
from mtfrun.data.sources.parquet import Parquet
from mtfrun.data.sources.source import Example, Source
from mtfrun.data.sources.text_files import TextFiles, TextLines, TextParagraphs
from mtfrun.data.sources.tfds_source import Tfds
from mtfrun.data.sources.tfrecord import Tfrecord
from mtfrun.data.sources.tsv import Tsv
from mtfrun.data.sources.wordnet import WordNetGlosses, wordnet_classes
from mtfrun.data.task import Task
from mtfrun.data.task_data import TaskData
from mtfrun.data.text_classification_data import TextClassificationData
from mtfrun.data.vocabularies import (
    ByteVocabulary,
    EncodedTexts,
    HuggingFaceVocabulary,
    IdVocabulary,
    LabelVocabulary,
    SentencePieceTraining,
    SentencePieceVocabulary,
    Vocabulary,
    train_sentencepiece,
)

__all__ = [
    "IMAGES",
    "INPUTS",
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
    "CentreCrop",
    "Continuing",
    "Crop",
    "Data",
    "DataError",
    "DelimitedDenoisingData",
    "DelimitedPairsData",
    "Denoiser",
    "DenoisingData",
    "EncodedTexts",
    "Example",
    "Feature",
    "FeatureLengths",
    "Fields",
    "FillInTheBlank",
    "FilterByStringLength",
    "Glue",
    "Host",
    "HuggingFaceVocabulary",
    "IdVocabulary",
    "IdxImages",
    "IidDenoising",
    "ImageData",
    "ImageExample",
    "ImageFolders",
    "ImageSource",
    "Infeed",
    "JsonLines",
    "LabelNames",
    "LabelNumber",
    "LabelVocabulary",
    "LanguageModelData",
    "LibreOfficeHelp",
    "MaskedLanguageModel",
    "MaskedLanguageModelData",
    "Mixture",
    "MixtureOfDenoisers",
    "MultiTranslate",
    "NextSentencePrediction",
    "NoImages",
    "NoSource",
    "Number",
    "Objective",
    "Padding",
    "PairsData",
    "Parquet",
    "ParseTsv",
    "PrefixLanguageModel",
    "Preprocessor",
    "PromptLimits",
    "Prompting",
    "ProportionalToExamples",
    "RandAugment",
    "RandomResizedCrop",
    "RankClassification",
    "RawText",
    "Record",
    "Rekey",
    "Row",
    "Rows",
    "ScoredRow",
    "Selection",
    "SentencePieceTraining",
    "SentencePieceVocabulary",
    "SequenceToSequenceData",
    "Source",
    "SpanCorruption",
    "Squad",
    "StreamPreprocessor",
    "Summarize",
    "Task",
    "TaskData",
    "TextClassificationData",
    "TextData",
    "TextFiles",
    "TextLines",
    "TextParagraphs",
    "Tfds",
    "TfdsImages",
    "Tfrecord",
    "Translate",
    "TriviaQa",
    "Tsv",
    "Vocabulary",
    "WordNetGlosses",
    "Wsc",
    "bucket",
    "bz2_bits_per_byte",
    "choose",
    "conditional_entropy",
    "every_row",
    "feature_length",
    "host_of",
    "ids_feature",
    "packed_features",
    "padded",
    "padding_of",
    "read_image",
    "reading",
    "split_batch",
    "train_sentencepiece",
    "validate_batch",
    "wordnet_classes",
]
