"""Programs that need torch and transformers, which the slow tests start; they are no tests."""

collect_ignore = ["transformers_processors.py"]
