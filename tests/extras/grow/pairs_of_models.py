"""Models of gin files, and larger ones that grew from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.experiment import Evaluation, Experiment, Logits
from mtfrun.experiment.runs.opening import Settings, build
from mtfrun.extras.grow.rules import Rules
from mtfrun.extras.grow.variables import GrownVariables

_NAMES = ("NUM_LAYERS", "D_MODEL", "D_FF", "NUM_HEADS", "D_KV", "SEQUENCE_LENGTH")
SMALL = dict(zip(_NAMES, (1, 16, 32, 4, 4, 80), strict=True))
# No size is a multiple of the small one's but for d_kv, whose rotary positions need one.
LARGE = dict(zip(_NAMES, (2, 40, 72, 6, 8, 96), strict=True))
MULTIPLES = dict(zip(_NAMES, (2, 32, 64, 8, 8, 80), strict=True))


@dataclasses.dataclass(frozen=True)
class Grown:
    """Two models on their data."""

    old: Experiment
    new: Experiment
    variables: GrownVariables
    notes: Sequence[str]
    features: Mapping[str, np.ndarray]

    def difference(self) -> float:
        """Returns the largest difference of the logits of some rows, of the largest logit."""
        before, after = (Logits(x)(self.features) for x in (self.old, self.new))
        classes = min(before.shape[-1], after.shape[-1])
        before, after = before[..., :classes], after[..., :classes]
        return float(np.abs(before - after).max() / np.abs(before).max())


def assign(variable: mtf.Variable, value: np.ndarray) -> None:
    mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, value, variable.shape))


def grow_pair(
    files: Sequence[str],
    old: Mapping[str, object],
    new: Mapping[str, object],
    *,
    new_files: Sequence[str] | None = None,
    with_copies: bool = False,
) -> Grown:
    """Returns a model whose variables all have other values than at first, and a larger one."""
    before, evaluation = _build(files, old)
    after, _ = _build(files if new_files is None else new_files, new)
    rules = Rules(before.model, after.model, with_copies=with_copies)
    variables = GrownVariables(before.model, after.model, rules, seed=1)
    mtf.initialize(before.model, 0)
    _perturb(before)
    for path, variable in variables.new.items():
        source = variables.origins[path].source
        of_old = None if source is None else mtf.to_numpy(variables.old[source])
        assign(variable, variables.grow(path, of_old))
    batch = next(iter(before.data.evaluation_subset(2, 1, split=evaluation.split)))
    needed = next(x for x in before.model.logits_features if set(x) <= batch.keys())
    names = {*needed, *(before.model.optional_features or ())} & batch.keys()
    features = {name: batch[name] for name in names}
    return Grown(before, after, variables, list(rules.notes), features)


def _build(files: Sequence[str], macros: Mapping[str, object]) -> tuple[Experiment, Evaluation]:
    bindings = [(f"--gin.{name}", f"{name} = {value!r}") for name, value in macros.items()]
    with config.exclusive():
        Settings(["defaults.gin", *files], bindings).parse()
        return build()


def _perturb(experiment: Experiment) -> None:
    rng = np.random.default_rng(0)
    for path, variable in experiment.model.named_variables().items():
        value = mtf.to_numpy(variable)
        size = max(float(np.sqrt(np.mean(np.square(value)))), 0.3)
        value = value + 0.2 * size * rng.standard_normal(value.shape, np.float32)
        assign(variable, np.abs(value) if path.endswith("variance") else value)
