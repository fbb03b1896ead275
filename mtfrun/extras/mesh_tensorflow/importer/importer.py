from __future__ import annotations

import functools
import pathlib
import re
import shlex
import tempfile
import textwrap
from collections.abc import Mapping, Sequence

from mtfrun.checkpoints.partial_files import list_names
from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.statements import bindings_in
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import escape, is_directory, is_regular
from mtfrun.experiment.conversion.importer import ConversionError, Imported, build_variables
from mtfrun.extras.mesh_tensorflow.importer.checkpoint import SourceCheckpoint
from mtfrun.extras.mesh_tensorflow.importer.config import Fate, SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.data import (
    names_of_data,
    read_lengths,
    write_data,
    write_decoding,
)
from mtfrun.extras.mesh_tensorflow.importer.gin import Draft, read_gin_file
from mtfrun.extras.mesh_tensorflow.importer.mesh import read_mesh, write_mesh
from mtfrun.extras.mesh_tensorflow.importer.model.layers import SourceStack
from mtfrun.extras.mesh_tensorflow.importer.model.model import (
    is_language_model,
    model_type,
    read_stacks,
    variable_names,
    write_model,
)
from mtfrun.extras.mesh_tensorflow.importer.optimizers import write_optimizer, write_schedule
from mtfrun.extras.mesh_tensorflow.importer.program import PROGRAM_DEFAULTS
from mtfrun.extras.mesh_tensorflow.importer.variable_patterns import VariableNames, translate
from mtfrun.extras.mesh_tensorflow.names import StackNames, name_of, sources_of
from mtfrun.rundir.init_checkpoint import find_source

# The original's default number of training tokens, counted in the longest feature.
_TRAIN_TOKENS = 2**36
_OPERATIVE_CONFIG = "operative_config.gin"
_INDEX = re.compile(r"(model\.ckpt-(\d+))\.index")
CHECKPOINT = re.compile(r"model\.ckpt-\d+(\.index)?")
_NAMED = 3


def read_run(path: pathlib.Path, *, partial: bool, search_paths: Sequence[str] = ()) -> Imported:
    """Reads a gin file and the checkpoint beside it."""
    file, prefix = find_run(path, _OPERATIVE_CONFIG)
    bindings = read_gin_file(file, search_paths)
    # The program writes all values into an operative configuration.
    is_operative = file.name == _OPERATIVE_CONFIG
    source = SourceConfig(bindings, () if is_operative else bindings_in(PROGRAM_DEFAULTS))
    stacks = read_stacks(source)
    checkpoint = None if prefix is None else SourceCheckpoint(prefix)
    origin = file.parent if is_operative else file
    config = functools.partial(_config, source, stacks, origin, checkpoint)
    text = config(path, dict)  # for the account
    account = source.account()
    refused = [entry for entry in account if entry.fate is Fate.NOT_SUPPORTED]
    if refused and not partial:
        first = "; ".join(f"{e.name} = {e.value} ({e.why})" for e in refused[:_NAMED])
        omitted = f"; and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
        raise ConversionError(f"{file}: not supported: {first}{omitted}. --partial leaves it out")
    lists: dict[str, dict[str, str]] = {fate.value: {} for fate in Fate}
    for name, value, fate, why in account:
        lists[fate.value][name] = f"{value}: {why}" if why else value
    counts = ", ".join(f"{len(entries)} bindings {fate}" for fate, entries in lists.items())
    stack_names = variable_names(stacks)
    sources = functools.partial(sources_of, stacks=stack_names)
    names = functools.cache(lambda: _variable_names(text, stack_names, checkpoint))
    return Imported(
        lambda directory: config(directory, names),
        None if checkpoint is None else lambda variables: checkpoint.values(variables, sources),
        step=0 if checkpoint is None else checkpoint.step,
        record={"format": "mesh_tensorflow", "from": escape(str(path)), "bindings": lists},
        notes=[
            f"{counts}: import.json has all of them",
            *(f"left out: {entry.name} = {entry.value} ({entry.why})" for entry in refused),
        ],
    )


def _config(
    source: SourceConfig,
    stacks: Sequence[SourceStack],
    origin: pathlib.Path,
    checkpoint: SourceCheckpoint | None,
    directory: pathlib.Path,
    names: VariableNames,
) -> str:
    draft = Draft(_header(source, origin, directory))
    draft.include("defaults.gin")
    if checkpoint is not None:
        draft.macro("INIT_CHECKPOINT", str(directory), "where a new run of this file begins")
    else:
        draft.macro("INIT_CHECKPOINT", source.get("run.init_checkpoint", None))
    draft.gap()
    lengths = read_lengths(source)
    mesh = read_mesh(source, lengths)
    rows, cluster_rows = write_model(source, draft, stacks, mesh.microbatches)
    draft.macro("ACTIVATION_DTYPE", source.get("get_variable_dtype.activation_dtype", "float32"))
    draft.gap()
    row_lengths = {"targets": lengths["targets"]} if is_language_model(source) else lengths
    write_data(source, draft, row_lengths, rows)
    size = None if checkpoint is None else checkpoint.vocabulary_size
    if size is not None:
        comment = "ids in decimals; or --gin_file=data/sentencepiece.gin"
        draft.macro("VOCABULARY", reference("@data.IdVocabulary()"), comment)
        draft.bind("data.IdVocabulary", {"size": size - cluster_rows})
    draft.gap()
    write_mesh(source, mesh, draft)
    draft.gap()
    train_steps = _write_loop(source, draft, mesh.batch_size * max(lengths.values()))
    rate = write_schedule(source, draft, train_steps)
    write_optimizer(source, draft, rate, names)
    _write_filter(source, draft, names, has_checkpoint=checkpoint is not None)
    write_decoding(source, draft)
    return draft.text()


