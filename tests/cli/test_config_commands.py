"""The commands `config ...` say what there is, what a run uses, what differs, what a name means."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

from mtfrun.configuration.files import SHIPPED, shipped_gin_files
from tests.cli.command import error_line, mtfrun_here

QUICK = "--gin_file=runs/quickstart.gin"
_TEXT = (SHIPPED / "runs/quickstart.gin").read_text().splitlines()
STEPS_LINE = f"runs/quickstart.gin:{_TEXT.index('TRAIN_STEPS = 1500') + 1}"


def _lines(*arguments: str) -> list[str]:
    """Returns what `mtfrun config ...` printed; lines of at most 80 characters, but docstrings."""
    process = mtfrun_here("config", *arguments)
    assert process.returncode == 0 and process.stderr == b"", process.stderr
    lines = process.stdout.decode().splitlines()
    assert max(map(len, lines)) <= 80 or arguments[0] == "explain"
    return lines


def _json(*arguments: str) -> Any:
    process = mtfrun_here("config", *arguments, "--json")
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_show_without_a_configuration_has_every_shipped_file_with_its_first_line_by_folder() -> (
    None
):
    text = "\n".join(_lines("show"))
    assert all(f"  {name} " in text for name in shipped_gin_files())
    assert text.index("\nmodels/\n") < text.index("  models/lm_small.gin")
    assert "A language model of 3.3 million parameters over bytes" in " ".join(text.split())
    names = [header["name"] for header in _json("show")]
    assert names == shipped_gin_files()


def test_words_choose_files_by_names_and_descriptions() -> None:
    names = [header["name"] for header in _json("show", "quickstart", "DIGITS")]
    assert {"runs/quickstart.gin", "runs/digits.gin", "data/digits.gin"} <= set(names)
    assert "models/lm_small.gin" not in names
    assert "did you mean 'quickstart.gin'" in error_line(mtfrun_here("config", "show", "quikstart"))


def test_the_list_of_files_needs_no_tensorflow() -> None:
    script = (
        "import sys; from mtfrun.cli.main import main; main(['config', 'show']); "
        "sys.exit(bool({'tensorflow', 'gin', 'numpy'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert process.returncode == 0 and b"runs/quickstart.gin" in process.stdout


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("clip_norm", ["training.TrainOptions:", "    clip_norm = None  # default"]),
        ("frozen", ["    frozen = ()  # default"]),
        ("max_to_keep", ["training.CheckpointOptions:", "    max_to_keep = 3  # default"]),
        ("exclude_from_weight_decay", ["optim.Muon:"]),
        ("TRAIN_STEPS", [f"    train_steps = 1500  # {STEPS_LINE} (TRAIN_STEPS)"]),
    ],
)
def test_show_finds_what_no_gin_file_names(word: str, expected: list[str]) -> None:
    lines = _lines("show", QUICK, word)
    assert set(expected) <= set(lines)
    assert any(line.startswith("        # ") for line in lines)


def test_show_says_what_has_set_a_value_and_its_default() -> None:
    flags = [QUICK, "--gin.TRAIN_STEPS=70", "--gin.SelfAttention.dropout_rate=0.25"]
    settings = {(s["owner"], s["name"]): s for s in _json("show", *flags)}
    steps = settings["training.TrainOptions", "train_steps"]
    assert (steps["value"], steps["place"], steps["macros"], steps["default"]) == (
        *("70", "--gin.TRAIN_STEPS=70", ["TRAIN_STEPS"], None),
    )
    rate = settings["transformer.SelfAttention", "dropout_rate"]
    assert (rate["value"], rate["default"], rate["macros"]) == ("0.25", "0.0", [])
    assert rate["place"] == "--gin.SelfAttention.dropout_rate=0.25"
    norm = settings["training.TrainOptions", "clip_norm"]
    assert (norm["value"], norm["place"]) == ("None", None)
    assert norm["doc"].startswith("largest global norm of the gradients")
    # The program passes it, no file does.
    assert settings["transformer.DecoderOnly", "vocabulary_size"]["value"] is None
    # What the run does not use is not shown.
    assert ("optim.Adam", "beta1") not in settings


def test_show_tells_scopes_apart() -> None:
    settings = {s["owner"]: s for s in _json("show", "--gin_file=runs/denoise.gin", "blocks")}
    assert {"encoder/transformer.Stack", "decoder/transformer.Stack"} <= set(settings)


def test_show_and_diff_read_run_directories(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (setting,) = _json("show", f"--model_dir={language_model_run}", "d_ff")
    assert (setting["value"], setting["place"]) == ("32", setting["place"])
    assert setting["place"].startswith(f"{language_model_run}/config.gin:")
    file = tmp_path / "other.gin"
    text = (language_model_run / "config.gin").read_text()
    file.write_text(text + "\nD_FF = 64\n")
    assert _json("diff", str(language_model_run), str(file))["differences"] == [
        {"owner": "transformer.FeedForward", "name": "d_ff", "a": "32", "b": "64"}
    ]
    assert _lines("diff", str(language_model_run), str(language_model_run)) == [
        "the settings are the same"
    ]


def test_diff_shows_values_and_classes_that_differ() -> None:
    lines = _lines("diff", "runs/quickstart.gin", "runs/denoise.gin")
    place = lines.index("training.TrainOptions:")
    assert lines[place + 1 : place + 3] == ["-   train_steps = 1500", "+   train_steps = 2000"]
    assert any(line.startswith("- uses data.LanguageModelData, ") for line in lines)
    assert any(line.startswith("+ uses data.DenoisingData, ") for line in lines)


def test_diff_of_models_takes_what_both_need() -> None:
    lines = _lines("diff", "--gin_file=defaults.gin", "models/lm_tiny.gin", "models/lm_small.gin")
    assert "+   d_model = 256" in lines


def test_explain_a_macro() -> None:
    (macro,) = _json("explain", "%TRAIN_STEPS")
    assert macro["kind"] == "macro" and "steps" in macro["text"].splitlines()
    assert "training.TrainOptions.train_steps" in macro["used_by"]
    assert f"{STEPS_LINE}: 1500" in macro["set_by"]


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("@Adafactor()", "class", None),
        ("max_to_keep", "parameter", "3"),
        ("mtf.relu", "function", None),
    ],
)
def test_explain_a_class_a_function_or_a_parameter(
    name: str, kind: str, default: str | None
) -> None:
    explanation = _json("explain", name)[0]
    assert (explanation["kind"], explanation["default"]) == (kind, default)
    assert explanation["text"]
    if kind == "class":
        assert explanation["parameters"]["beta1"][0] == "0.0"
        assert any(place.startswith("defaults.gin:") for place in explanation["set_by"])
    assert _lines("explain", name)[0].endswith(f" ({kind})")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("TRAIN_STEP", "did you mean 'TRAIN_STEPS'?"),
        ("Adafctor", "did you mean 'Adafactor'?"),
        ("TrainOptions.clipnorm", "did you mean 'TrainOptions.clip_norm'?"),
    ],
)
def test_explain_names_what_is_near(name: str, hint: str) -> None:
    assert hint in error_line(mtfrun_here("config", "explain", name))


def test_explain_prints_the_header_of_a_gin_file_of_the_package(tmp_path: pathlib.Path) -> None:
    (file,) = _json("explain", "models/moe_1d_tiny.gin")
    assert file["kind"] == "gin file"
    lines = file["text"].splitlines()
    assert lines[0].startswith("A language model with 8 experts")
    assert "Cost: a token costs about as much as with lm_tiny; 5 MB of parameters" in lines
    assert "NUM_EXPERTS: experts a mixture" in lines
    own = tmp_path / "my.gin"
    own.write_text("X = 1")
    line = error_line(mtfrun_here("config", "explain", str(own)))
    assert f"mtfrun config show --gin_file={own}" in line


def test_what_show_prints_is_what_training_uses(language_model_run: pathlib.Path) -> None:
    """Every parameter of the operative configuration is shown, with its value."""
    config = f"--gin_file={language_model_run / 'config.gin'}"
    shown = {(s["owner"], s["name"]): s["value"] for s in _json("show", config)}
    operative = (language_model_run / "operative_config.gin").read_text()
    compared = 0
    values: dict[str, str] = dict(re.findall(r"^([\w./]+) = (.*)$", operative, re.MULTILINE))
    for (owner, name), value in shown.items():
        used = values.get(f"{owner}.{name}", "")
        used = values.get(used.removeprefix("%")) or used  # a macro, or a value
        if value is not None and re.match(r"[\w']", used):
            assert used == value, f"{owner}.{name}"
            compared += 1
    assert compared > 40
