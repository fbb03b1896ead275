"""LoRA in PEFT's folders: adapter_config.json and adapter_model.safetensors.

https://huggingface.co/docs/peft/developer_guides/checkpoint. A module y = W x has lora_A {rank,
inputs} and lora_B {outputs, rank}, which add lora_alpha / r * B A x.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtfrun import layers, mtf
from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.experiment import InitCheckpoint
from mtfrun.experiment.adapters import SavedAdapters, load_base
from mtfrun.experiment.conversion.importer import ConversionError, Imported
from mtfrun.experiment.runs.opening import Settings as RunSettings
from mtfrun.experiment.runs.opening import build_run
from mtfrun.extras.huggingface.export import model_of_origin, origin_of_run
from mtfrun.extras.huggingface.origin import Origin
from mtfrun.extras.huggingface.safetensors_file import FLOATS, write_file
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Joined, Matrix, VocabularyRows
from mtfrun.models import Model
from mtfrun.rundir import RunDirectory

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

_REGISTRATION = "from __gin__ import dynamic_registration"
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# Settings that change the computation, with their supported value.
_REQUIRED: Mapping[str, object] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "lora_bias": False,
    "use_bdlora": False,
    "use_qalora": False,
}
_UNSUPPORTED = (
    *("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication"),
    *("alora_invocation_tokens", "kasa_config", "velora_config"),
)


@dataclasses.dataclass(frozen=True)
class _Factors:
    """a: {rank, inputs}; b: {outputs, rank}, for a module or a part of its outputs."""

    a: np.ndarray
    b: np.ndarray
    scale: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    def without_zeros(self) -> _Factors:
        """Drops ranks that do not affect the outputs, such as other parts'."""
        is_used = np.any(self.b, axis=0).reshape(self.rank)
        is_used[0] |= not is_used.any()
        return _Factors(self.a[is_used], self.b[:, is_used], self.scale)


@dataclasses.dataclass(frozen=True)
class _Module:
    """A matrix of transformers, possibly fused from several of ours.

    `outputs` is the number of outputs of each part, without vocabulary padding.
    """

    paths: Sequence[str]
    inputs: int
    outputs: int

    def join(self, parts: Mapping[str, _Factors]) -> _Factors:
        """Fuses the factors of parts, some of which may be missing."""
        present = {i: parts[path] for i, path in enumerate(self.paths) if path in parts}
        first, *others = present.values()
        is_shared = all(x.scale == first.scale and np.array_equal(x.a, first.a) for x in others)
        rank = first.rank if is_shared else sum(x.rank for x in present.values())
        b = np.zeros([len(self.paths), self.outputs, rank], first.b.dtype)
        column = 0
        for number, part in present.items():
            values = part.b * np.float32(part.scale / first.scale)
            b[number, :, column : column + part.rank] = values
            column += 0 if is_shared else part.rank
        a = first.a if is_shared else np.concatenate([x.a for x in present.values()])
        return _Factors(a, b.reshape(-1, rank), first.scale)

    def split(self, factors: _Factors) -> dict[str, _Factors]:
        """Returns the factors of every part with nonzero outputs."""
        if len(self.paths) == 1:
            return {self.paths[0]: factors}
        sides = zip(self.paths, np.split(factors.b, len(self.paths)), strict=True)
        return {
            path: dataclasses.replace(factors, b=b).without_zeros() for path, b in sides if b.any()
        }


def export_peft(directory: pathlib.Path, model: Model, origin: Origin) -> None:
    """Writes the LoRA of a restored model into an empty directory.

    Fused parts, such as GPT-2's queries, keys and values, become one LoRA with all their ranks.
    ConversionError for other adapters, and for kernels that are not modules of transformers.
    """
    adapters = model.adapters
    lora = [adapter for adapter in adapters if isinstance(adapter, layers.LoRA)]
    if not lora or len(lora) < len(adapters):
        raise ConversionError("PEFT's folders are written of LoRA alone: name a run of it")
    modules = _modules(origin, model)
    parts: dict[str, _Factors] = {}
    for path, _, addend in layers.low_rank_addends(model):
        a, b = (mtf.to_numpy(x.read_alone()).astype(np.float32) for x in (addend.down, addend.up))
        rank = a.shape[-1]
        parts[path] = _Factors(a.reshape(-1, rank).T, b.reshape(rank, -1).T, addend.scale)
    tensors, joined = {}, {}
    for name, module in modules.items():
        present = {path: parts[path] for path in module.paths if path in parts}
        if present:
            cut = {x: dataclasses.replace(y, b=y.b[: module.outputs]) for x, y in present.items()}
            joined[name] = factors = module.join(cut)
            tensors[f"base_model.model.{name}.lora_A.weight"] = factors.a
            tensors[f"base_model.model.{name}.lora_B.weight"] = factors.b
    surplus = sorted(parts.keys() - {path for module in modules.values() for path in module.paths})
    if surplus:
        raise ConversionError(f"{surplus[0]} is no matrix of a module that PEFT adapts")
    config = _config(joined, modules, lora[0].dropout_rate, origin)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")
    write_file(directory / TENSORS, tensors, {"format": "pt"})


