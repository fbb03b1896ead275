"""Run directories made of imported models appear whole or not at all."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import mtfrun
from mtfrun import mtf
from mtfrun.experiment.conversion import ConversionError, Imported, values_of_run, write_run
from mtfrun.experiment.runs.run import Run
from tests.cli.command import ROOT, environment, mtfrun_here

MESH = mtf.Mesh("data:1", "")


def _variables(directory: pathlib.Path) -> tuple[dict[str, mtf.Variable], list[str]]:
    variables = {
        "model/table": mtf.Variable(MESH, [mtf.Dimension("vocab", 3)]),
        "optimizer/table/m": mtf.Variable(MESH, [mtf.Dimension("vocab", 3)]),
        "step": mtf.Variable(MESH, [], dtype="int64"),
    }
    return variables, [str(directory.parent / "tokenizer/a.model")]


def _imported(table: np.ndarray) -> Imported:
    return Imported(
        config=lambda directory: f"# {directory}\n",
        values=lambda variables: {"model/table": table},
        step=7,
        files={"tokenizer/a.model": b"pieces"},
        record={"format": "none"},
    )


def test_a_run_has_its_configuration_values_step_files_and_record(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "run"
    table = np.array([1.0, 2.0, 3.0], np.float32)
    run = write_run(_imported(table), str(target), _variables)
    # The text names the final directory, though it was built in another one.
    assert run.read_config() == f"# {target}\n"
    values = values_of_run(run)
    assert values.step == 7
    assert list(values.values) == ["table"]
    np.testing.assert_array_equal(values.values["table"], table)
    slots = run.checkpoints().read(None, lambda manifest: list(manifest.variables))
    assert "optimizer/table/m" in slots
    assert (target / "tokenizer/a.model").read_bytes() == b"pieces"
    assert json.loads((target / "import.json").read_text()) == {"format": "none"}
    copies = json.loads((target / "files.json").read_text())["copies"]
    assert [*copies] == [str(target / "tokenizer/a.model")]
    assert copies[str(target / "tokenizer/a.model")]["file"] == "tokenizer/a.model"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_values_that_do_not_fit_leave_nothing_behind(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConversionError, match=r"model/table has sizes \[4\], not \[3\]"):
        write_run(_imported(np.zeros([4])), str(tmp_path / "run"), _variables)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_something_is_refused_and_left_as_it_is(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(ConversionError, match="is not empty"):
        write_run(_imported(np.zeros([3])), str(tmp_path / "run"), _variables)
    assert (tmp_path / "run" / "mine.txt").read_text() == "mine"


# Logits, relative to the largest one.
LOGITS = 1e-4

# Numbers of two digits, which are learnt by heart: rows of one length need no padding in
# transformers.
_TENS = {"2": "twenty", "4": "forty", "7": "seventy", "8": "eighty"}
_UNITS = {"1": "one", "5": "five", "6": "six", "9": "nine"}
WORDS = {t + u: f"{_TENS[t]}-{_UNITS[u]}" for t in _TENS for u in _UNITS}

# Prints the logits of the first answer, and the answers. Arguments: the folder, the model's class,
# numbers and the first answer as JSON.
TRANSFORMERS = """
import json, sys
import torch, transformers
folder, name = sys.argv[1:3]
numbers, answer = json.loads(sys.argv[3])
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = getattr(transformers, name).from_pretrained(folder).eval()
ids = tokenizer(numbers, return_tensors="pt").input_ids
target = tokenizer([answer], return_tensors="pt").input_ids
with torch.no_grad():
    outputs = model.generate(ids, do_sample=False, max_new_tokens=16)
    if model.config.is_encoder_decoder:
        logits = model(input_ids=ids[:1], labels=target).logits
    else:
        outputs = outputs[:, ids.shape[1]:]
        logits = model(input_ids=torch.cat([ids[:1], target], 1)).logits
answers = tokenizer.batch_decode(outputs, skip_special_tokens=True)
print(json.dumps({"answers": answers, "logits": logits.tolist()}))
"""


def _python(*arguments: str | pathlib.Path) -> str:
    """Returns what Python prints, without asking for anything in a network."""
    process = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment(), "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def _fine_tuned(form: str, directory: pathlib.Path) -> Run:
    """Returns a run that began with the random weights of a folder, as docs/random_models.py."""
    _python("docs/random_models.py", form, directory / "made")
    flags = [f"--from={directory / 'made'}", f"--model_dir={directory / 'imported'}"]
    assert mtfrun_here("import", *flags).returncode == 0
    pairs = directory / "pairs.tsv"
    pairs.write_text("".join(f"{a}\t{b}\n" for a, b in WORDS.items()))
    # A language model reads both texts in one row.
    rows = ["data/delimited_pairs.gin"] if form == "llama" else []
    lengths: dict[str, Any] = {"SEQUENCE_LENGTH": 20} if rows else {}
    return mtfrun.train(
        [str(directory / "imported/config.gin"), "data/tsv_pairs.gin", *rows],
        model_dir=directory / "tuned",
        TSV_FILES=dict.fromkeys(("train", "validation"), str(pairs)),
        INPUTS_LENGTH=4,
        TARGETS_LENGTH=16,
        **lengths,
        PACKED=False,
        TRAIN_STEPS=200,
        BATCH_SIZE=16,
        LEARNING_RATE=0.03,
        WARMUP_STEPS=20,
        EVAL_EVERY=None,
        gin_params=["DecodedPairs.num_decodes = 16", "Decoding.decode_length_constant = 16"],
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "kind"), [("byt5", "T5ForConditionalGeneration"), ("llama", "LlamaForCausalLM")]
)
def test_an_imported_model_learns_to_spell_numbers_and_is_exported(
    form: str, kind: str, tmp_path: pathlib.Path
) -> None:
    run = _fine_tuned(form, tmp_path)
    assert run.evaluate()["exact_match"] == 1.0
    flags = [f"--model_dir={run.model_dir}", f"--to={tmp_path / 'out'}", "--format=huggingface"]
    process = mtfrun_here("export", *flags)
    assert process.returncode == 0, process.stderr.decode()

    numbers = list(WORDS)
    answers = [answer.output for answer in run.decode(numbers)]
    assert answers == list(WORDS.values())
    request = json.dumps([numbers, answers[0]])
    theirs = json.loads(_python("-c", TRANSFORMERS, tmp_path / "out", kind, request))
    assert theirs["answers"] == answers

    inputs, targets = ([byte + 3 for byte in x.encode()] + [1] for x in (numbers[0], answers[0]))
    if form == "llama":
        logits = run.logits({"inputs": [inputs + targets]})
    else:
        logits = run.logits({"inputs": [inputs], "targets": [targets]})
    expected = np.asarray(theirs["logits"])
    np.testing.assert_allclose(logits, expected, atol=LOGITS * np.abs(expected).max())
