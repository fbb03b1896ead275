"""Vocabularies: text to ids and back."""

from mtfrun.data.vocabularies.byte_vocabulary import ByteVocabulary
from mtfrun.data.vocabularies.vocabulary import EncodedTexts, Vocabulary

__all__ = ["ByteVocabulary", "EncodedTexts", "Vocabulary"]