def _config(
    joined: Mapping[str, _Factors], modules: Iterable[str], dropout_rate: float, origin: Origin
) -> dict[str, Any]:
    rank = collections.Counter(x.rank for x in joined.values()).most_common(1)[0][0]
    alpha = next(x.scale * x.rank for x in joined.values() if x.rank == rank)
    others = {name: x for name, x in joined.items() if (x.rank, x.scale * x.rank) != (rank, alpha)}
    # The last parts of names suffice if all such modules are adapted.
    last = {name.rpartition(".")[2] for name in joined}
    is_everywhere = all(m in joined for m in modules if m.rpartition(".")[2] in last)
    model = json.loads(origin.files["config.json"])
    is_encoder_decoder = str(model.get("architectures", "")).count("ConditionalGeneration")
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if is_encoder_decoder else "CAUSAL_LM",
        "base_model_name_or_path": origin.path or None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout_rate,
        "target_modules": sorted(last if is_everywhere else joined),
        "rank_pattern": {name: x.rank for name, x in others.items()},
        "alpha_pattern": {name: x.scale * x.rank for name, x in others.items()},
        "fan_in_fan_out": model.get("model_type") == "gpt2",
        "bias": "none",
        "inference_mode": True,
    }


def is_peft(path: pathlib.Path) -> bool:
    return Folder(path).has(CONFIG)


def read_peft(path: pathlib.Path, base: RunDirectory) -> Imported:
    """Reads a LoRA for the model of a run; ConversionError if it does not fit."""
    folder = Folder(path)
    settings = Settings(folder.json_of(CONFIG), str(path / CONFIG))
    for name, allowed in _REQUIRED.items():
        settings.require(name, allowed)
    for name in _UNSUPPORTED:
        if settings.values.get(name):
            raise settings.error(name, "is not supported")
    built = build_run(base, RunSettings(), on_one_device=True)
    model, experiment = built.experiment.model, built.experiment
    base_model = load_base(model, InitCheckpoint(base.path), experiment.seed)
    modules = _modules(origin_of_run(base, (), weights_only=True), model)
    parts: dict[str, _Factors] = {}
    for name, factors in _read_factors(folder, settings).items():
        if name not in modules:
            raise ConversionError(f"{path}: the model of {base.path} has no module {name}")
        module, actual = modules[name], (factors.a.shape[1], len(factors.b))
        expected = module.inputs, module.outputs * len(module.paths)
        if expected != actual:
            raise ConversionError(f"{path}: {name} maps {actual[0]} to {actual[1]}, not {expected}")
        parts |= module.split(factors)
    dropout_rate = settings.number("lora_dropout", 0.0)
    adapters, values = _adapters(parts, model, dropout_rate)
    return Imported(
        lambda _: _gin(adapters, base, path),
        lambda _: values,
        metadata=SavedAdapters(adapters, base_model).metadata(),
        base=pathlib.Path(base.path),
    )


def _read_factors(folder: Folder, settings: Settings) -> dict[str, _Factors]:
    sides: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in folder.tensors_of(TENSORS).items():
        match = _NAME.fullmatch(name)
        if match is None or tensor.dtype not in FLOATS or len(tensor.shape) != 2:
            raise ConversionError(f"{folder.path}: {name!r:.120} is no matrix of a LoRA")
        sides.setdefault(match["module"], {})[match["side"]] = tensor.read().astype(np.float32)
    factors = {}
    for module, pair in sides.items():
        if len(pair) != 2 or pair["A"].shape[0] != pair["B"].shape[1] or not pair["A"].size:
            raise ConversionError(f"{folder.path}: {module} lacks a side, or its ranks differ")
        rank = pair["A"].shape[0]
        alpha = _alpha(settings, module)
        is_root = settings.flag("use_rslora", default=False)
        scale = alpha / (math.sqrt(rank) if is_root else rank)
        if not scale > 0:
            raise settings.error("lora_alpha", "must be more than 0")
        factors[module] = _Factors(pair["A"], pair["B"], scale)
    if not factors:
        raise ConversionError(f"{folder.path}: {TENSORS} has no LoRA")
    return factors


