"""Layers that adapt a trained model: LoRA, bottlenecks, prompts."""
