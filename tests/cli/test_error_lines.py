"""Every error of a configuration is one line with the place and the remedy."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.cli.main import main
from mtfrun.cli.parser import all_commands
from mtfrun.configuration.errors import one_line
from mtfrun.data import DataError
from mtfrun.display.streams import OutputError
from mtfrun.errors import ConfigError, InputError, is_input_error
from mtfrun.files import RunDirError
from mtfrun.models import NonFiniteError
from mtfrun.mtf import LayoutError, ShapeError
from mtfrun.optim import MissingGradientError

LM = [
    "train",
    "--dry_run",
    "--gin_file=defaults.gin",
    "--gin_file=models/lm_tiny.gin",
    "--gin_file=data/python_docs.gin",
]


def _refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Returns the one line that the command printed."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("mtfrun: error: ")
    return line.removeprefix("mtfrun: error: ")


# What follows "FLAG: ", by flag.
FLAGS = {
    "--gin.TRAIN_STEP=14": "macro TRAIN_STEP has no effect: nothing uses it, did you mean "
    "'TRAIN_STEPS'?",
    "--gin.FeedForward.dff=3": "FeedForward has no parameter 'dff', did you mean 'd_ff'?",
    "--gin.FeedForwrd.d_ff=3": "nothing is called FeedForwrd, did you mean 'FeedForward'?",
    "--gin_param=Training.optimizer = @optim.Adm()": "nothing is called optim.Adm, did you mean "
    "'optim.Adam'?",
    "--gin.BATCH_SIZE=%BATCH": "macro BATCH has no value, did you mean 'BATCH_SIZE'?",
    "--gin.BATCH_SIZE=%MINE": "macro MINE has no value; give it one in a gin file",
    "--gin.D_MODEL='wide'": "transformer.TokenEmbedding.d_model is 'wide': it must be int",
    "--gin.TRAIN_STEPS=1e4": "training.TrainOptions.train_steps is 10000.0: it must be int; write "
    "10000",
    "--gin.Training.optimizer='adam'": "Training.optimizer is 'adam': it must be a reference, such "
    "as @optim.Adam()",
    "--gin.D_KV=-1": "transformer.AttentionHeads.d_kv is -1: it must be at least 1",
    "--gin.LAYOUT=None": "mtf.Mesh.layout is None: it must be a list of a list of str or str or a "
    "reference",
    "--gin.MESH_SHAPE=data:2,model:1": "not a gin value: write values as in Python: True, 1.5, "
    "'text', [1, 2], @optim.Adam(); within quotes of the shell: --gin.NAME=\"'text'\"",
    "--gin.Adam.beta1=0.5": "Adam.beta1 has no effect: nothing in this configuration refers to "
    "Adam",
    "--gin.DecoderOnly.vocabulary_size=9": "DecoderOnly.vocabulary_size has no effect: the program "
    "sets it itself",
    "--gin.TRAIN_STEPS=%gin.REQUIRED": "TRAIN_STEPS needs a value, as in --gin.TRAIN_STEPS=100",
    "--gin.DROPOUT_RATE=1.5": "transformer.SelfAttention.dropout_rate is 1.5: it must be at least "
    "0 and less than 1",
    "--gin.LAYOUT='heads:modle'": "layout rule heads:modle names a mesh axis that does not exist "
    "(the mesh is data:1;model:1), did you mean 'model'?",
    "--gin.MESH_SHAPE='2x2'": "'2x2' is not a dimension: write 'name:size'",
    f"--gin.SEED={10**30}": f"an integer does not fit 64 bits: {10**30}",
    "--gin.D_MODEL=%D_MODEL": "the value of D_MODEL depends on itself: give it another one",
    "--gin_param=Adafactor.learning_rate = @Adafactor()": "the value of Adafactor depends on "
    "itself: give it another one",
}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_wrong_flag_is_one_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(capsys, [*LM, flag]) == f"{flag}: {FLAGS[flag]}"


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (
            "--gin.MESH_SHAPE='data:1,model:3'",
            "mesh data:1;model:3 does not divide heads:4 over model:3 (3 or 6), d_ff:512 over "
            "model:3 (510 or 513): use the sizes in brackets, or change the mesh",
        ),
        (
            "--gin.BATCH_SIZE=9999999999999",
            "dimension 'batch' must have a size of at most 2147483647, got 9999999999999",
        ),
        (
            "--gin.LAYOUT='bacth:data'",
            "layout rule bacth:data names no dimension of this model, did you mean 'batch'?",
        ),
    ],
)
def test_values_that_do_not_fit_each_other_are_one_line(
    flag: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _refused(capsys, [*LM, flag]) == expected


@pytest.mark.parametrize("length", [2, 60])
def test_macros_in_a_cycle_are_one_line(length: int, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["D_MODEL", "D_FF", *(f"M{i}" for i in range(length - 2))]
    flags = [
        f"--gin.{name}=[%{other}]"
        for name, other in zip(names, [*names[1:], names[0]], strict=True)
    ]
    line = _refused(capsys, [*LM, *flags])
    # The error is at the last flag, or at the one before the macro at which the program begins.
    messages = {
        f"{names[i]} depends on itself, by way of {(names * 2)[i + 1]}" for i in range(length)
    }
    assert line.startswith("--gin.") and any(text in line for text in messages)


def test_a_chain_of_macros_that_gin_cannot_follow_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chain = [f"--gin.M{i}=%M{i + 1}" for i in range(500)]
    line = _refused(capsys, [*LM, "--gin.D_MODEL=%M0", *chain, "--gin.M500=16"])
    assert line.endswith("is 64 references deep: give a value")
    # A chain of half the largest length is accepted.
    assert main([*LM, "--gin.D_MODEL=%M0", *chain[:30], "--gin.M30=16"]) == 0


@pytest.mark.parametrize("depth", [100, 5000])
def test_a_deeply_nested_list_is_one_short_line(
    depth: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = "[" * depth + "]" * depth
    file = tmp_path / "deep.gin"
    file.write_text(f"\nD_MODEL = {value}\n")
    for place, flag in (("--gin.D_MODEL=[", f"--gin.D_MODEL={value}"), (str(file), None)):
        line = _refused(capsys, [*LM, flag or f"--gin_file={file}"])
        assert line.startswith(place) and len(line) < 500
        assert line.endswith("a value is nested more than 64 deep")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "USE_AVERAGES = true",
            "5: not a gin value: USE_AVERAGES = true; write values as in Python: True, 1.5, "
            "'text', [1, 2], @optim.Adam()",
        ),
        (
            "transformer.TokenEmbedding.d_modle = 3",
            "5: transformer.TokenEmbedding has no parameter 'd_modle', did you mean 'd_model'?",
        ),
        (
            "transformer.DecoderOny.prefix = True",
            "5: nothing is called transformer.DecoderOny, did you mean 'transformer.DecoderOnly'?",
        ),
        (
            "optim.Adam.beta1 = 0.1",
            "5: 'optim' is not imported; add `from mtfrun import optim` at the top of this file",
        ),
        (
            "DecodedPairs.num_decodes = 3",
            "5: 'DecodedPairs' is not imported; write experiment.DecodedPairs, with `from mtfrun "
            "import experiment` at the top of this file",
        ),
        ("from mtfrun import optimm", "5: no module 'mtfrun.optimm', did you mean 'optim'?"),
        ("D_MODLE = 3", "5: macro D_MODLE has no effect: nothing uses it, did you mean 'D_MODEL'?"),
        ("D_MODEL = ", "5: Unable to parse value: D_MODEL ="),
        (
            'include "models/lm_tin.gin"',
            "5: gin file models/lm_tin.gin does not exist (searched: the working directory, the "
            "files of the package), did you mean 'models/lm_tiny.gin'?",
        ),
    ],
)
def test_a_wrong_line_in_a_file_is_named(
    text: str, expected: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\n"
        "from mtfrun.models import transformer\n\n"
        f"# a comment\n{text}\n"
    )
    assert _refused(capsys, [*LM, f"--gin_file={file}"]) == f"{file}:{expected}"


def test_a_file_without_imports_is_told_which_to_add(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.gin"
    # A function that no other file of this process has made known to gin.
    file.write_text("transformer.FeedForward.activation = @mtf.leaky_relu\n")
    line = _refused(capsys, ["train", "--dry_run", f"--gin_file={file}", *LM[2:]])
    assert line == (
        f"{file}:1: nothing is called mtf.leaky_relu in this file; add `from __gin__ import "
        "dynamic_registration` and `from mtfrun import mtf` at its top"
    )


def test_a_macro_without_a_value_has_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(capsys, [*LM, "--gin_file=data/delimited_pairs.gin"]).startswith(
        "data/delimited_pairs.gin:28: macro INPUTS_LENGTH has no value; it has one in "
        "data/number_tasks.gin, data/number_words.gin, "
    )
    line = _refused(capsys, [*LM, "--gin_file=data/jsonl.gin"])
    assert "JSONL_FILES needs a value, as in --gin.JSONL_FILES=" in line


def test_the_size_of_a_head_follows_from_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*LM, "--gin.D_KV=@transformer.head_size()", "--gin.D_MODEL=96", "--gin.D_FF=8"]
    assert main([*flags, "--gin.NUM_LAYERS=1", "--gin.NUM_HEADS=4"]) == 0
    assert "heads:4;d_kv:24" in capsys.readouterr().out
    line = _refused(capsys, [*flags, "--gin.NUM_LAYERS=1", "--gin.NUM_HEADS=5"])
    assert "d_model=96 is not a multiple of num_heads=5" in line


def test_layout_rules_of_other_models_are_no_error() -> None:
    assert main([*LM, "--gin.LAYOUT='batch:data;experts:model;memory_length:model;x:data'"]) == 0


def test_a_bracket_that_is_left_open_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.gin"
    file.write_text("D_MODEL = (3\n")
    line = _refused(capsys, [*LM, f"--gin_file={file}"])
    # Which line it is and what it is called depends on the version of Python.
    assert line.startswith(f"{file}:") and line.endswith("(is a bracket left open?)")


def test_a_file_that_includes_itself_is_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.gin"
    file.write_text(f'include "{file}"\n')
    assert _refused(capsys, [*LM, f"--gin_file={file}"]) == f"gin file {file} includes itself"


def test_files_without_a_model_name_the_missing_parameter(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = _refused(
        capsys, ["train", "--dry_run", "--gin_file=defaults.gin", "--gin_file=data/python_docs.gin"]
    )
    assert line.startswith("Experiment needs a value for model: bind Experiment.model")


def test_search_paths_come_after_the_working_directory_and_before_the_package(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/lm_tiny.gin").write_text("BROKEN = 1\n")
    line = _refused(capsys, [*LM, f"--gin_search_paths={tmp_path}"])
    assert line.startswith(f"{tmp_path}/models/lm_tiny.gin:1: macro BROKEN has no effect")


def test_settings_of_an_optimizer_that_is_replaced_are_no_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--gin_param=Training.optimizer = @Sgd()", "--gin.Sgd.learning_rate=0.1"]
    assert main([*LM, *flags]) == 0, capsys.readouterr().err


def test_an_unwritable_model_dir_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    arguments = [argument for argument in LM if argument != "--dry_run"]
    line = _refused(capsys, [*arguments, f"--model_dir={file}/run"])
    assert line == (
        f"--model_dir {file}/run cannot be written: Not a directory; "
        "name a directory you may write to, or free space there"
    )


@pytest.mark.parametrize("command", [["eval"], ["decode", "--prompt=x"]])
def test_a_model_dir_without_checkpoints_is_one_line(
    command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = _refused(capsys, [*command, f"--model_dir={tmp_path}"])
    assert line.startswith(f"no checkpoint in {tmp_path}/checkpoints: check --model_dir, or make")
    line = _refused(capsys, [*command, f"--model_dir={tmp_path}/none"])
    assert line.startswith(f"--model_dir {tmp_path}/none is not a directory")


def test_an_unexpected_error_has_its_traceback(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "mine.gin"
    file.write_text("import broken_module\n")
    assert main([*LM, f"--gin_file={file}"]) == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error and "broken_module.py" in error


@pytest.mark.parametrize(("error", "code"), [("errors.InputError", 2), ("ValueError", 1)])
def test_an_input_error_of_a_users_module_is_one_line_and_its_value_error_a_defect(
    error: str,
    code: int,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = f"refusing_module_{code}"  # gin knows a class for the whole process
    (tmp_path / f"{module}.py").write_text(
        "from mtfrun import data, errors\n\n\n"
        "class Vocabulary(data.ByteVocabulary):\n"
        "    def __init__(self):\n"
        f"        raise {error}('size=0 must be positive')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "mine.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\nfrom mtfrun import data\n"
        f"import {module}\ndata.Task.vocabulary = @{module}.Vocabulary()\n"
    )
    assert main([*LM, f"--gin_file={file}"]) == code
    lines = capsys.readouterr().err.splitlines()
    if code == 2:
        assert lines == ["mtfrun: error: size=0 must be positive"]
    else:
        assert f"{module}.py" in "".join(lines)
        assert lines[-1].startswith("mtfrun: this is a defect, of mtfrun or of a module of yours")


def test_every_error_of_ours_is_the_users_to_correct() -> None:
    kinds = (ConfigError, DataError, LayoutError, MissingGradientError, NonFiniteError)
    for kind in (*kinds, OutputError, RunDirError, ShapeError, InputError):
        assert is_input_error(kind("what, where, remedy")) and issubclass(kind, ValueError)


def test_errors_of_the_system_are_the_users_to_correct_and_others_are_not() -> None:
    assert is_input_error(FileNotFoundError(2, "No such file", "x"))
    assert is_input_error(MemoryError())
    for text in ("can't start new thread", "std::bad_alloc"):
        assert is_input_error(RuntimeError(text)) and not is_input_error(ValueError(text))
    library = ImportError("libtensorflow_cc.so.2: failed to map segment from shared object")
    assert is_input_error(library) and "raise the limit" in one_line(library)
    for error in (ValueError("x"), TypeError("x"), KeyError("x"), RuntimeError("x")):
        assert not is_input_error(error)


def test_too_little_memory_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(flags: object, command: object) -> int:
        raise MemoryError("Unable to allocate 13.6 PiB for an array")

    monkeypatch.setitem(all_commands(), "train", all_commands()["train"]._replace(run=train))
    assert _refused(capsys, LM) == (
        "not enough memory: Unable to allocate 13.6 PiB for an array; make the model or the batch "
        "smaller"
    )
