"""A program, not a test: makes encoders of transformers, with what they compute.

    python transformers_encoders.py make NAME FOLDER   writes a model of `MODELS`, or of a
                                                       config.json, as in tests/oracle/hf, and its
                                                       case.npz
    python transformers_encoders.py pairs NAME FOLDER  writes a classifier, its tokenizer, and in
                                                       case.npz pairs of texts, ids and logits
    python transformers_encoders.py words NAME FOLDER  writes one of words likewise

Tests run it in a process of its own, for torch and TensorFlow do not share one well.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import numpy as np
import tokenizers
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
SEVERAL: dict[str, Any] = {
    "id2label": {0: "sport", 1: "money, law", 2: "art", 3: "food"},
    "problem_type": "multi_label_classification",
}

# By name the class without "Config", its configuration, and the end of the class of the model.
MASKED, CLASSIFIER, ENCODER = "ForMaskedLM", "ForSequenceClassification", "EncoderModel"
HEADLESS = "Model"
SPANS, WORDS = "ForQuestionAnswering", "ForTokenClassification"
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
    "bert, a number": ("Bert", {**BERT, "num_labels": 1}, CLASSIFIER),
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
    "distilbert, words": ("DistilBert", {**DISTILBERT, **THREE}, WORDS),
    "xlm-roberta, a softmax of its own, relu, padding 5": (
        "XLMRoberta",
        {
            **{**BERT, "tie_word_embeddings": False, "hidden_act": "relu", "pad_token_id": 5},
            **{"num_attention_heads": 3, "hidden_size": 18, "num_hidden_layers": 3},
        },
        MASKED,
    ),
    "distilbert, several labels": ("DistilBert", {**DISTILBERT, **SEVERAL}, CLASSIFIER),
    "distilbert, no head": ("DistilBert", DISTILBERT, HEADLESS),
    "modernbert, no head": ("ModernBert", {**MODERNBERT, "norm_bias": True}, HEADLESS),
    "t5 encoder, gated": ("T5", {**T5, "feed_forward_proj": "gated-gelu"}, ENCODER),
    "longt5 encoder": ("LongT5", LONGT5, ENCODER),
    "longt5 encoder, local, gated": (
        "LongT5",
        {**LONGT5, "encoder_attention_type": "local", "feed_forward_proj": "gated-gelu"},
        ENCODER,
    ),
}
CLASSIFIERS = {
    "bert": ("Bert", {**BERT, **THREE}),
    "distilbert": ("DistilBert", {**DISTILBERT, **THREE}),
    "roberta": ("Roberta", {**BERT, **THREE}),
}
# Pairs of texts for rows of `PAIR_LENGTH` ids: some fit, of others one text is too long, or both.
PAIRS = [
    ("The fish ate it.", "It was tasty."),
    ("The fish ate the worm.", ""),
    ("It rained, and it rained, and it rained, and it rained.", "It is wet."),
    ("It is wet.", "It rained, and it rained, and it rained, and it rained."),
    ("The fish ate the worm, and it was tasty, was it?", "The worm was not, and it was eaten."),
    ("The worm was eaten by the fish.", "The fish was eaten by the worm."),
    ("The fish [SEP] the worm.", "It was [SEP] tasty."),
]
PAIR_LENGTH = 40
WORD_LISTS = [
    ["The", "fish", "didn't", "eat", "it", "."],
    ["It", "rained"] * 12,
    ["was", "it", "$5.00", "?"],
]
ROWS, LENGTH = 4, 24
# Of every row; the others are padding.
LENGTHS = (24, 17, 5, 24)
# Ids below are special.
FIRST_ID = 8


def make(name: str, folder: pathlib.Path) -> None:
    """Writes a model with random weights and what it computes."""
    torch.manual_seed(len(name))
    if (folder / "config.json").exists():
        config = transformers.AutoConfig.from_pretrained(folder)
        (model_class,) = config.architectures
        task = next(
            x for x in (MASKED, CLASSIFIER, SPANS, WORDS, HEADLESS) if model_class.endswith(x)
        )
    else:
        kind, values, task = MODELS[name]
        config, model_class = getattr(transformers, f"{kind}Config")(**values), f"{kind}{task}"
    model = getattr(transformers, model_class)(config).eval()
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
        if config.num_labels == 1:
            case["labels"] = random.integers(0, 5001, len(mask)).astype(np.float32) / 1000
        elif config.problem_type == "multi_label_classification":
            case["labels"] = random.integers(0, 2, [len(mask), config.num_labels])
            case["labels"] = case["labels"].astype(np.float32)
    elif task == SPANS:
        case["spans"] = np.sort(random.integers(0, LENGTH, [ROWS, 2]))
    else:
        is_target = mask & (random.random(mask.shape) < 0.3)
        first, last = (0, config.num_labels) if task == WORDS else (FIRST_ID, 80)
        case["labels"] = np.where(is_target, random.integers(first, last, mask.shape), -100)
    if getattr(config, "type_vocab_size", 0) > 1:
        case["types"] = random.integers(0, config.type_vocab_size, mask.shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.08 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        logits, loss = _run(model, case)
    case |= {"logits": logits.numpy(), "loss": loss.numpy().reshape(1)}
    np.savez(folder / "case.npz", **case)


def make_pairs(name: str, folder: pathlib.Path) -> None:
    """Writes a classifier with a tokenizer of its kind, and what both make of `PAIRS`."""
    tokenizer = _tokenizer(name)
    first, second = (list(texts) for texts in zip(*PAIRS, strict=True))
    rows = tokenizer(first, second, **_FORM)
    arrays = _classify(name, CLASSIFIER, tokenizer, rows, folder)
    np.savez(folder / "case.npz", first=first, second=second, **arrays)


def make_words(name: str, folder: pathlib.Path) -> None:
    """Writes a model that labels words with its tokenizer, and what both make of `WORD_LISTS`."""
    tokenizer = _tokenizer(name)
    rows = tokenizer(WORD_LISTS, is_split_into_words=True, **_FORM)
    words = [[-1 if i is None else i for i in rows.word_ids(row)] for row in range(len(WORD_LISTS))]
    texts = list(map(" ".join, WORD_LISTS))
    arrays = _classify(name, WORDS, tokenizer, rows, folder)
    np.savez(folder / "case.npz", texts=texts, words=words, **arrays)


_FORM: dict[str, Any] = {
    **{"truncation": True, "max_length": PAIR_LENGTH, "padding": "max_length"},
    **{"return_token_type_ids": True, "return_tensors": "pt"},
}


def _tokenizer(name: str) -> Any:
    """Returns a small tokenizer as BERT's, or as RoBERTa's."""
    texts = [text for pair in PAIRS for text in pair]
    trainer = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if name == "roberta":
        trainer.train_from_iterator(texts, 266, special_tokens=special, show_progress=False)
        merges = json.loads(trainer.to_str())["model"]["merges"]
        merges = list(map(tuple, merges))
        # Words are tokenized behind a space.
        return transformers.RobertaTokenizer(trainer.get_vocab(), merges, add_prefix_space=True)
    letters = sorted({letter for text in texts for letter in text.lower() if letter != " "})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, "the", "fish", "##ate"]
    tokens += [f"##{letter}" for letter in letters]
    return transformers.BertTokenizer({token: i for i, token in enumerate(tokens)})


def _classify(
    name: str, task: str, tokenizer: Any, rows: Any, folder: pathlib.Path
) -> dict[str, Any]:
    """Writes a random model for a task with its tokenizer; returns rows and their logits."""
    kind, values = CLASSIFIERS[name]
    # RoBERTa's positions begin at 2.
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": PAIR_LENGTH}
    sizes["max_position_embeddings"] += 2 * (name == "roberta")
    torch.manual_seed(len(name))
    config = getattr(transformers, f"{kind}Config")(**{**values, **sizes})
    model = getattr(transformers, f"{kind}{task}")(config).eval()
    arguments = {x: rows[x] for x in ("input_ids", "attention_mask")}
    if name == "bert":
        arguments["token_type_ids"] = rows["token_type_ids"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.08 * torch.randn_like(parameter))
        logits = model(**arguments).logits
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"logits": logits.numpy(), **{x: values.numpy() for x, values in rows.items()}}


def _run(model: Any, case: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits and loss; of a model without a softmax those by its embedding."""
    names = {"inputs": "input_ids", "types": "token_type_ids"}
    tensors = {names.get(x, x): torch.tensor(case[x]) for x in case}
    features = ["input_ids", "attention_mask", "token_type_ids", "labels"]
    if type(model).__name__.endswith(HEADLESS):
        arguments = {x: tensors[x] for x in features[:3] if x in tensors}
        logits = model(**arguments).last_hidden_state @ model.get_input_embeddings().weight.T
        if type(model).__name__.endswith(ENCODER):
            logits *= model.config.d_model**-0.5
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
    action, first, second, *further = sys.argv[1:]
    if action == "make":
        for name, folder in zip([first, *further[::2]], [second, *further[1::2]], strict=True):
            make(name, pathlib.Path(folder))
    elif action == "pairs":
        make_pairs(first, pathlib.Path(second))
    else:
        make_words(first, pathlib.Path(second))
