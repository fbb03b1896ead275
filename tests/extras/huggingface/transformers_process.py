"""Runs in a process of its own, since torch and TensorFlow share no process well.

    python transformers_process.py logits FOLDER CLASS FEATURES.npz LOGITS.npy [ADAPTER]
    python transformers_process.py lora FOLDER CLASS ADAPTER MODULE...

Writes the logits of the features by a folder, in float32, with a LoRA of PEFT or without, or makes
a LoRA with random values.
"""

import sys

import numpy as np
import torch
import transformers


def main() -> None:
    """Writes the logits, or the LoRA, of one folder."""
    command, folder, model_class, *arguments = sys.argv[1:]
    model, report = getattr(transformers, model_class).from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    problems = {name: value for name, value in report.items() if value}
    assert not problems, problems
    if command == "lora":
        import peft  # noqa: PLC0415 - it takes seconds

        torch.manual_seed(0)
        adapter, *modules = arguments
        config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=modules, init_lora_weights=False)
        peft.get_peft_model(model, config).save_pretrained(adapter)
        return
    features, target, *adapters = arguments
    if adapters:
        import peft  # noqa: PLC0415

        model = peft.PeftModel.from_pretrained(model, *adapters)
    with np.load(features) as arrays:
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    with torch.no_grad():
        logits = model.eval()(**tensors).logits
    np.save(target, logits.float().numpy())


if __name__ == "__main__":
    main()
