"""Adapters in a run: how a checkpoint describes them, and the base model that they belong to."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from mtfrun import mtf
from mtfrun.checkpoints import Manifest
from mtfrun.checkpoints.mirror import registry
from mtfrun.checkpoints.partial_files import list_steps
from mtfrun.errors import InputError, did_you_mean
from mtfrun.errors.untrusted import escape
from mtfrun.files import RunDirError, is_url
from mtfrun.layers import Adapter
from mtfrun.models import Model
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.init_checkpoint import InitCheckpoint, find_checkpoint

ENTRY = "adapters"
"""The entry of a manifest with the adapters and their base."""

DIRECTORY = "adapters"
"""The directory of a run below which its adapters are found by their names."""


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """The model that adapters were trained for: its checkpoint, and a hash of its variables."""

    path: str
    step: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class SavedAdapters:
    """What a manifest says about the adapters of its checkpoint."""

    adapters: tuple[Adapter, ...]
    base: BaseModel

    def metadata(self) -> dict[str, object]:
        """Returns the entry of a manifest."""
        listed = [{"kind": _name(type(a)), **dataclasses.asdict(a)} for a in self.adapters]
        return {ENTRY: {"adapters": listed, "base": dataclasses.asdict(self.base)}}

    def describe(self, model: Model) -> str:
        """Returns "LoRA(rank=8, ...), 24,576 parameters for step 300 of /tmp/base/..."."""
        parameters = sum(v.shape.size for v in model.adapter_variables().values())
        listed = ", ".join(map(repr, self.adapters))
        base = f"step {self.base.step:,} of {escape(self.base.path)}"
        return f"{listed}: {parameters:,} parameters, for {base}"


def saved_adapters(manifest: Manifest) -> SavedAdapters | None:
    """Returns the adapters of a checkpoint; None if it is a whole model's.

    RunDirError if they are damaged, or of another version: a run directory may be untrusted.
    """
    entry = manifest.metadata.get(ENTRY)
    if entry is None:
        return None
    try:
        base = BaseModel(**entry["base"])
        types = tuple(type(value) for value in dataclasses.astuple(base))
        adapters = tuple(_adapter(fields) for fields in entry["adapters"])
    except (TypeError, KeyError, AttributeError, InputError) as error:
        raise RunDirError(f"ckpt-{manifest.step} has adapters that are unknown: {error}") from error
    if types != (str, int, str) or not adapters:
        raise RunDirError(f"ckpt-{manifest.step} has a damaged description of its adapters")
    return SavedAdapters(adapters, base)


def is_of_adapters(run: RunDirectory, checkpoint: int | str | None) -> bool:
    """Returns whether a checkpoint, as in `Checkpoints.named_step`, has adapters and no model."""
    checkpoints = run.checkpoints()
    manifest = checkpoints.manifest(checkpoints.named_step(checkpoint))
    return manifest is not None and saved_adapters(manifest) is not None


def as_adapters(value: Any, name: str) -> tuple[Adapter, ...]:
    """Returns the adapters of a setting, which is one, several or None; InputError for others."""
    listed = value if isinstance(value, list | tuple) else [value]
    adapters = tuple(adapter for adapter in listed if adapter is not None)
    for adapter in adapters:
        if not isinstance(adapter, Adapter):
            raise InputError(f"{name}={adapter!r}: adapters are @layers.LoRA(), or a list of such")
        if any(field.default is dataclasses.MISSING for field in dataclasses.fields(adapter)):
            raise InputError(f"{name}={adapter!r}: its class must have a default for every field")
    return adapters


def load_base(
    model: Model, source: InitCheckpoint | None, seed: int, saved: BaseModel | None = None
) -> BaseModel:
    """Initialises the base variables of a model with adapters, and returns their source.

    `saved`, of a checkpoint of the adapters: its step of the source is taken if that has several,
    and the variables must be the same: RunDirError otherwise. Collective.
    """
    if source is None or not source.path:
        example = "--gin.INIT_CHECKPOINT=\"'/tmp/base'\""
        raise InputError(f"adapters need a trained model, a run or a checkpoint: {example}")
    if source.names:
        raise InputError("InitCheckpoint.names: adapters need a run of mtfrun as INIT_CHECKPOINT")
    path = source.path if saved is None else _source_path(source.path, saved)
    _check_whole(path)
    mtf.initialize(model, seed)
    report = dataclasses.replace(source, path=path)(model.base_variables(), model.vocabulary_sizes)
    assert report is not None
    place = registry.url_of(str(pathlib.Path(report.path).absolute()))
    base = BaseModel(place, report.step, hash_of_base(model))
    check_base(base.sha256, saved, path)
    return base


def check_base(sha256: str, saved: BaseModel | None, path: str) -> None:
    """Raises RunDirError unless the base variables are those that adapters were trained for."""
    if saved is not None and sha256 != saved.sha256:
        raise RunDirError(
            f"the variables of {path} are not those that the adapters were trained for "
            f"({saved.path}, step {saved.step}): name that checkpoint"
        )


def hash_of_base(model: Model) -> str:
    """Returns the SHA-256 of the base variables, read one after the other. Collective."""
    digest = hashlib.sha256()
    for path, variable in sorted(model.base_variables().items()):
        value = mtf.to_numpy(variable.read_alone())
        digest.update(f"{path} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def find_adapter(name: str, base: RunDirectory) -> RunDirectory:
    """Returns the run of an adapter, a path or a name in the base's; RunDirError without one."""
    below = pathlib.Path(base.path, DIRECTORY)
    for path in (below / name, pathlib.Path(name).expanduser()):
        if path.is_dir():
            run = RunDirectory(str(path))
            run.checkpoints().require()
            return run
    names = sorted(path.name for path in below.glob("*")) if below.is_dir() else []
    hint = did_you_mean(name, names) or f"; there are {', '.join(names) or 'none'}"
    raise RunDirError(f"no adapter {name}: it is neither a directory nor in {below}{hint}")


