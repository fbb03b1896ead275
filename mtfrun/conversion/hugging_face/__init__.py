"""Folders of Hugging Face: config.json, safetensors, tokenizers; import and export."""

from mtfrun.conversion.hugging_face.export import export_folder as export_folder
from mtfrun.conversion.hugging_face.hugging_face_importer import (
    HuggingFaceImporter as HuggingFaceImporter,
)
from mtfrun.conversion.hugging_face.made_here import made_here as made_here
from mtfrun.conversion.hugging_face.origin import Origin as Origin
from mtfrun.conversion.hugging_face.origin import read_origin as read_origin
from mtfrun.conversion.hugging_face.origin import write_origin as write_origin
from mtfrun.conversion.hugging_face.tokenizer_files import (
    has_tokenizer_of as has_tokenizer_of,
)
from mtfrun.conversion.hugging_face.tokenizer_files import with_tokenizer as with_tokenizer
from mtfrun.conversion.hugging_face.tokenizer_files import (
    without_tokenizer as without_tokenizer,
)

__all__ = [
    "HuggingFaceImporter",
    "Origin",
    "export_folder",
    "has_tokenizer_of",
    "made_here",
    "read_origin",
    "with_tokenizer",
    "without_tokenizer",
    "write_origin",
]