def _variable_names(
    text: str, stacks: Mapping[str, StackNames], checkpoint: SourceCheckpoint | None
) -> dict[str, str]:
    """Returns the original's names of the variables by their path in the model of a gin file."""
    with tempfile.TemporaryDirectory() as directory:
        file = pathlib.Path(directory) / "config.gin"
        file.write_text(text, encoding="utf-8")
        try:
            variables, _ = build_variables(file)
        except InputError:  # which building the run reports
            return {}
    paths = [path.removeprefix("model/") for path in variables if path.startswith("model/")]
    stored = [] if checkpoint is None else list(checkpoint.shapes)
    matches = {path: find_source(sources_of(path, paths, stacks), stored) for path in paths}
    return {x: match[0] if match else name_of(x, paths, stacks) for x, match in matches.items()}


def _header(source: SourceConfig, path: pathlib.Path, directory: pathlib.Path) -> list[str]:
    lines = [f"Mesh TensorFlow's {model_type(source)}, imported from {path}.", ""]
    names = names_of_data(source)
    if names:
        text = f"The original's data, which TRAINING_DATA takes the place of: {', '.join(names)}."
        lines += [*textwrap.wrap(text, 96), ""]
    return [
        *lines,
        f"Train on:  mtfrun train --gin_file={shlex.quote(str(directory / 'config.gin'))} \\",
        "               --gin_file=... --model_dir=...",
    ]


def _write_loop(source: SourceConfig, draft: Draft, tokens_per_batch: int) -> int:
    steps = source.get("run.train_steps", None)
    if not isinstance(steps, Reference):
        steps = source.get_optional("run.train_steps", 0)
    if steps is None or isinstance(steps, Reference):
        tokens = source.get("auto_train_steps.train_tokens", _TRAIN_TOKENS)
        steps = max(1, tokens // tokens_per_batch)
    if steps < 1:
        raise ConversionError(f"run.train_steps = {steps} must be at least 1")
    draft.macro("TRAIN_STEPS", steps)
    draft.macro("ITERATIONS_PER_LOOP", source.get("run.iterations_per_loop", 100))
    draft.macro("CHECKPOINT_EVERY", source.get("run.save_checkpoints_steps", 5000))
    kept = source.get_optional("run.keep_checkpoint_max", 0)
    draft.bind("training.CheckpointOptions", {"max_to_keep": kept or None})  # 0 keeps all
    if source.has("run.perplexity_eval_steps"):
        batches = source.get("run.perplexity_eval_steps")
        draft.bind("experiment.Evaluation", {"max_batches": batches})
    return int(steps)


def _write_filter(
    source: SourceConfig, draft: Draft, names: VariableNames, *, has_checkpoint: bool
) -> None:
    pattern = source.get("run.variable_filter", None)
    if pattern is None:
        return
    if not isinstance(pattern, str):
        source.refuse("run.variable_filter", "only patterns of names are supported")
        return
    frozen = translate(source, "run.variable_filter", [pattern], names, complement=True)
    draft.bind("experiment.Training", {"frozen": frozen})
    if not has_checkpoint:
        comment = "what is trained may be new: the original takes what the checkpoint has"
        draft.bind("experiment.InitCheckpoint", {"strict": False}, comment=comment)


def names_run(path: pathlib.Path) -> bool:
    if is_directory(path):
        return is_regular(path / _OPERATIVE_CONFIG)
    return path.suffix == ".gin" or bool(CHECKPOINT.fullmatch(path.name))


def find_run(path: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path | None]:
    """Returns a file of settings, and the checkpoint beside a file of this name.

    The checkpoint is the newest unless the path names one.
    """
    if CHECKPOINT.fullmatch(path.name) and not is_directory(path):
        prefix = path.with_name(path.name.removesuffix(".index"))
        config = path.with_name(name)
        for needed in (config, prefix.with_name(f"{prefix.name}.index")):
            if not is_regular(needed):
                raise ConversionError(f"--from={path}: there is no file {needed}")
        return config, prefix
    config = path / name if is_directory(path) else path
    if config.name != name:
        return config, None
    matches = filter(None, map(_INDEX.fullmatch, list_names(config.parent)))
    newest = max(matches, key=lambda match: int(match[2]), default=None)
    return config, None if newest is None else config.with_name(newest[1])