def _source_path(path: str, saved: BaseModel) -> str:
    """Returns a path of one checkpoint; else the path of the base's step, here or where it was."""
    directory, step = find_checkpoint(path)
    if step is not None:
        return path
    if directory is not None and saved.step in list_steps(directory):
        return str(directory / f"ckpt-{saved.step}")
    return path if is_url(path) or pathlib.Path(path).exists() else saved.path


def _check_whole(path: str) -> None:
    """Raises RunDirError if a checkpoint has adapters only."""
    directory, step = find_checkpoint(path)
    if directory is None:
        return
    manifest = RunDirectory(str(directory.parent)).checkpoints().manifest(step)
    saved = None if manifest is None else saved_adapters(manifest)
    if saved is not None:
        raise RunDirError(
            f"{path} has adapters of {saved.base.path}, not a model: name that, or write both as "
            f"one with `mtfrun export --format=tensorflow --model_dir={directory.parent}`"
        )


def _name(kind: type[Adapter]) -> str:
    """Returns what manifests call a class: "LoRA", "own_classes.SublayerScales"."""
    module = kind.__module__
    return kind.__name__ if module.startswith("mtfrun.") else f"{module}.{kind.__name__}"


def _kinds() -> dict[str, type[Adapter]]:
    """Returns all classes of adapters that are imported, by their names in a manifest."""
    kinds: dict[str, type[Adapter]] = {}
    classes = Adapter.__subclasses__()
    while classes:
        kind = classes.pop(0)
        # gin makes subclasses, of the same names, which come later.
        kinds.setdefault(_name(kind), kind)
        classes += kind.__subclasses__()
    return kinds


def _adapter(fields: Mapping[str, Any]) -> Adapter:
    fields = dict(fields)
    name = fields.pop("kind")
    kind = _kinds().get(name)
    if kind is None:
        raise InputError(f"no module that is imported has {escape(str(name))}")
    default = kind()
    for name, value in fields.items():
        wanted = type(getattr(default, name))
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise InputError(f"{kind.__name__}.{name}={value!r} is not {wanted.__name__}")
    return kind(**fields)
