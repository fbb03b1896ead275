"""Vocabularies: text to ids and back."""

from mtfrun.data.vocabularies.byte_vocabulary import ByteVocabulary as ByteVocabulary
from mtfrun.data.vocabularies.hugging_face_vocabulary import (
    HuggingFaceVocabulary as HuggingFaceVocabulary,
)
from mtfrun.data.vocabularies.id_vocabulary import IdVocabulary as IdVocabulary
from mtfrun.data.vocabularies.label_vocabulary import LabelVocabulary as LabelVocabulary
from mtfrun.data.vocabularies.sentencepiece_vocabulary import (
    SentencePieceVocabulary as SentencePieceVocabulary,
)
from mtfrun.data.vocabularies.vocabulary import EncodedTexts as EncodedTexts
from mtfrun.data.vocabularies.vocabulary import Vocabulary as Vocabulary
