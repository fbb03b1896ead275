"""Folders of Hugging Face: config.json, safetensors, tokenizers; import and export."""
