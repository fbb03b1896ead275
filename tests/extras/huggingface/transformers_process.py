"""Runs in a process of its own, since torch and TensorFlow share no process well.

    python transformers_process.py FOLDER FEATURES.npz LOGITS.npy CLASS

Loads a folder as transformers does, in float32, and writes the logits of the features.
"""

import sys

import numpy as np
import torch
import transformers


def main() -> None:
    """Writes the logits of one folder."""
    folder, features, target, model_class = sys.argv[1:]
    model, report = getattr(transformers, model_class).from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    problems = {name: value for name, value in report.items() if value}
    assert not problems, problems
    with np.load(features) as arrays:
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    with torch.no_grad():
        logits = model.eval()(**tensors).logits
    np.save(target, logits.float().numpy())


if __name__ == "__main__":
    main()
