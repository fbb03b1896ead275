"""Runs of Tensor2Tensor's models on Mesh TensorFlow: hyperparameters, flags, checkpoints."""
