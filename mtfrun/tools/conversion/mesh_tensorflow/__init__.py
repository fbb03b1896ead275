"""Runs of Mesh TensorFlow and T5: gin files, checkpoints with slots."""

from mtfrun.tools.conversion.mesh_tensorflow.importer import (
    MeshTensorFlowImporter as MeshTensorFlowImporter,
)
