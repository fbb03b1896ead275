"""What an export of a run for transformers is made of: the folder it came from, or a new one."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Sequence

from mtfrun import mtf
from mtfrun.api.build import ROOTS, build
from mtfrun.configuration import config
from mtfrun.conversion import ModelDescription
from mtfrun.conversion.hugging_face import Origin, made_here, read_origin
from mtfrun.conversion.run_writer import CONFIG, ORIGIN
from mtfrun.rundir import RunDirectory


def origin_of_run(run: RunDirectory, allowed_imports: Sequence[str]) -> Origin:
    """Returns the configuration, the types and the files with which a run is exported.

    They are those of the folder that the run was imported from, which a run that began with it as
    its INIT_CHECKPOINT has too; or they are made for a model of a family that was trained here from
    the beginning.

    Args:
      run: the directory.
      allowed_imports: see `config.parse`.

    Raises:
      ConversionError: the model is none of a family, or no longer that of the folder.
    """
    directory = pathlib.Path(run.path)
    origin = read_origin(directory)
    if origin is not None and run.read_config() == origin.configuration:
        return origin
    model = _described(pathlib.Path(run.config_path), allowed_imports)
    if origin is not None:
        imported = directory / ORIGIN / CONFIG
        model.check_computes_as(_described(imported, []), str(imported))
        return origin
    origin, text = made_here(model)
    with tempfile.TemporaryDirectory() as temporary:
        path = pathlib.Path(temporary, "config.gin")
        path.write_text(text, encoding="utf-8")
        model.check_computes_as(_described(path, []), "a model that transformers has")
    return origin


def _described(path: pathlib.Path, allowed_imports: Sequence[str]) -> ModelDescription:
    """Returns the model of a gin file, which is built on planned devices."""
    with config.exclusive():
        config.parse([str(path)], [], roots=ROOTS, allowed_imports=allowed_imports)
        with mtf.planned_meshes():
            model = build().experiment.model
        parameters = config.operative_parameters()
    mtf.assign_paths(model)
    variables = model.named_variables()
    shapes = {path: tuple(v.shape.to_integer_list) for path, v in variables.items()}
    return ModelDescription(parameters, shapes, model.vocabulary_sizes)
