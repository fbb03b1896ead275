"""What parted two trainings, or a training and its repetition."""
