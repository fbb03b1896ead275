"""Imported models of texts compute what transformers does, and leave as they came."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from mtfrun.experiment import Logits
from mtfrun.experiment.runs.opening import RunObjects
from mtfrun.extras.huggingface.safetensors_file import write_file
from mtfrun.extras.huggingface.tables.folder import Folder
from tests.extras.huggingface.imported_models import (
    FOLDERS,
    LOGITS_TOLERANCE,
    LOSS_TOLERANCE,
    SCORE_TOLERANCE,
    Imported,
    assert_same_folder,
    assert_same_tensors,
    exported,
    imported_folder,
    logits_and_loss,
    models_of,
    pairs_of,
    run_program,
    sum_of_log_probabilities,
)
from tests.layouts import ONE_DEVICE, assert_close

MESH = "data:2,model:2"
NEW_TOKENS = 12

Case = Mapping[str, np.ndarray]


def _assert_same_language_model(built: RunObjects, case: Case) -> None:
    logits = Logits(built.experiment)({"inputs": case["inputs"]})
    assert_close(logits, case["logits"], LOGITS_TOLERANCE)
    of_targets, loss = logits_and_loss(built, {"targets": case["inputs"]})
    vocabulary = case["logits"].shape[-1]
    assert_close(of_targets[:, 1:, :vocabulary], case["logits"][:, :-1], LOGITS_TOLERANCE)
    assert abs(loss - case["loss"][0]) < LOSS_TOLERANCE
    size = case["prompt"].shape[1]
    new_tokens = {"decode_length": case["greedy"].shape[1] - size}
    greedy = built.experiment.inference.with_settings(new_tokens)
    texts = [
        record.texts[0].encode() for record in greedy.records(list(map(_text, case["prompt"])))
    ]
    assert texts == [_text(row[size:]) for row in case["greedy"]]


def _text(ids: np.ndarray) -> bytes:
    """Returns ids in decimals."""
    return " ".join(map(str, ids)).encode()


def _assert_same_encoder(built: RunObjects, case: Case) -> None:
    model = built.experiment.model
    mask = case["attention_mask"] > 0
    features = {"inputs": np.where(mask, case["inputs"], model.padding_of("inputs"))}
    if "types" in case:
        features["inputs_types"] = case["types"]
    if "spans" in case:
        features["inputs_types"] = case.get("types", np.zeros_like(case["inputs"]))
        assert_close(Logits(built.experiment)(features)[..., :2], case["logits"], LOGITS_TOLERANCE)
        _, loss = logits_and_loss(built, {**features, "targets": case["spans"]})
        assert abs(loss - case["loss"][0]) < LOSS_TOLERANCE
        return
    labels = case["labels"]
    has_sets = labels.ndim == 2 and labels.dtype == np.float32
    is_classifier = labels.ndim == 1 or has_sets
    logits = Logits(built.experiment)(features)
    found = logits[:, 0] if is_classifier else logits[mask]
    expected = case["logits"] if is_classifier else case["logits"][mask]
    found = found[..., : expected.shape[-1]]
    if has_sets:
        labels = np.array([_ids_of_set(row) for row in labels])
    elif labels.dtype == np.float32:  # numbers with three decimals
        labels, found = np.round(labels * 1000).astype(np.int32), found[..., :1]
    assert_close(found, expected, LOGITS_TOLERANCE)
    targets = np.full_like(features["inputs"], -1)
    if is_classifier:
        labels = labels.reshape(len(labels), -1)
        targets[:, : labels.shape[1]] = labels
    else:
        targets = np.where(labels >= 0, labels, model.padding_of("targets"))
    _, loss = logits_and_loss(built, {**features, "targets": targets})
    assert abs(loss - case["loss"][0]) < LOSS_TOLERANCE


def _ids_of_set(has_label: np.ndarray) -> np.ndarray:
    """Returns the ids of labels, an end, and padding."""
    ids = [*np.flatnonzero(has_label), len(has_label)]
    return np.array([*ids, *[-1] * (len(has_label) + 1 - len(ids))])


def _assert_same_encoder_decoder(built: RunObjects, case: Case) -> None:
    padding = built.experiment.model.padding_id
    inputs, targets = pairs_of(case, padding)
    logits, loss = logits_and_loss(built, {"inputs": inputs, "targets": targets})
    # Ids of padding differ from transformers' where they are -1, and have no loss.
    where = targets != padding if padding else np.ones_like(targets, bool)
    found = logits[where][..., : case["logits"].shape[-1]]
    assert_close(found, case["logits"][where], LOGITS_TOLERANCE)
    assert abs(loss - case["loss"][0]) < LOSS_TOLERANCE


def _assert_same_searches(built: RunObjects, case: Case) -> None:
    """The first id of transformers' outputs is the decoder's start."""
    vocabulary = built.experiment.data.vocabularies["targets"]
    padding = built.experiment.model.padding_of("targets")
    inputs, _ = pairs_of(case, padding)
    prompts = [vocabulary.decode(row).encode() for row in inputs]
    greedy = built.experiment.inference.with_settings({"decode_length": NEW_TOKENS})
    texts = [record.texts[0] for record in greedy.records(prompts)]
    assert texts == [vocabulary.decode(row[1:]) for row in case["greedy"]]
    if "beam3" not in case:
        return
    settings = {"decode_length": NEW_TOKENS, "beam_size": 3, "alpha": 0.0}
    records = built.experiment.inference.with_settings(settings).records(prompts)
    ours = [record.texts[0] for record in records]
    theirs = case["beam3"][:, 1:]
    if ours != [vocabulary.decode(row) for row in theirs]:
        expected = sum_of_log_probabilities(
            lambda ids: logits_and_loss(built, {"inputs": inputs, "targets": ids})[0], theirs
        )
        fields: list[Any] = [record.fields["outputs"] for record in records]
        scores = [outputs[0]["score"] for outputs in fields]
        assert_close(scores, expected, SCORE_TOLERANCE)


@dataclasses.dataclass(frozen=True)
class Kind:
    """Stored models, and further ones of a program, whose loss and logits `check` compares.

    `quick` are those of the default suite. Neither a layout nor XLA changes what a layer computes,
    which tests/layers checks: `on_mesh` are the kinds of attention, positions and experts. They
    also decode by XLA, if they are slow.
    """

    program: str
    names: Sequence[str]
    quick: Sequence[str]
    on_mesh: Sequence[str]
    check: Callable[[RunObjects, Case], None]

    @property
    def path(self) -> pathlib.Path:
        return pathlib.Path(__file__).with_name(self.program)


# Their vectors of positions count padding, in transformers too.
WITH_POSITIONS = ["bart", "marian", "pegasus", "mbart", "m2m_100"]
KINDS = {
    "language models": Kind(
        "transformers_models.py",
        [
            *("gpt2", "gpt_neo", "llama", "mistral", "mixtral", "qwen2"),
            *("glm", "glm4", "olmo", "olmo3", "starcoder2", "cohere2", "qwen3", "phi3", "olmo2"),
            *("smollm3", "gemma", "gemma2", "gemma3_text", "granite"),
            *("stablelm", "cohere", "phi", "gptj", "gpt_neox", "falcon", "opt", "bloom"),
            *("qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3"),
        ],
        ["gemma2"],
        ["gpt2", "gemma2", "bloom", "deepseek_v3"],
        _assert_same_language_model,
    ),
    "encoders": Kind(
        "transformers_encoders.py",
        [
            *("bert", "bert_classifier", "bert_spans", "bert_words", "roberta", "distilbert"),
            *("modernbert", "t5_encoder", "xlm_roberta", "camembert", "bert_headless"),
            "bert_labels",
        ],
        ["bert_labels"],
        ["bert_labels", "bert_spans", "modernbert"],
        _assert_same_encoder,
    ),
    "encoder-decoders": Kind(
        "transformers_encoder_decoders.py",
        ["t5_v1_0", "t5_v1_1", "switch", "umt5", "longt5", *WITH_POSITIONS],
        ["bart"],
        ["switch", "longt5", "bart"],
        _assert_same_encoder_decoder,
    ),
}
STORED = [
    pytest.param(kind, name, marks=[] if name in kind.quick else [pytest.mark.slow])
    for kind in KINDS.values()
    for name in kind.names
]
ON_MESH = [
    pytest.param(kind, name, marks=[pytest.mark.slow])
    for kind in KINDS.values()
    for name in kind.on_mesh
]
ENCODER_DECODERS = KINDS["encoder-decoders"].names
SEARCHED = [name for name in ENCODER_DECODERS if name != "longt5"]  # its decoder is T5's


@pytest.mark.parametrize(("kind", "name"), STORED)
def test_logits_loss_and_greedy_ids_are_those_of_transformers(
    kind: Kind, name: str, import_once: Callable[[str], Imported], request: pytest.FixtureRequest
) -> None:
    if name in kind.on_mesh and name not in kind.quick:
        request.getfixturevalue("decodes_by_xla")
    model = import_once(name)
    kind.check(model.opened(), model.case)


@pytest.mark.parametrize(("kind", "name"), ON_MESH)
def test_a_mesh_changes_nothing(
    kind: Kind, name: str, import_once: Callable[[str], Imported]
) -> None:
    model = import_once(name)
    kind.check(model.opened(MESH), model.case)


@pytest.mark.parametrize(("kind", "name"), STORED)
def test_an_export_gives_back_every_byte(
    kind: Kind, name: str, import_once: Callable[[str], Imported]
) -> None:
    model = import_once(name)
    assert_same_folder(exported(model), model.folder)


@pytest.fixture(scope="module")
def made_folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pathlib.Path]:
    """Models of the programs by name, for all chosen tests: torch is imported once for each."""
    folders: dict[str, pathlib.Path] = {}
    arguments: dict[pathlib.Path, list[str | pathlib.Path]] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname.startswith("test_other_conf"):
            kind, name = item.callspec.params["kind"], str(item.callspec.params["name"])
            assert isinstance(kind, Kind)
            folders[name] = tmp_path_factory.mktemp("made") / "folder"
            arguments.setdefault(kind.path, []).extend([name, folders[name]])
    for program, names in arguments.items():
        run_program(program, "make", *names)
    return folders


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS.values() for name in models_of(kind.path)]
)
def test_other_configurations_compute_what_transformers_does(
    kind: Kind, name: str, made_folders: Mapping[str, pathlib.Path]
) -> None:
    folder = made_folders[name]
    model = imported_folder(str(folder), folder)
    kind.check(model.opened(), model.case)
    if kind is KINDS["encoder-decoders"] and not name.startswith("longt5, local"):
        _assert_same_searches(model.opened(), model.case)
    assert_same_folder(exported(model), folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mesh"), [*((name, ONE_DEVICE) for name in SEARCHED), ("bart", MESH)]
)
def test_greedy_and_beam_search_find_what_transformers_finds(
    name: str, mesh: str, import_once: Callable[[str], Imported], request: pytest.FixtureRequest
) -> None:
    if name in KINDS["encoder-decoders"].on_mesh:
        request.getfixturevalue("decodes_by_xla")
    model = import_once(name)
    _assert_same_searches(model.opened(mesh), model.case)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ENCODER_DECODERS if name not in WITH_POSITIONS])
def test_padding_before_the_inputs_changes_nothing(
    name: str, import_once: Callable[[str], Imported]
) -> None:
    model = import_once(name)
    case = model.case
    built = model.opened()
    padding = built.experiment.model.padding_id
    inputs, targets = pairs_of(case, padding)
    padded = np.full([len(inputs), inputs.shape[1] + 3], padding, inputs.dtype)
    for row, ids in zip(padded, inputs, strict=True):
        row[len(row) - np.count_nonzero(ids != padding) :] = ids[ids != padding]
    logits, _ = logits_and_loss(built, {"inputs": padded, "targets": targets})
    is_target = targets != padding
    found = logits[is_target][..., : case["logits"].shape[-1]]
    assert_close(found, case["logits"][is_target], LOGITS_TOLERANCE)


def test_labels_with_a_probability_above_one_half_are_decoded(
    import_once: Callable[[str], Imported],
) -> None:
    model = import_once("bert_labels")
    built, mask = model.opened(), model.case["attention_mask"] > 0
    inputs = np.where(mask, model.case["inputs"], 0)
    rows = zip(inputs, mask, strict=True)
    prompts = [" ".join(map(str, ids[is_id])).encode() for ids, is_id in rows]
    records = built.experiment.inference.records(prompts)
    logits = Logits(built.experiment)({"inputs": inputs})[:, 0, :4]
    for record, odds in zip(records, logits.astype(np.float64), strict=True):
        names = np.array(["sport", "money, law", "art", "food"])[odds > 0]
        assert record.texts == ["; ".join(names)]
        outputs: Any = record.fields["outputs"]
        assert_close(
            outputs[0]["score"], -np.log1p(np.exp(-odds[odds > 0])).sum(), LOGITS_TOLERANCE
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert_spans", "bert_words"])
def test_a_pooler_that_no_head_reads_is_kept(name: str, tmp_path: pathlib.Path) -> None:
    """As in published models whose pretraining had one."""
    source, folder = Folder(FOLDERS / name), tmp_path / "folder"
    tensors = {x: stored.read() for x, stored in source.tensors.items()}
    width = source.config["hidden_size"]
    tensors["bert.pooler.dense.weight"] = np.ones([width, width], np.float32)
    tensors["bert.pooler.dense.bias"] = np.ones([width], np.float32)
    folder.mkdir()
    write_file(folder / "model.safetensors", tensors, source.metadata)
    (folder / "config.json").write_text(json.dumps(source.config))
    model = imported_folder(name, folder)
    _assert_same_encoder(model.opened(), model.case)
    assert_same_tensors(exported(model), folder)
