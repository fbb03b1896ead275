"""SavedModels of TensorFlow made of trained models; programs that load them do not need mtfrun."""
