"""Makes optax_optimizers.npz and .json: parameters after ten updates with given gradients.

Run it with optax 0.2.8, which nothing else here needs: python3 -m venv /tmp/optax &&
/tmp/optax/bin/pip install optax && /tmp/optax/bin/python tests/oracle/make_optax_optimizers.py
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

FOLDER = pathlib.Path(__file__).parent
NUM_STEPS = 10
DIMS = {"kernel": ["d_model", "d_ff"], "bias": ["d_ff"]}
# Of Muon: what products sum over, and the columns; other dimensions are those of a batch.
SIDES = {
    "wide": (["d_model"], ["d_ff"]),
    "tall": (["d_ff"], ["d_model"]),
    "query": (["d_model"], ["heads", "d_kv"]),
    "output": (["heads", "d_kv"], ["d_model"]),
    "experts": (["d_model"], ["expert_hidden"]),
}
MUON_DIMS = {
    "wide": ["d_model", "d_ff"],
    "tall": ["d_ff", "d_model"],
    "query": ["d_model", "heads", "d_kv"],
    "output": ["heads", "d_kv", "d_model"],
    "experts": ["experts", "d_model", "expert_hidden"],
    "embedding": ["vocab", "d_model"],
    "bias": ["d_ff"],
}
SIZES = {
    **{"d_model": 8, "d_ff": 12, "heads": 2, "d_kv": 3},
    **{"experts": 3, "expert_hidden": 6, "vocab": 10},
}


def warmup(step: Any) -> Any:
    """Returns the learning rate of update number `step`: a line to 0.05 at step 4."""
    return 0.05 * jnp.minimum(step / 4, 1.0)


def muon_dimension_numbers(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the axes of the two sides of matrices, and None for other parameters."""
    return {
        path: optax.contrib.MuonDimensionNumbers(
            *(tuple(MUON_DIMS[path].index(name) for name in side) for side in SIDES[path])
        )
        if path in SIDES
        else None
        for path in params
    }


def jordan_muon(rate: float, beta: float, weight_decay: float) -> Any:
    """Returns the transformation of https://github.com/KellerJordan/Muon, with its momentum."""

    def update(gradients: Any, m: Any, params: Any) -> Any:
        m = jax.tree.map(lambda old, g: beta * old + (1 - beta) * g, m, gradients)
        ahead = jax.tree.map(lambda new, g: (1 - beta) * g + beta * new, m, gradients)
        numbers = muon_dimension_numbers(params)
        coefficients = jnp.array([3.4445, -4.7750, 2.0315])
        updates = {
            path: optax.contrib._muon.orthogonalize_via_newton_schulz(
                x, coefficients, dimension_numbers=numbers[path]
            )
            for path, x in ahead.items()
        }
        return updates, m

    return optax.chain(
        optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), update),
        optax.contrib._muon.scale_by_shape(muon_dimension_numbers),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(rate),
    )


CASES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "lion": (
        "optax.lion",
        {"learning_rate": 0.01, "weight_decay": 0.0},
        optax.lion(0.01, weight_decay=0.0),
    ),
    "lion_with_weight_decay": (
        "optax.lion",
        {"learning_rate": 0.02, "beta1": 0.95, "beta2": 0.98, "weight_decay": 0.5},
        optax.lion(0.02, b1=0.95, b2=0.98, weight_decay=0.5),
    ),
    "schedule_free_adam": (
        "optax.contrib.schedule_free_adamw",
        {"learning_rate": 0.05, "weight_decay": 0.1},
        optax.contrib.schedule_free_adamw(0.05, weight_decay=0.1),
    ),
    "schedule_free_adam_with_warmup": (
        "optax.contrib.schedule_free of optax.adamw; both schedules count from 0",
        {"learning_rate": "warmup", "beta1": 0.8, "beta2": 0.99},
        optax.contrib.schedule_free(
            optax.adamw(warmup, b1=0.0, b2=0.99, weight_decay=0.0), lambda n: warmup(n - 1), b1=0.8
        ),
    ),
    "muon": (
        "optax.contrib.muon with consistent_rms",
        {"learning_rate": 0.02, "weight_decay": 0.1, "nesterov": False},
        optax.contrib.muon(
            0.02,
            weight_decay=0.1,
            adam_weight_decay=0.1,
            nesterov=False,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=muon_dimension_numbers,
        ),
    ),
    "muon_of_jordan": (
        "the momentum of https://github.com/KellerJordan/Muon, optax's orthogonalisation",
        {"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 0.1, "rms": None},
        jordan_muon(0.02, 0.9, 0.1),
    ),
}


def run(name: str, transformation: Any) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Returns the arrays of a case, and the names of their dimensions."""
    dims = MUON_DIMS if name.startswith("muon") else DIMS
    if name == "muon_of_jordan":
        dims = {path: dims[path] for path in SIDES}
    rng = np.random.default_rng(len(name))
    shapes = {path: [SIZES[dim] for dim in names] for path, names in dims.items()}
    params: Any = {p: rng.normal(size=s).astype(np.float32) for p, s in shapes.items()}
    gradients = {p: rng.normal(size=[NUM_STEPS, *s]).astype(np.float32) for p, s in shapes.items()}
    arrays = {f"in/{path}_init": value for path, value in params.items()}
    arrays |= {f"in/{path}_grads": value for path, value in gradients.items()}
    state = transformation.init(params)
    after: list[Any] = []
    averages: list[Any] = []
    for step in range(NUM_STEPS):
        of_step = {path: value[step] for path, value in gradients.items()}
        updates, state = transformation.update(of_step, state, params)
        params = optax.apply_updates(params, updates)
        after.append(params)
        if name.startswith("schedule_free"):
            averages.append(optax.contrib.schedule_free_eval_params(state, params))
    for path in dims:
        arrays[f"out/{path}_after"] = np.stack([np.asarray(values[path]) for values in after])
        if averages:
            arrays[f"out/{path}_average"] = np.stack([np.asarray(x[path]) for x in averages])
    of_arrays = {}
    for key in arrays:
        path = key.partition("/")[2].rpartition("_")[0]
        of_arrays[key] = dims[path] if key.endswith("_init") else ["step", *dims[path]]
    return arrays, of_arrays


def main() -> None:
    """Writes both files."""
    stored: dict[str, Any] = {}
    description: dict[str, Any] = {}
    for name, (what, hparams, transformation) in CASES.items():
        arrays, dims = run(name, transformation)
        stored |= {f"{name}/{key}": value for key, value in arrays.items()}
        description[name] = {
            "description": what,
            "hparams": hparams,
            "arrays": {
                key: {"shape": list(x.shape), "dtype": str(x.dtype), "dims": dims[key]}
                for key, x in arrays.items()
            },
        }
    np.savez_compressed(FOLDER / "optax_optimizers.npz", **stored)
    text = json.dumps({"optax": optax.__version__, "cases": description}, indent=1)
    (FOLDER / "optax_optimizers.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
