"""Every shipped sweep can be read, and each of its rows can be trained."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.cli.parser import parse_flags
from mtfrun.configuration import config
from mtfrun.configuration.files import shipped_gin_files
from mtfrun.experiment.runs.opening import ROOTS, build
from mtfrun.extras.sweeps.resamples import NUM_SAVED
from mtfrun.extras.sweeps.sweep import Sweep
from mtfrun.extras.sweeps.sweep_file import read_sweep_file
from tests.cli.command import mtfrun_here
from tests.cli.small_vocabulary import flag_of_small_vocabulary

SWEEPS = {
    name: read_sweep_file(name, [])
    for name in shipped_gin_files()
    if name.startswith("extras/sweeps/")
}
# A row of every sweep is trained; the models of all are built. The rows of runs.gin are the shipped
# runs, which tests of their own train.
TRAINED = [name for name in SWEEPS if name != "extras/sweeps/runs.gin"]
ROWS = [(name, [*SWEEPS[name].rows][-1]) for name in TRAINED]
# Debian's packages with the data of some sweeps.
DIRECTORIES = {
    "extras/sweeps/beams.gin": "/usr/share/libreoffice/help",
    "extras/sweeps/beams_beginnings.gin": "/usr/share/libreoffice/help",
    "extras/sweeps/beams_seeds.gin": "/usr/share/libreoffice/help",
    "extras/sweeps/images.gin": "/usr/share/datasets/fashion-mnist",
    "extras/sweeps/objectives_translation.gin": "/usr/share/libreoffice/help",
    "extras/sweeps/resnet.gin": "/usr/share/datasets/fashion-mnist",
}
# Results of one seed, which compare nothing.
WITHOUT_INTERVALS = {
    f"extras/sweeps/{name}.gin"
    for name in ("families", "mixtures_experts", "mixtures_switch", "runs")
}
TRANSLATIONS = [
    f"extras/sweeps/{name}.gin" for name in ("beams", "beams_beginnings", "beams_seeds")
]
TINY = {"TRAIN_STEPS": "1", "BATCH_SIZE": "8", "experiment.Evaluation.max_batches": "1"}
TINY_TEXT = {"NUM_LAYERS": "1", "D_MODEL": "16", "D_FF": "32"}
TINY_IMAGES = {"STAGE_SIZES": "[1, 1, 1]", "WIDTHS": "[4, 4, 4]"}
TINY_DECODES = {"experiment.DecodedPairs.num_decodes": "2", "experiment.Decoding.batch_size": "2"}
# Of a million pairs.
TINY_PAIRS = {"data.Tfds.slices": "{'train': 'train[:99]', 'validation': 'validation[:99]'}"}
TINY_SEED = {"NUM_LAYERS": "1", "LAYER_SIZES": "[1, 1, 1]", "FILTER_SIZES": "[4, 4, 4]"}


def _flags(sweep: Sweep, row: str, **tiny: str) -> list[str]:
    """Returns the flags of one training of a row."""
    # The values of a grid follow the name of the row.
    runs = {run.row.partition(",")[0] if sweep.grid else run.row: run for run in sweep.runs()}
    run = runs[row]
    settings = {**sweep.bindings, **run.values, **tiny}
    if tiny:
        settings.pop("INIT_CHECKPOINT", None)
    files = [f"--gin_file={name}" for name in [*sweep.gin_files, *run.gin_files]]
    return [*files, *(f"--gin.{name}={text}" for name, text in settings.items())]


@pytest.mark.parametrize("name", SWEEPS)
def test_the_rows_of_a_shipped_sweep_are_configurations(name: str) -> None:
    sweep = SWEEPS[name]
    sweep.check()
    # One seed is for intervals over the examples that a model decodes.
    is_resampled = sweep.bindings.get(NUM_SAVED) == "None"
    assert len(sweep.seeds) >= 3 or is_resampled or name in WITHOUT_INTERVALS
    assert sweep.max_minutes is not None
    for row in sweep.rows:
        flags = parse_flags(["train", "--model_dir=/none", *_flags(sweep, row)])
        config.parse(flags.gin_file, flags.bindings, roots=ROOTS)


def _tiny(name: str, row: str) -> dict[str, str]:
    directory = DIRECTORIES.get(name)
    if directory is not None and not pathlib.Path(directory).is_dir():
        pytest.skip(f"needs {directory}")
    if name in ("extras/sweeps/images.gin", "extras/sweeps/resnet.gin"):
        return {**TINY, **(TINY_SEED if "2018" in row else TINY_IMAGES)}
    if "number_words" in name:
        return {**TINY, **TINY_TEXT, **TINY_DECODES, **TINY_PAIRS}
    return {**TINY, **TINY_TEXT, **(TINY_DECODES if "beams" in name else {})}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_the_models_of_all_rows_are_built(name: str, tmp_path: pathlib.Path) -> None:
    for row in SWEEPS[name].rows:
        words = _flags(SWEEPS[name], row, **_tiny(name, row))
        words += [flag_of_small_vocabulary(tmp_path)] * (name in TRANSLATIONS)
        words = [word for word in words if not word.startswith("--gin.TEACHER=")]
        flags = parse_flags(["train", "--model_dir=/none", *words])
        config.parse(flags.gin_file, flags.bindings, roots=ROOTS)
        experiment, _ = build()
        assert experiment.model.named_variables()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_row_of_a_shipped_sweep_trains_tiny(name: str, row: str, tmp_path: pathlib.Path) -> None:
    tiny = _tiny(name, row)
    flags = [*_flags(SWEEPS[name], row, **tiny), f"--model_dir={tmp_path / 'run'}"]
    if name == "extras/sweeps/mixtures_linux_doc.gin":  # whose data are a package of Debian
        for number in range(60):
            (tmp_path / f"{number}.rst").write_text(f"Documentation of part {number}.\n" * 20)
        flags.append(f"--gin.TEXT_FILES='{tmp_path}/*.rst'")
    if name in TRANSLATIONS:
        flags.append(flag_of_small_vocabulary(tmp_path))
    if name == "extras/sweeps/distillation.gin" and row == "distilled":
        teacher = tmp_path / "teacher"
        of_teacher = _flags(SWEEPS[name], "alone", **tiny)
        mtfrun_here("train", *of_teacher, f"--model_dir={teacher}")
        flags.append(f"--gin.TEACHER='{teacher}'")
    process = mtfrun_here("train", *flags)
    assert process.returncode == 0, process.stderr.decode()
