"""Calls of structure, indexing, control and random operations; see op_cases.py."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from tests.mtf.op_cases import AB, ABC, BC, DATA_MODEL, KEY, A, B, C, OpCase

STRUCTURE = [
    OpCase("transpose", lambda x: mtf.transpose(x, "c:8;a:8;b:8"), (ABC,)),
    OpCase("broadcast", lambda x: mtf.broadcast(x, "b:8;c:8;a:8"), ("a:8",)),
    OpCase(
        "reshape_that_splits",
        lambda x: mtf.reshape(x, "a:8;d:8;e:8"),
        ("a:8;b:64",),
        ("a:data;d:model", "b:data;a:model", "e:data;a:model"),
    ),
    OpCase(
        "reshape_that_merges",
        lambda x: mtf.reshape(x, "a:8;d:64"),
        (ABC,),
        ("a:data;d:model", "b:data;c:model", "c:data;d:model"),
    ),
    OpCase(
        "reshape_that_keeps_a_split_dimension_whole",
        lambda x: mtf.reshape(x, "b:8;d:64"),
        ("b:8;a:8;c:8",),
        ("b:data", "a:data;b:model"),
    ),
    OpCase(
        "reshape_that_moves_an_axis",
        lambda x: mtf.reshape(x, "d:8;e:8"),
        (AB,),
        ("a:data;e:data", "a:data;e:model", "a:data;b:model;d:model;e:data"),
    ),
    OpCase(
        "reshape_that_splits_beside_a_dimension_that_loses_its_axis",
        lambda x: mtf.reshape(x, "d:8;e:8;f:8"),
        ("a:8;b:64",),
        ("a:data;e:data", "a:data;e:data;f:model"),
    ),
    OpCase(
        "reshape_that_moves_an_axis_between_later_dimensions",
        lambda x: mtf.reshape(x, "a:8;d:8;e:8;f:8"),
        ("a:8;b:8;c:8;g:8",),
        ("b:data;e:data", "a:data;c:model;f:model"),
    ),
    OpCase("rename_dimension", lambda x: mtf.rename_dimension(x, "a", "z"), (AB,)),
    OpCase(
        "rename_to_a_split_dimension",
        lambda x: mtf.rename_dimension(x, "a", "z"),
        (AB,),
        ("z:data;b:model", "a:data;z:model"),
    ),
    OpCase("replace_dimensions", lambda x: mtf.replace_dimensions(x, [B, C], "d:64"), (ABC,)),
    OpCase("anonymize", mtf.anonymize, (AB,)),
    OpCase("concat", lambda x, y: [mtf.concat([x, y], n) for n in "abc"], (ABC, ABC)),
    OpCase(
        "split",
        lambda x: [*mtf.split(x, "d:16", 2), *mtf.split(x, "d:16", [8, 8])],
        ("d:16;a:8;b:8",),
    ),
    OpCase("split_of_a_split_dimension", lambda x: mtf.split(x, "a:16", 2), ("a:16;b:8",)),
    OpCase("stack", lambda x, y: [mtf.stack([x, y], "s", axis) for axis in (0, 1, -1)], (AB, AB)),
    OpCase(
        "stack_into_a_split_dimension",
        lambda x: mtf.stack([x * float(i) for i in range(8)], "s"),
        (AB,),
        ("s:data;b:model",),
    ),
    OpCase("unstack", lambda x: mtf.unstack(x, C) + mtf.unstack(x, A), (ABC,)),
    OpCase(
        "slice", lambda x: [mtf.slice(x, 4, 8, "b"), mtf.slice(x, 1, 3, "c")], ("a:8;b:16;c:8",)
    ),
    OpCase("pad", lambda x: [mtf.pad(x, [3, 5], "b"), mtf.pad(x, [1, 0], "c")], (ABC,)),
    OpCase("reduce_first", lambda x: [mtf.reduce_first(x, A), mtf.reduce_first(x, C)], (ABC,)),
]

SHIFTS = [
    OpCase("shift", lambda x: [mtf.shift(x, 1, A, False), mtf.shift(x, -3, B, True)], (ABC,)),
    OpCase(
        "dynamic_shift",
        lambda x, o: [mtf.dynamic_shift(x, o, C, False), mtf.dynamic_shift(x, o, C, True)],
        (ABC, "int a:8"),
    ),
    OpCase(
        "dynamic_shift_along_a_split_dimension",
        lambda x, o: mtf.dynamic_shift(x, o, B, False),
        (ABC, "int a:8"),
    ),
    OpCase(
        "halo_exchange",
        lambda x: [
            mtf.halo_exchange(x, A, C, 2),
            mtf.halo_exchange(x, B, C, 1, wrap=True),
            mtf.left_halo_exchange(x, A, C, 3),
        ],
        (ABC,),
    ),
]


def _gather(table: mtf.Tensor, ids: mtf.Tensor) -> mtf.Tensor:
    return mtf.gather(table, ids, V)


def _added(entry: mtf.Tensor) -> mtf.Tensor:
    mesh = entry.mesh
    x = mtf.mutable_zeros(mesh, mtf.Shape([A]) + entry.shape)
    for position in (3, 5, 3):
        x = mtf.add_position(x, entry, A, mtf.constant(mesh, position, dtype=tf.int32))
    return x


def _position(x: mtf.Tensor) -> mtf.Tensor:
    return mtf.constant(x.mesh, 3, dtype=tf.int32)


V = mtf.Dimension("v", 8)
VALUES = np.arange(64, dtype=np.float32).reshape(8, 8)

INDEXING = [
    OpCase(
        "constants",
        lambda x: [
            x + mtf.constant(x.mesh, 2.0, AB),
            mtf.zeros(x.mesh, AB),
            mtf.ones(x.mesh, BC),
            mtf.zeros_like(x),
            mtf.ones_like(x),
        ],
        (AB,),
    ),
    OpCase(
        "run_time_zeros",
        lambda ids: [mtf.run_time_zeros(ids, ABC), mtf.run_time_zeros(ids, ids.shape, tf.int32)],
        ("int a:8;c:8",),
    ),
    OpCase(
        "imported_values",
        lambda x: [
            x + mtf.import_tf_tensor(x.mesh, VALUES, AB),
            mtf.import_fully_replicated(x.mesh, VALUES, BC),
        ],
        (AB,),
    ),
    OpCase("range", lambda x: [mtf.range(x.mesh, B), x * mtf.range(x.mesh, A, tf.float32)], (AB,)),
    OpCase(
        "one_hot",
        lambda ids: [mtf.one_hot(ids, "b:8"), mtf.one_hot(ids, "b:8", 2, -1, tf.int32)],
        ("int a:8;c:8",),
    ),
    OpCase(
        "gather_from_a_table",
        _gather,
        ("v:8;d:8", f"int {AB}"),
        (DATA_MODEL, "a:data;v:model", "v:data;a:model", "a:data;d:model"),
    ),
    OpCase(
        "gather_along_a_later_dimension",
        _gather,
        ("d:8;v:8;e:8", "int a:8"),
        ("a:data;v:model", "v:data;d:model"),
    ),
    OpCase(
        "batched_gather",
        lambda x, ids: mtf.gather(x, ids, "v:8", "a:8;k:8;d:8"),
        ("a:8;v:8;d:8", "int a:8;k:8"),
        ("a:data;v:model", "a:data;k:model", "v:data;k:model"),
    ),
    OpCase(
        "gather_with_a_permuted_output",
        lambda x, ids: mtf.gather(x, ids, "v:8", "d:8;a:8"),
        ("v:8;d:8", "int a:8"),
        ("a:data;v:model", "d:data;a:model"),
    ),
    OpCase(
        "gather_at_a_python_number", lambda x: [mtf.gather(x, 3, A), mtf.gather(x, 1, C)], (ABC,)
    ),
    OpCase(
        "gather_rows",
        lambda x, i, j: mtf.gather_rows(x, [(V, i % 8), (C, j % 8)], "k:8;a:8;d:2"),
        ("a:8;v:8;c:8;d:2", "int a:8;k:8", "int a:8"),
        ("a:data", "a:data;k:model"),
        differentiable=False,
    ),
    OpCase(
        "write_position",
        lambda x, entry, condition: [
            mtf.write_position(x, entry, C, _position(x)),
            mtf.write_position(x, entry, C, _position(x), condition),
        ],
        (ABC, AB, "bool a:8"),
        (DATA_MODEL, "a:data;c:model"),
    ),
    OpCase(
        "add_position", _added, (BC,), ("b:data;c:model", "a:data;c:model"), differentiable=False
    ),
    OpCase(
        "write_block",
        lambda x, block, starts: [
            mtf.write_block(x, block, C, mtf.Dimension("k", 3), starts % 6),
            mtf.write_block(
                x, block, C, mtf.Dimension("k", 3), mtf.constant(x.mesh, 5, dtype=tf.int32)
            ),
        ],
        (ABC, "a:8;b:8;k:3", "int a:8"),
        (DATA_MODEL, "a:data;c:model"),
    ),
]


def _loop(x: mtf.Tensor) -> list[mtf.Tensor]:
    start = mtf.constant(x.mesh, 0, dtype=tf.int32)
    return list(
        mtf.while_loop(
            lambda i, _y: i < 3,
            lambda i, y: [i + 1, mtf.softmax(y, B) + x],
            [start, x],
            maximum_iterations=5,
        )
    )


def _loop_with_a_constant(x: mtf.Tensor) -> list[mtf.Tensor]:
    start = mtf.constant(x.mesh, 0, dtype=tf.int32)
    return list(
        mtf.while_loop(
            lambda i, _y, _constant: i < 3,
            lambda i, y, constant: [i + 1, y + constant, constant],
            [start, x, 2.0 * x],
        )
    )


def _loop_with_accumulators(x: mtf.Tensor) -> list[mtf.Tensor]:
    start = mtf.constant(x.mesh, 0, dtype=tf.int32)
    sums = mtf.while_loop(
        lambda i: i < 3,
        lambda i: [i + 1, mtf.reduce_sum(x * mtf.to_float(i), reduced_dim=A), mtf.to_float(i)],
        [start],
        has_accumulators=True,
    )
    return list(sums)


def _doubled_gradient(x: mtf.Tensor) -> mtf.Tensor:
    return mtf.custom_gradient(
        lambda y: mtf.reduce_sum(mtf.square(y), reduced_dim=A),
        lambda inputs, _outputs, grads: [4.0 * inputs[0] * grads[0]],
        [x],
    )


CONTROL = [
    # Loops have no gradient on a mesh, as in Mesh TensorFlow.
    OpCase("while_loop", _loop, (AB,), differentiable=False),
    OpCase("while_loop_with_a_constant", _loop_with_a_constant, (AB,), differentiable=False),
    OpCase("while_loop_with_accumulators", _loop_with_accumulators, (AB,), differentiable=False),
    OpCase(
        "compute_after",
        lambda x: mtf.compute_after(_loop(x)[1], [x, 2.0 * x]),
        (AB,),
        differentiable=False,
    ),
    OpCase(
        "recompute_grad",
        lambda x: mtf.recompute_grad(lambda y: mtf.tanh(mtf.softmax(y, B)), [x]),
        (AB,),
    ),
    OpCase(
        "recompute_grad_with_a_value_that_is_kept",
        lambda x: mtf.recompute_grad(lambda y: mtf.tanh(mtf.keep(mtf.softmax(y, B), "p")), [x], []),
        (AB,),
    ),
    OpCase("custom_gradient", _doubled_gradient, (AB,)),
]

RANDOM = [
    OpCase("dropout", lambda x: mtf.dropout(x, True, rate=0.4, key=KEY), (AB,)),
    OpCase(
        "dropout_with_shared_noise",
        lambda x: mtf.dropout(x, True, rate=0.4, noise_shape="a:8", key=KEY),
        (ABC,),
    ),
    OpCase(
        "random_numbers",
        lambda x: [
            x + mtf.random_uniform(x.mesh, AB, key=KEY, minval=-1.0),
            mtf.random_normal(x.mesh, ABC, key=KEY),
        ],
        (AB,),
    ),
]

CASES = [*STRUCTURE, *SHIFTS, *INDEXING, *CONTROL, *RANDOM]
