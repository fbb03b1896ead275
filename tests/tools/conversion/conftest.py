"""Programs that need torch and transformers, which the slow tests start; they are no tests."""

collect_ignore = [
    "peft_process.py",
    "transformers_process.py",
    "hugging_face/transformers_images.py",
    "hugging_face/transformers_encoders.py",
    "hugging_face/transformers_models.py",
]
