"""Controls: requirements on outputs, whatever the decoding method."""
