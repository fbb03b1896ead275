"""A program, not a test: makes encoders of transformers, and asks transformers for logits.

    python transformers_encoders.py make NAME FOLDER   writes a model of `MODELS` and its case.npz,
                                                       or one of `STORED` into tests/oracle/hf
    python transformers_encoders.py logits FOLDER CASE compares the model of a folder with a case

Tests run it in a process of its own, for torch and TensorFlow do not share one well.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import numpy as np
import torch
import transformers

BERT: dict[str, Any] = {
    **{"vocab_size": 80, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 40},
}
DISTILBERT: dict[str, Any] = {
    **{"vocab_size": 80, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4},
    **{"max_position_embeddings": 40},
}
MODERNBERT: dict[str, Any] = {
    **{**BERT, "num_hidden_layers": 3, "local_attention": 8, "pad_token_id": 79},
    **{"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
}
T5: dict[str, Any] = {
    **{"vocab_size": 80, "d_model": 16, "d_ff": 24, "d_kv": 4, "num_layers": 2, "num_heads": 4},
    **{"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20},
}
LONGT5: dict[str, Any] = {
    **{**T5, "encoder_attention_type": "transient-global", "feed_forward_proj": "relu"},
    **{"local_radius": 5, "global_block_size": 4},
}
THREE = {"id2label": {0: "good", 1: "bad", 2: "neither"}}

# By name the class without "Config", its configuration, and the end of the class of the model.
MASKED, CLASSIFIER, ENCODER = "ForMaskedLM", "ForSequenceClassification", "EncoderModel"
SPANS = "ForQuestionAnswering"
STORED: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert": ("Bert", BERT, MASKED),
    "bert_classifier": ("Bert", {**BERT, **THREE}, CLASSIFIER),
    "bert_spans": ("Bert", BERT, SPANS),
    "roberta": ("Roberta", BERT, MASKED),
    "distilbert": ("DistilBert", DISTILBERT, MASKED),
    "modernbert": ("ModernBert", MODERNBERT, MASKED),
    "t5_encoder": ("T5", T5, ENCODER),
}
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert, a softmax of its own, relu, three types": (
        "Bert",
        {
            **BERT,
            **{"tie_word_embeddings": False, "hidden_act": "relu", "type_vocab_size": 3},
            **{"layer_norm_eps": 1e-3, "attention_probs_dropout_prob": 0.2},
        },
        MASKED,
    ),
    "bert, id 0 is a token": ("Bert", {**BERT, "pad_token_id": 7}, MASKED),
    "bert, two classes": ("Bert", {**BERT, "classifier_dropout": 0.3}, CLASSIFIER),
    "roberta, padding 0": ("Roberta", {**BERT, "pad_token_id": 0}, MASKED),
    "roberta, three classes": ("Roberta", {**BERT, **THREE}, CLASSIFIER),
    "distilbert, a softmax of its own": (
        "DistilBert",
        {**DISTILBERT, "tie_word_embeddings": False, "sinusoidal_pos_embds": True},
        MASKED,
    ),
    "distilbert, three classes": ("DistilBert", {**DISTILBERT, **THREE}, CLASSIFIER),
    "modernbert, biases": (
        "ModernBert",
        {
            **{**MODERNBERT, "num_hidden_layers": 4, "attention_bias": True, "mlp_bias": True},
            **{"norm_bias": True, "classifier_bias": True, "tie_word_embeddings": False},
            **{"hidden_activation": "silu", "classifier_activation": "relu"},
        },
        MASKED,
    ),
    "modernbert, no bias of the softmax": (
        "ModernBert",
        {**MODERNBERT, "decoder_bias": False, "layer_types": ["full_attention"] * 3},
        MASKED,
    ),
    "modernbert, the first vector": ("ModernBert", {**MODERNBERT, **THREE}, CLASSIFIER),
    "modernbert, mean of the vectors": (
        "ModernBert",
        {**MODERNBERT, **THREE, "classifier_pooling": "mean"},
        CLASSIFIER,
    ),
    "roberta, spans": ("Roberta", BERT, SPANS),
    "distilbert, spans": ("DistilBert", DISTILBERT, SPANS),
    "modernbert, spans": ("ModernBert", {**MODERNBERT, "classifier_bias": True}, SPANS),
    "t5 encoder, gated": ("T5", {**T5, "feed_forward_proj": "gated-gelu"}, ENCODER),
    "mt5 encoder": ("MT5", T5, ENCODER),
    "longt5 encoder": ("LongT5", LONGT5, ENCODER),
    "longt5 encoder, local, gated": (
        "LongT5",
        {**LONGT5, "encoder_attention_type": "local", "feed_forward_proj": "gated-gelu"},
        ENCODER,
    ),
}
ROWS, LENGTH = 4, 24
# Of every row; the others are padding.
LENGTHS = (24, 17, 5, 24)
ORACLE = pathlib.Path(__file__).parents[3] / "oracle" / "hf"
# Of float32, relative to the largest logit.
TOLERANCE = 1e-4
# Ids below are special.
FIRST_ID = 8


def make(name: str, folder: pathlib.Path) -> None:
    """Writes a model with random weights and what it computes."""
    kind, values, task = (STORED if folder.resolve().parent == ORACLE else MODELS)[name]
    torch.manual_seed(len(name))
    config = getattr(transformers, f"{kind}Config")(**values)
    model = getattr(transformers, f"{kind}{task}")(config).eval()
    random = np.random.default_rng(1)
    # transformers' loss of spans counts padding as places of answers: there is none.
    mask = np.arange(LENGTH) < np.array(LENGTHS if task != SPANS else [LENGTH] * ROWS)[:, None]
    ids = random.integers(FIRST_ID, config.vocab_size, mask.shape)
    case: dict[str, Any] = {
        "inputs": np.where(mask, ids, config.pad_token_id),
        "attention_mask": mask.astype(np.int64),
    }
    if task == CLASSIFIER:
        case["labels"] = random.integers(0, config.num_labels, len(mask))
    elif task == SPANS:
        case["spans"] = np.sort(random.integers(0, LENGTH, [ROWS, 2]))
    else:
        is_target = mask & (random.random(mask.shape) < 0.3)
        case["labels"] = np.where(is_target, random.integers(FIRST_ID, 80, mask.shape), -100)
    if getattr(config, "type_vocab_size", 0) > 1:
        case["types"] = random.integers(0, config.type_vocab_size, mask.shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.08 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        logits, loss = _run(model, case)
    case |= {"logits": logits.numpy(), "loss": loss.numpy().reshape(1)}
    np.savez(folder / "case.npz", **case)


def compare(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Raises unless the model of a folder gives the logits of a case."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
    case = dict(np.load(path))
    with torch.no_grad():
        logits = _run(model, case)[0].numpy()
    error = np.abs(logits - case["logits"]).max() / np.abs(case["logits"]).max()
    if not error <= TOLERANCE:
        raise AssertionError(f"logits differ by {error} of the largest")


def _run(model: Any, case: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits and loss; of an encoder without a softmax those by its embedding."""
    names = {"inputs": "input_ids", "types": "token_type_ids"}
    tensors = {names.get(x, x): torch.tensor(case[x]) for x in case}
    features = ["input_ids", "attention_mask", "token_type_ids", "labels"]
    if type(model).__name__.endswith(ENCODER):
        vectors = model(**{x: tensors[x] for x in features[:2]}).last_hidden_state
        logits = vectors @ model.shared.weight.T * model.config.d_model**-0.5
        labels = tensors["labels"].flatten()
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels)
    arguments = {x: tensors[x] for x in features if x in tensors}
    if "spans" in tensors:
        arguments["start_positions"], arguments["end_positions"] = tensors["spans"].T
    output = model(**arguments)
    if "spans" in tensors:
        return torch.stack([output.start_logits, output.end_logits], -1), output.loss
    return output.logits, output.loss


if __name__ == "__main__":
    action, first, second = sys.argv[1:]
    if action == "make":
        make(first, pathlib.Path(second))
    else:
        compare(pathlib.Path(first), pathlib.Path(second))
