"""Configurations of encoder-decoders that are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.families import family_of
from mtfrun.extras.huggingface.families.encoder_decoders.t5 import SOFTMAX
from mtfrun.extras.huggingface.importer import read_folder
from mtfrun.extras.huggingface.tables.settings import Settings
from tests.extras.huggingface.imported_models import FOLDERS

T5 = {
    "model_type": "t5",
    "vocab_size": 110,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
SWITCH = {
    **T5,
    "model_type": "switch_transformers",
    "num_experts": 4,
    "expert_capacity": 64,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
}
LONGT5 = {
    **{**T5, "model_type": "longt5", "tie_word_embeddings": False},
    "encoder_attention_type": "transient-global",
}


@pytest.mark.parametrize(
    "values, setting",
    [
        ({**T5, "scale_decoder_outputs": True}, "scale_decoder_outputs=True"),
        ({**T5, "tie_word_embeddings": True}, "scale_decoder_outputs=None"),
        ({**SWITCH, "tie_word_embeddings": True}, "tie_word_embeddings=True"),
    ],
)
def test_a_softmax_of_its_own_whose_logits_are_scaled_is_refused(
    values: dict[str, Any], setting: str
) -> None:
    with pytest.raises(ConversionError, match=f"{setting} scales the logits"):
        _write(values)


@pytest.mark.parametrize("values", [T5, SWITCH])
def test_a_softmax_of_its_own_is_not_tied(values: dict[str, Any]) -> None:
    assert "tied_softmax = False" in _write({**values, "tie_word_embeddings": False})


@pytest.mark.parametrize(
    ("setting", "value", "problem"),
    [
        ("encoder_attention_type", "global", "supported: 'local', 'transient-global'"),
        ("feed_forward_proj", "gated-mish", "supported: relu, "),
        ("global_block_size", 0, "must be an integer of at least 1"),
        ("local_radius", "127", "must be an integer of at least 1"),
    ],
)
def test_an_unknown_form_of_attention_or_layers_is_refused(
    setting: str, value: object, problem: str
) -> None:
    with pytest.raises(ConversionError, match=f"{setting}={value!r} .*{problem}"):
        _write({**LONGT5, setting: value})


def _write(values: dict[str, Any]) -> str:
    """Returns the gin file of a folder with a separate softmax."""
    # There are no more layers than tensors.
    tensors = frozenset([SOFTMAX, *map(str, range(8))])
    settings, file = Settings(values, "config.json", tensors), GinFile(["A model."])
    family_of(settings).write_gin(settings, file)
    return file.text()


def test_a_note_says_that_no_token_is_dropped() -> None:
    notes = read_folder(FOLDERS / "switch").notes
    assert any("transformers drops the further tokens of a row" in note for note in notes)
