"""A program that needs torch and transformers, which slow tests start; it is no test."""

collect_ignore = ["judged_models.py"]
