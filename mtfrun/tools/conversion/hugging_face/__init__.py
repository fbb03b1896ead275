"""Folders of Hugging Face: config.json, safetensors, tokenizers; import and export."""

from mtfrun.tools.conversion.hugging_face.export import describe_model as describe_model
from mtfrun.tools.conversion.hugging_face.export import export_folder as export_folder
from mtfrun.tools.conversion.hugging_face.importer import (
    HuggingFaceImporter as HuggingFaceImporter,
)
from mtfrun.tools.conversion.hugging_face.origin import Origin as Origin
from mtfrun.tools.conversion.hugging_face.origin import read_origin as read_origin
from mtfrun.tools.conversion.hugging_face.tokenizer_files import (
    has_tokenizer_of as has_tokenizer_of,
)
from mtfrun.tools.conversion.hugging_face.tokenizer_files import with_tokenizer as with_tokenizer
from mtfrun.tools.conversion.hugging_face.tokenizer_files import (
    without_tokenizer as without_tokenizer,
)
