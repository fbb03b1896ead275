"""How each reference case of `ops.npz` is called here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from mtfrun import layers, mtf
from tests.oracle.reference_cases import ReferenceCase

Results = dict[str, mtf.Tensor]
Call = Callable[[ReferenceCase, dict[str, mtf.Tensor], mtf.Mesh], Results]


def shape_of(text: str) -> mtf.Shape:
    """Returns the shape of a text such as "a=2 b=3"."""
    return mtf.convert_to_shape(text.replace("=", ":"))


def optional_shape_of(text: str | None) -> mtf.Shape | None:
    """Returns the shape of a text, None for None."""
    return None if text is None else shape_of(text)


def dim_of(x: mtf.Tensor, name: str) -> mtf.Dimension:
    """Returns the dimension of a tensor that has this name."""
    return x.shape.get_dim_by_name(name)


def _operands(inputs: Mapping[str, mtf.Tensor]) -> list[mtf.Tensor]:
    """Returns x0, x1, ... in order."""
    return [inputs[f"x{i}"] for i in range(len(inputs)) if f"x{i}" in inputs]


def _dim(case: ReferenceCase, of_first: str) -> str:
    """Returns the dimension that an operation is along: "a" in one case, "b" in others."""
    return "a" if case.name == of_first else "b"


def _einsum(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    xs = _operands(inputs)
    reduced = case.hparams.get("reduced_dims")
    sizes = {dim.name: dim for x in xs for dim in x.shape}
    if case.name == "einsum_new_output_dim_broadcast":
        # A new dimension is an error in mtf.einsum: it is nearly always a mistake.
        wanted = shape_of(case.hparams["output_shape"])
        return {"y": mtf.broadcast(mtf.einsum(xs, [d for d in wanted if d.name in sizes]), wanted)}
    return {
        "y": mtf.einsum(
            xs,
            optional_shape_of(case.hparams.get("output_shape")),
            None if reduced is None else [sizes[name] for name in reduced],
        )
    }


def _reduce(name: str) -> Call:
    def call(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
        x = inputs["x"]
        if name in ("reduce_all", "reduce_any"):
            (reduced,) = set(case.dims["in/x"]) - set(case.dims["out/y"])
            return {"y": getattr(mtf, name)(x, reduced_dim=dim_of(x, reduced))}
        reduced = case.hparams["reduced_dim"]
        return {
            "y": getattr(mtf, name)(
                x,
                output_shape=optional_shape_of(case.hparams["output_shape"]),
                reduced_dim=None if reduced is None else dim_of(x, reduced),
            )
        }

    return call


def _softmax(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    x = inputs["x"]
    vocab = dim_of(x, "v")
    stored = case.hparams["extra_logit"]
    number = None if stored in (None, "tensor") else float(stored)
    extra = inputs["extra_logit"] if stored == "tensor" else number
    return {
        "softmax": mtf.softmax(x, vocab, extra),
        "log_softmax": mtf.log_softmax(x, vocab, extra),
        "logsumexp": mtf.reduce_logsumexp(x, vocab, extra),
    }


def _top_k(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    x = inputs["x"]
    if case.name == "top_k_ties":
        results: Results = {}
        for k in (3, 6):
            values, indices = mtf.top_k(mtf.to_float(x), dim_of(x, "v"), f"k:{k}")
            results |= {f"values_k{k}": values, f"indices_k{k}": indices}
        return results
    values, indices = mtf.top_k(x, dim_of(x, "v"), mtf.Dimension("k", case.hparams["k"]))
    return {"values": values, "indices": indices}


def _top_1(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    x = inputs["x"]
    vocab = dim_of(x, "v")
    values, indices = mtf.top_1(x, vocab)
    return {
        "values": values,
        "indices": indices,
        "argmax": mtf.argmax(x, vocab),
        "sample0": mtf.sample_with_temperature(x, vocab, temperature=0.0),
    }


def _gather(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    weights = inputs["weights"]
    vocab = dim_of(weights, "v")
    if case.name == "gather_python_int_and_bool":
        flags = inputs["weights_bool"]
        return {
            "y_int": mtf.gather(weights, 3, vocab),
            "y_scalar": mtf.gather(weights, inputs["scalar_index"], vocab),
            "y_bool": mtf.gather(flags, inputs["bool_indices"], dim_of(flags, "v")),
        }
    output_shape = optional_shape_of(case.hparams["output_shape"])
    return {"y": mtf.gather(weights, inputs["indices"], vocab, output_shape)}


def _split(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    x = inputs["x"]
    dim = dim_of(x, _dim(case, "split_first"))
    parts = mtf.split(x, dim, case.hparams["num_or_size_splits"])
    return {f"y{i}": part for i, part in enumerate(parts)}


def _stack(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    axis = {"stack_axis0": 0, "stack_axis1": 1, "stack_axis_minus1": -1}[case.name]
    y = mtf.stack(_operands(inputs), "s", axis)
    return {"y": y, "unstack0": mtf.unstack(y, dim_of(y, "s"))[0]}


def _range(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    dim = mtf.Dimension("r", case.arrays["out/int32"].size)
    return {"int32": mtf.range(mesh, dim, tf.int32), "float32": mtf.range(mesh, dim, tf.float32)}


def _cwise(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    results = {}
    for name in case.with_role("out"):
        x = inputs["xp" if name.endswith("_pos") else "x"]
        if name == "squared_relu":
            results[name] = mtf.square(mtf.relu(x))
        else:
            results[name] = getattr(mtf, name.removesuffix("_pos"))(x)
    return results


def _binary(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    output_shape = optional_shape_of(case.hparams["output_shape"])
    return {
        name: getattr(mtf, name)(inputs["x1"], inputs["x2"], output_shape)
        for name in case.with_role("out")
    }


def _integer_binary(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    x1, x2, p, q = (inputs[name] for name in ("x1", "x2", "p", "q"))
    return {
        "floordiv": x1 // x2,
        "mod": x1 % x2,
        "equal": mtf.equal(x1, x2),
        "not_equal": mtf.not_equal(x1, x2),
        "logical_and": mtf.logical_and(p, q),
        "logical_or": mtf.logical_or(p, q),
        "logical_not": mtf.logical_not(p),
        "add3": x1 + 3,
        "mul2": x1 * 2,
        "rsub7": 7 - x1,
        "floordiv3": x1 // 3,
        "mod3": x1 % 3,
        "to_float": mtf.to_float(x1),
        "float_to_int32": mtf.to_int32(mtf.to_float(x1) * 0.7),
    }


def _where(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    wanted = mtf.Shape(zip(case.dims["out/y"], case.arrays["out/y"].shape, strict=True))
    output_shape = wanted if case.name == "where_output_shape" else None
    return {
        "y": mtf.where(inputs["condition"], inputs["if_true"], inputs["if_false"], output_shape)
    }


def _pool_1d(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    x, size = inputs["x"], case.hparams["pool_size"]
    length = dim_of(x, "l")
    return {
        "mean": mtf.pool_tensor_1d(x, length, mtf.reduce_mean, size),
        "max": mtf.pool_tensor_1d(x, length, mtf.reduce_max, size),
        "stride": mtf.stride_tensor_1d(x, length, size),
    }


def _halo(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    x, size, wrap = inputs["x"], case.hparams["halo_size"], case.hparams["wrap"]
    blocks, width = dim_of(x, "nb"), dim_of(x, "w")
    return {
        "both": mtf.halo_exchange(x, blocks, width, size, wrap),
        "left": mtf.left_halo_exchange(x, blocks, width, size, wrap),
    }


def _while_loop(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    steps = case.hparams["steps"]
    i, x, acc = mtf.while_loop(
        lambda i, x, acc: mtf.less(i, steps),
        lambda i, x, acc: [i + 1, x * 0.9 + mtf.to_float(i), acc + mtf.reduce_sum(x)],
        [mtf.constant(mesh, 0, dtype=tf.int32), inputs["x"], mtf.constant(mesh, 0.0)],
    )
    return {"i": i, "x": x, "acc": acc}


def _cross_entropy(case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh) -> Results:
    logits, targets, z_loss = inputs["logits"], inputs["targets"], case.hparams["z_loss"]
    vocab = dim_of(logits, "v")
    if targets.dtype.is_integer:
        return {
            "loss": layers.softmax_cross_entropy_with_ids(logits, targets, vocab, z_loss=z_loss)
        }
    return {"loss": layers.softmax_cross_entropy_with_logits(logits, targets, vocab, z_loss)}


def _sigmoid_cross_entropy(
    case: ReferenceCase, inputs: dict[str, mtf.Tensor], mesh: mtf.Mesh
) -> Results:
    return {
        "loss": layers.sigmoid_cross_entropy_with_logits(inputs["logits"], inputs["targets"]),
        "weights_nonzero": layers.weights_nonzero(inputs["ids"]),
    }


# By prefix of the case's name; the longest one decides.
CALLS: dict[str, Call] = {
    "einsum": _einsum,
    "reshape": lambda c, x, _: {"y": mtf.reshape(x["x"], shape_of(c.hparams["new_shape"]))},
    "transpose": lambda c, x, _: {"y": mtf.transpose(x["x"], shape_of(c.hparams["new_shape"]))},
    "replace_dimensions": lambda c, x, _: {
        "y": mtf.replace_dimensions(
            x["x"], *(shape_of(c.hparams[side]).dims for side in ("old", "new"))
        )
    },
    "rename_dimension": lambda c, x, _: {"y": mtf.rename_dimension(x["x"], "b", "z")},
    **{
        f"reduce_{name}": _reduce(f"reduce_{name}")
        for name in ("sum", "mean", "max", "min", "all", "any")
    },
    "softmax": _softmax,
    "softmax_cross_entropy": _cross_entropy,
    "sigmoid_cross_entropy": _sigmoid_cross_entropy,
    "top_k": _top_k,
    "top_1": _top_1,
    "nth_element": lambda c, x, _: {
        "largest": mtf.nth_largest_element(x["x"], c.hparams["n"], dim_of(x["x"], "v")),
        "smallest": mtf.nth_smallest_element(x["x"], c.hparams["n"], dim_of(x["x"], "v")),
    },
    "cumsum": lambda c, x, _: {
        "inclusive": mtf.cumsum(x["x"], dim_of(x["x"], "l")),
        "exclusive": mtf.cumsum(x["x"], dim_of(x["x"], "l"), exclusive=True),
    },
    "one_hot": lambda c, x, _: {
        "y": mtf.one_hot(
            x["indices"],
            mtf.Dimension("depth", c.hparams["depth"]),
            *(c.hparams["on_value"], c.hparams["off_value"]),
            tf.as_dtype(c.hparams["dtype"]),
        )
    },
    "gather": _gather,
    "concat": lambda c, x, _: {"y": mtf.concat(_operands(x), _dim(c, "concat_first"))},
    "split": _split,
    "stack": _stack,
    "shift": lambda c, x, _: {
        "y": mtf.shift(x["x"], c.hparams["offset"], dim_of(x["x"], "l"), c.hparams["wrap"])
    },
    "dynamic_shift": lambda c, x, _: {
        "y": mtf.dynamic_shift(x["x"], x["offset"], dim_of(x["x"], "l"), c.hparams["wrap"])
    },
    "pad": lambda c, x, _: {"y": mtf.pad(x["x"], c.hparams["paddings"], _dim(c, "pad_right"))},
    "slice": lambda c, x, _: {
        "y": mtf.slice(x["x"], c.hparams["begin"], c.hparams["size"], _dim(c, "slice_first"))
    },
    "range": _range,
    "cwise": _cwise,
    "pow": lambda c, x, _: {"y": mtf.pow(x["x"], c.hparams["exponent"])},
    "binary": _binary,
    "integer_binary": _integer_binary,
    "where": _where,
    "pool_1d": _pool_1d,
    "halo": _halo,
    "while_loop": _while_loop,
}


def call_of(case: ReferenceCase) -> Call:
    """Returns how to call a case."""
    return CALLS[max((p for p in CALLS if case.name.startswith(p)), key=len)]
