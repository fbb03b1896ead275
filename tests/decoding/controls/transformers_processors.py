"""Runs in a process of its own, since torch and TensorFlow share no process well.

    python transformers_processors.py CASE.npz PROCESSED.npz

Writes what transformers' processors make of logits, by the names in `test_processors`.
"""

import sys

import numpy as np
import torch
import transformers


def main() -> None:
    """Writes the processed logits of one case."""
    source, target = sys.argv[1:]
    with np.load(source) as arrays:
        logits, ids, ends = (torch.tensor(arrays[name]) for name in ("logits", "ids", "ends"))
    ids, t = ids.long(), transformers
    processors = {
        "repetition": t.RepetitionPenaltyLogitsProcessor(1.3),
        **{f"{n}-grams": t.NoRepeatNGramLogitsProcessor(n) for n in (1, 2, 3, 4, 30)},
        "least length with the prompt": t.MinLengthLogitsProcessor(10, ends.tolist()),
        "forbidden words": t.NoBadWordsLogitsProcessor([[7], [2, 3, 4, 2, 6], [7, 7, 1], [6, 0]]),
        "min_p 0.1": t.MinPLogitsWarper(0.1),
        "min_p 1": t.MinPLogitsWarper(1.0),
        **{f"typical {mass}": t.TypicalLogitsWarper(mass) for mass in (0.2, 0.7, 0.95)},
    }
    results = {name: process(ids, logits.clone()).numpy() for name, process in processors.items()}
    np.savez(target, **results)


if __name__ == "__main__":
    main()
