"""Runs in a process of its own, since torch and TensorFlow share no process well.

python peft_process.py make BASE CLASS ADAPTER MODULE...           a LoRA with random values
python peft_process.py logits BASE CLASS ADAPTER FEATURES LOGITS   of the model with a LoRA
"""

import sys

import numpy as np
import peft
import torch
import transformers


def main() -> None:
    """Makes a LoRA, or writes the logits of one."""
    command, base, model_class, adapter, *arguments = sys.argv[1:]
    model = getattr(transformers, model_class).from_pretrained(base, dtype=torch.float32)
    if command == "make":
        torch.manual_seed(0)
        config = peft.LoraConfig(
            r=4, lora_alpha=6, target_modules=arguments, init_lora_weights=False
        )
        peft.get_peft_model(model, config).save_pretrained(adapter)
        return
    features, target = arguments
    adapted = peft.PeftModel.from_pretrained(model, adapter).eval()
    with np.load(features) as arrays:
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    with torch.no_grad():
        np.save(target, adapted(**tensors).logits.float().numpy())


if __name__ == "__main__":
    main()
