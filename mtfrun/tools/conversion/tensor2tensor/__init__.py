"""Runs of Tensor2Tensor's models on Mesh TensorFlow: hyperparameters, flags, checkpoints."""

from mtfrun.tools.conversion.tensor2tensor.importer import (
    Tensor2TensorImporter as Tensor2TensorImporter,
)
