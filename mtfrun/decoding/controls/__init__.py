"""Controls: what is asked of outputs, whatever the decoding method."""