def _alpha(settings: Settings, module: str) -> float:
    """Returns the entry of "alpha_pattern" that names a module, or the end of its name."""
    name = "alpha_pattern"
    patterns = settings.values.get(name) or {}
    if not isinstance(patterns, Mapping):
        raise settings.error(name, "must be numbers by the names of modules")
    for key in patterns:
        plain = key.removeprefix("^").replace(r"\.", ".")
        if not re.fullmatch(r"[\w.]+", plain):
            raise settings.error(name, f"has the expression {key!r:.60}: only names are supported")
        if module == plain or module.endswith(f".{plain}"):
            return Settings(patterns, f"{settings.where}: {name}").number(key)
    return settings.number("lora_alpha", 8.0)


def _modules(origin: Origin, model: Model) -> dict[str, _Module]:
    """Returns the modules with kernels by transformers' names."""
    family = model_of_origin(origin)
    variables = model.named_variables()
    modules = {}
    for row in family.table().rows:
        kernels = [variables[path] for path in row.paths if path in variables]
        transform = row.transform
        if isinstance(transform, Joined) and transform.heads == 1:
            transform = transform.each
        is_matrix = isinstance(transform, Matrix | VocabularyRows)
        if not is_matrix or not kernels or not all(map(layers.is_kernel, kernels)):
            continue
        inputs = [kernel.reduced_dims or () for kernel in kernels]
        shapes = [kernel.shape - dims for kernel, dims in zip(kernels, inputs, strict=True)]
        sizes = {math.prod(shape.to_integer_list) for shape in shapes}
        if len(sizes) > 1:  # queries of grouped heads beside their keys
            continue
        (outputs,) = sizes
        if isinstance(transform, VocabularyRows):
            outputs = transform.size
        num_inputs = math.prod(mtf.Shape(inputs[0]).to_integer_list)
        modules[family.module_of(row.names[0])] = _Module(row.paths, num_inputs, outputs)
    return modules


def _adapters(
    parts: Mapping[str, _Factors], model: Model, dropout_rate: float
) -> tuple[tuple[layers.LoRA, ...], dict[str, np.ndarray]]:
    """Returns a LoRA per rank and scale, and the values by path."""
    variables = model.named_variables()
    values = {}
    groups: dict[tuple[int, float], list[str]] = {}
    for path, part in parts.items():
        groups.setdefault((part.rank, part.scale), []).append(path)
        kernel = variables[path]
        reduced = kernel.reduced_dims or mtf.Shape()
        other = kernel.shape - reduced
        b = np.pad(part.b.T, [(0, 0), (0, math.prod(other.to_integer_list) - len(part.b))])
        a_shape, b_shape = (dims.to_integer_list for dims in (reduced, other))
        values[f"model/{path}/lora_a"] = part.a.T.reshape(*a_shape, part.rank)
        values[f"model/{path}/lora_b"] = b.reshape(part.rank, *b_shape)
    kernels = [path for path, variable in variables.items() if layers.is_kernel(variable)]
    adapters = tuple(
        layers.LoRA(rank, scale * rank, _expression(paths, kernels), dropout_rate)
        for (rank, scale), paths in groups.items()
    )
    return adapters, values


def _expression(paths: Sequence[str], kernels: Sequence[str]) -> str:
    """Returns an expression that matches these paths, for all blocks at once if possible."""
    expressions = []
    for path in paths:
        in_all_blocks = re.sub(r"/\d+/", r"/\\d+/", re.escape(path))
        is_all = all(other in paths for other in kernels if re.fullmatch(in_all_blocks, other))
        expressions.append(in_all_blocks if is_all else re.escape(path))
    return f"^({'|'.join(dict.fromkeys(expressions))})$"


def _gin(adapters: Sequence[layers.LoRA], base: RunDirectory, path: pathlib.Path) -> str:
    """Returns the base's configuration, followed by the adapters."""
    file = GinFile([f"LoRA of PEFT, imported from {path}."])
    file.macro("INIT_CHECKPOINT", base.path)
    scopes = [f"part_{i}/" for i in range(len(adapters))] if len(adapters) > 1 else [""]
    listed = [reference(f"@{scope}layers.LoRA()") for scope in scopes]
    file.bind("experiment.Training", {"adapters": listed})
    for scope, adapter in zip(scopes, adapters, strict=True):
        file.bind(f"{scope}layers.LoRA", dataclasses.asdict(adapter))
    # Must come once, before any other import.
    added = file.text().replace(f"{_REGISTRATION}\n", "")
    base_text = base.read_config().rstrip()
    first = "" if _REGISTRATION in base_text else f"{_REGISTRATION}\n"
    return f"{first}{base_text}\n\n{added}"
