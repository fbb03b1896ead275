"""Vocabularies: text to ids and back."""

from mtfrun.data.vocabularies.byte_vocabulary import ByteVocabulary
from mtfrun.data.vocabularies.hugging_face_vocabulary import HuggingFaceVocabulary
from mtfrun.data.vocabularies.id_vocabulary import IdVocabulary
from mtfrun.data.vocabularies.label_vocabulary import LabelVocabulary
from mtfrun.data.vocabularies.sentencepiece_training import (
    SentencePieceTraining,
    train_sentencepiece,
)
from mtfrun.data.vocabularies.sentencepiece_vocabulary import SentencePieceVocabulary
from mtfrun.data.vocabularies.vocabulary import EncodedTexts, Vocabulary

__all__ = [
    "ByteVocabulary",
    "EncodedTexts",
    "HuggingFaceVocabulary",
    "IdVocabulary",
    "LabelVocabulary",
    "SentencePieceTraining",
    "SentencePieceVocabulary",
    "Vocabulary",
    "train_sentencepiece",
]
