"""Runs of Mesh TensorFlow and T5: gin files, checkpoints with slots."""
