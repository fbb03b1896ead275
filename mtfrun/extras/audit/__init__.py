"""Finds why two trainings differ, or a training and its replay."""
