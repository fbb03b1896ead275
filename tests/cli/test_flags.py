"""Flags are parsed without TensorFlow, and their errors name the remedy."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

import mtfrun
from mtfrun.cli.main import main
from mtfrun.cli.parser import parse_flags
from mtfrun.errors import InputError
from mtfrun.experiment.runs.opening import Settings
from tests.cli.command import ROOT

RUN = ["train", "--gin_file=a.gin", "--model_dir=/tmp/x"]


def test_gin_flags_become_bindings_in_their_order() -> None:
    flags = parse_flags([*RUN, "--gin.A=1", "--gin_file=b.gin", "--gin.B.c='x=y'"])
    assert flags.gin_file == ["a.gin", "b.gin"]
    assert flags.bindings == [("--gin.A=1", "A = 1"), ("--gin.B.c='x=y'", "B.c = 'x=y'")]


def test_flags_of_t5_and_t5x_are_those_of_mtfrun() -> None:
    flags = parse_flags(
        [
            *RUN,
            *("--gin_bindings=A = 1", "--gin_param=B = 2", "--gin_bindings=C = 3"),
            *("--gin_location_prefix=/a,/b", "--gin_search_paths=/c"),
            *("--module_import=my.tasks", "--module_import=others"),
            "--t5_tfds_data_dir=/data",
        ]
    )
    assert [text for _, text in flags.bindings] == [
        *("A = 1", "B = 2", "C = 3", "TFDS_DATA_DIR = '/data'")
    ]
    assert flags.gin_search_paths == ["/c", "/a", "/b"]
    settings = Settings.of_flags(flags)
    assert settings.modules == settings.allowed_imports == ["my.tasks", "others"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "-gin_file=a.gin", "-model_dir", "/tmp/x", "-gin.A=1", "--dry_run=true"],
        ["train", "--gin_file", "a.gin", "--model_dir=/tmp/x", "--gin.A", "1", "-dry_run"],
        ["--gin_file=a.gin", "--gin.A=1", "--dry_run=1", "train", "--model_dir=/tmp/x"],
        [*RUN, "--gin.A=1", "--dry_run", "--norestart", "--profile=false", "--nodebug"],
    ],
)
def test_flags_are_taken_as_absl_takes_them(arguments: list[str]) -> None:
    flags = parse_flags(arguments)
    assert (flags.gin_file, flags.model_dir) == (["a.gin"], "/tmp/x")
    assert flags.bindings == [("--gin.A=1", "A = 1")]
    assert (flags.dry_run, flags.restart, flags.profile) == (True, False, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hlep"], "no command 'hlep', did you mean 'help'?"),
        (["help", "trian"], "no command 'trian', did you mean 'train'?"),
        (["trian"], "no command 'trian', did you mean 'train'?"),
        ([*RUN, "--modle_dir=x"], "no flag --modle_dir, did you mean '--model_dir'?"),
        (["train"], "train needs a configuration: --gin_file=runs/quickstart.gin"),
        (["train", "--gin_file=a.gin"], "train needs a directory for the run"),
        (["eval"], "eval needs the directory of a run"),
        (
            ["eval", "--model_dir=x", "--checkpoint=last"],
            "neither a step nor latest nor best nor all",
        ),
        (["decode", "--model_dir=x"], "decode needs prompts"),
        (["decode", "--model_dir=x", "--prompt=a", "--input=b"], "decode needs prompts"),
        (["decode", "--model_dir=x", "--prompt=a", "--checkpoint=all"], "nor latest"),
        (["decode", "--model_dir=x", "--interactive", "--output=a"], "leave --output out"),
        (["decode", "--model_dir=x", "--prompt=a", "--log_probs=-1"], "must be at least 0"),
        ([*RUN, "--gin.TRAIN_STEPS"], "needs a name and a value"),
        (
            ["decode", "--model_dir=x", "--prompt=a", "--top_k=many"],
            "--top_k=many: it must be a whole number",
        ),
        (["eval", "--model_dir=/tmp/caf\udce9"], "the path is not UTF-8: rename it"),
        (["eval", "--model_dir=x", "--gin_allow_imports=a..b"], "not the name of a module"),
        (["eval", "--model_dir=x", "--gin_allow_imports=my-models"], "not the name of a module"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_flags(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_that_is_to_go_on_is_told_its_own_configuration(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.gin").touch()
    with pytest.raises(InputError, match=rf"--gin_file={tmp_path}/config\.gin"):
        parse_flags(["train", f"--model_dir={tmp_path}"])


@pytest.mark.parametrize("command", [[], ["train"], ["eval"], ["decode"], ["launch"]])
def test_help_has_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert f"  mtfrun {command[0] if command else 'train'} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "words"),
    [("runs", "DIR ..."), ("config show", "[WORD ...]"), ("config diff", "CONFIG CONFIG")],
)
def test_the_usage_has_the_words_of_a_command(
    command: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--help"]) == 0
    usage, _, _ = capsys.readouterr().out.partition("\n\n")
    assert " ".join(usage.split()).endswith(f"] {words}")


def test_words_may_stand_before_and_after_flags() -> None:
    flags = parse_flags(["runs", "/tmp", "--metric=loss", "/usr", "--json", "/var"])
    assert flags.words == ["/tmp", "/usr", "/var"]


@pytest.mark.parametrize(
    ("asking", "help_of"),
    [
        ([], []),
        (["help"], []),
        (["help", "train"], ["train"]),
        (["help", "data", "cache"], ["data", "cache"]),
        (["data", "help"], ["data"]),
        (["data", "cache", "help"], ["data", "cache"]),
    ],
)
def test_the_word_help_prints_the_help(
    asking: list[str], help_of: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asking) == 0
    printed = capsys.readouterr()
    assert main([*help_of, "--help"]) == 0
    assert printed == capsys.readouterr() and printed.out.startswith("usage: mtfrun")


@pytest.mark.parametrize("asking", ["--version", "-v", "-V", "version"])
def test_the_version_flag_prints_the_version_of_the_package(
    asking: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([asking]) == 0
    assert capsys.readouterr().out == f"mtfrun {mtfrun.__version__}\n"
    # One source: the installation takes it from there.
    assert "version = attr: mtfrun.__version__\n" in (ROOT / "setup.cfg").read_text()


def test_the_package_is_a_program() -> None:
    """Its version is printed without importing TensorFlow."""
    script = (
        "import runpy, sys; sys.argv = ['mtfrun', '--version']\n"
        "try: runpy.run_module('mtfrun', run_name='__main__')\n"
        "except SystemExit as stop: sys.exit(stop.code or 'tensorflow' in sys.modules)"
    )
    for arguments in (["-m", "mtfrun", "--version"], ["-c", script]):
        process = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True)
        assert process.returncode == 0 and process.stderr == b""
        assert process.stdout.decode() == f"mtfrun {mtfrun.__version__}\n"


def test_help_and_flag_errors_import_neither_tensorflow_nor_gin() -> None:
    script = (
        "import sys; from mtfrun.cli.main import main; main(['train', '--help']); "
        "main(['train', '--gin_file=none.gin', '--model_dir=x']); "
        "sys.exit(bool({'tensorflow', 'gin', 'numpy', 'tensorboard'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_skip_bad_records_is_a_macro() -> None:
    flags = parse_flags(["data", "cache", "--gin_file=my.gin", "--skip_bad_records=3"])
    assert flags.bindings == [("--skip_bad_records=3", "SKIP_BAD_RECORDS = 3")]
