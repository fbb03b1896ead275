"""Objectives: what a model is to learn from running text."""
