"""The commands of the README and of the first pages, in order, as a reader would paste them."""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from tests.cli.command import ROOT, environment, mtfrun_here
from tests.docs.test_pages import commands
from tests.oracle.packed import unpack

_PAGES = ("README.md", "docs/index.md", "docs/commands.md")
# A command with the lines that it prints, as the README shows errors.
_SHOWN = re.compile(r"^    \$ (mtfrun .*)\n((?:    (?!\$).+\n)+)", re.MULTILINE)
# Replacements that fit small files, small models and short trainings.
_SMALL = "--gin.NUM_LAYERS=1 --gin.D_MODEL=32 --gin.D_FF=64 --gin.BATCH_SIZE=4"
_STAND_INS = {
    "--gin.EXTRA_IDS=100": "--gin.EXTRA_IDS=28",
    "--gin.TRAIN_STEPS=200": "--gin.TRAIN_STEPS=2 --gin.Evaluation.max_batches=1",
    "--seeds=3": "--seeds=1",
    "models/resnet.gin": "models/resnet.gin --gin.STAGE_SIZES='[1,1]' --gin.WIDTHS='[8,16]'",
    "runs/quickstart.gin": f"runs/quickstart.gin {_SMALL}",
    "models/lm_small.gin": f"models/lm_small.gin {_SMALL}",
    "models/t5.1.1.tiny.gin": f"models/t5.1.1.tiny.gin {_SMALL}",
}
_SHORT = "--gin.TRAIN_STEPS=2 --gin.Evaluation.max_batches=1"
_PAIRS = [(f"what is {i}", f"it is {i}") for i in range(400)]


def _sections() -> Iterator[tuple[str, list[str]]]:
    """Yields the heading and the commands of every section with commands.

    A section about a run that it does not train begins with the page's first training of it.
    """
    for name in _PAGES:
        training: list[str] = []
        for section in re.split(r"^#+ ", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE):
            if lines := list(commands(section)):
                trainings = [x for x in lines if "mtfrun train" in x and x.endswith("=/tmp/run")]
                training = training or trainings[:1]
                needs_run = not trainings and any("/tmp/run" in line for line in lines)
                yield f"{name}: {section.splitlines()[0]}", [*training * needs_run, *lines]


SECTIONS = dict(_sections())


def _write_files(folder: pathlib.Path) -> None:
    """Writes the files that the commands name, in the forms that the pages describe."""
    for name in ("texts/more", "pairs", "photos/cat", "photos/dog", "models/t5"):
        (folder / name).mkdir(parents=True)
    text = "".join(f"{a}, {b}.\n" for a, b in _PAIRS)
    for i in range(30):
        (folder / f"texts/more/{i}.txt").write_text(text)
    with gzip.open(folder / "texts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": a + b}) + "\n" for a, b in _PAIRS)
    lines = "".join(f"{a}\t{b}\n" for a, b in _PAIRS)
    for name in ("pairs.tsv", "pairs/all.tsv"):
        (folder / name).write_text(lines)
    (folder / "pairs.csv").write_text("inputs,targets\n" + "".join(f"{a},{b}\n" for a, b in _PAIRS))
    records = [{"question": a, "answer": b} for a, b in _PAIRS]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(x) + "\n" for x in records))
    pixels = np.random.default_rng(0).integers(0, 256, (80, 40, 40, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"photos/{'cat' if i % 2 else 'dog'}/{i}.png")


def _write_models(folder: pathlib.Path) -> None:
    import pyarrow  # noqa: PLC0415 - takes seconds
    import pyarrow.parquet  # noqa: PLC0415
    import sentencepiece  # noqa: PLC0415

    columns = {"inputs": [a for a, _ in _PAIRS], "targets": [b for _, b in _PAIRS]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "pairs.parquet")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(a + b for a, b in _PAIRS),
        model_prefix=str(folder / "models/t5/sentencepiece"),
        vocab_size=100,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    shutil.copytree(unpack("old_runs") / "bi_gated", folder / "models/old_run")
    writer = [sys.executable, str(ROOT / "docs/random_models.py")]
    subprocess.run([*writer, "byt5", str(folder / "models/byt5-small")], check=True)


def _run(command: str, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in a shell; absolute paths are in the folder."""
    for shown, stand_in in _STAND_INS.items():
        command = command.replace(shown, stand_in)
    program = f"{sys.executable} -m mtfrun"
    command = re.sub(r"(?<=[='\" ])/(tmp|models)/", rf"{folder}/\1/", command)
    return subprocess.run(
        re.sub(r"^mtfrun", program, command),
        shell=True,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        timeout=300,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The files and models that the commands of all sections name."""
    folder = tmp_path_factory.mktemp("files")
    _write_files(folder)
    _write_models(folder)
    shutil.copytree(folder / "pairs", folder / "tmp")
    shutil.copytree(folder / "texts/more", folder / "tmp/texts")
    os.rename(folder / "tmp/all.tsv", folder / "tmp/pairs.tsv")  # noqa: PTH104
    return folder


@pytest.fixture(scope="module")
def finished() -> set[tuple[str, str]]:
    """Pages, and commands of them that have run in the page's folder."""
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_the_commands_of_a_section_run_one_after_the_other(
    section: str, files: pathlib.Path, finished: set[tuple[str, str]]
) -> None:
    page = section.partition(":")[0]
    folder = files.parent / page.replace("/", "-")
    if not folder.exists():
        shutil.copytree(files, folder)
    for command in SECTIONS[section]:
        words = command.split("  #")[0]
        if (page, words) in finished:
            continue
        is_training = re.search(r"\btrain\b", words)
        process = _run(f"{words} {_SHORT}" if is_training else words, folder)
        assert process.returncode == 0, f"{command}\n{process.stderr}"
        finished.add((page, words))


@pytest.mark.parametrize(
    ("command", "output"), _SHOWN.findall((ROOT / "README.md").read_text("utf-8"))
)
def test_an_error_in_the_readme_is_printed_by_its_command(command: str, output: str) -> None:
    process = mtfrun_here(*shlex.split(command)[1:])
    assert process.returncode == 2
    # On a slow machine lines about the progress come before it.
    assert process.stderr.decode().split()[-len(output.split()) :] == output.split()
