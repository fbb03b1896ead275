"""Preprocessors that write texts as T5 does, so that T5's checkpoints recognise them."""
