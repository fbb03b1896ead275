"""Folders of Hugging Face: config.json, safetensors, tokenizers; import and export."""

from mtfrun.tools.conversion.hugging_face.importer import HuggingFaceImporter as HuggingFaceImporter
