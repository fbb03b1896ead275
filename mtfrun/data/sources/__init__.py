"""Sources of examples: files of text and of records, and TFDS datasets."""
