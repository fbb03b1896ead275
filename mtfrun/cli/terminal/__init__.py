"""What a terminal shows, and the signals that come from it."""
