"""All uses of DTensor, and workarounds for its defects, with the tests that show them.

A layout has a mesh axis, or None, for each dimension. docs/dtensor.md lists the limitations.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import itertools
import math
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar, cast

import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor
from tensorflow.python.eager import context

from mtfrun import processes
from mtfrun.errors import LayoutError
from mtfrun.mtf.context import set_inside

DeviceMesh: TypeAlias = dtensor.Mesh
DeviceLayout: TypeAlias = dtensor.Layout

# Keeps a program's all-reduces apart, unless the user's environment decides: DTensor combines
# independent ones, but does not see that a loop reads one and another needs the loop's result, and
# refuses its program ("operand does not dominate this use"). Shown by
# tests/models/test_context_parallelism.py::test_heads_may_be_split_over_another_axis.
os.environ.setdefault("DTENSOR_ENABLE_COMBINE_ALL_REDUCES_OPTIMIZATION", "0")


def make_mesh(axes: Sequence[tuple[str, int]], devices: Sequence[str]) -> DeviceMesh:
    """Returns a mesh of (name, size) axes; each connected process has the next `devices`."""
    if processes.count() == 1:
        return dtensor.create_mesh(axes, devices=devices)
    kind = devices[0].partition(":")[0]
    return dtensor.create_distributed_mesh(axes, local_devices=devices, device_type=kind)


def make_planned_mesh(axes: Sequence[tuple[str, int]]) -> DeviceMesh:
    """Returns a mesh of which only the first device, a CPU, exists: programs compile for it."""
    names, sizes = zip(*axes, strict=True)
    numbers = np.arange(np.prod(sizes)).reshape(sizes)
    device = tf.DeviceSpec.from_string("/job:localhost/replica:0/task:0/device:CPU:0")
    return dtensor.Mesh(list(names), numbers, [0], [device])


def places(mesh: DeviceMesh) -> list[dict[str, int]]:
    """Returns the index along every axis of each device of this process; scans all devices."""
    return cast("list[dict[str, int]]", mesh.local_device_locations())


def begins(
    place: Mapping[str, int], axes: Sequence[str | None], sizes: Sequence[int]
) -> tuple[int, ...]:
    """Returns the begin of a device's part of a value, for its place and the part's sizes."""
    pairs = zip(axes, sizes, strict=True)
    return tuple(0 if axis is None else place[axis] * size for axis, size in pairs)


def make_layout(mesh: DeviceMesh, axes: Sequence[str | None]) -> DeviceLayout:
    """Returns the layout that splits the dimensions over these axes.

    Some operations refuse axes of one device, which are left out:
    tests/mtf/test_mesh.py::test_an_axis_of_one_device_splits_nothing.
    """
    specs = [axis if axis and mesh.dim_size(axis) > 1 else dtensor.UNSHARDED for axis in axes]
    return dtensor.Layout(specs, mesh)


def relayout(value: tf.Tensor, layout: DeviceLayout) -> tf.Tensor:
    """Returns a value in another layout; inside a traced function it may be a plain tensor."""
    return dtensor.relayout(value, layout)


def pack(parts: Sequence[tf.Tensor], layout: DeviceLayout) -> tf.Tensor:
    """Returns the value with these parts on the devices of this process, in order."""
    return dtensor.pack(parts, layout)


def to_numpy(value: tf.Tensor, mesh: DeviceMesh) -> np.ndarray:
    """Returns a whole value. Collective: every process must call it."""
    replicated = dtensor.Layout.replicated(mesh, rank=value.shape.rank)
    return cast(np.ndarray, dtensor.unpack(dtensor.relayout(value, replicated))[0].numpy())


def make_variable(value: tf.Tensor, *, trainable: bool) -> tf.Variable:
    """Returns a variable with the layout of its initial value."""
    return dtensor.DVariable(value, trainable=trainable)


def make_device_numbers(numbers: Sequence[int], mesh: DeviceMesh) -> tf.Variable:
    """Returns an int32 variable that has another value on each device of this process.

    DTensor assumes that it and its results are replicated: each device computes with its number,
    without communication, until `sum_over_devices`. `device_number` reads it.
    """
    # A scalar would be folded into the program that initialises the variable.
    values = [tf.fill([FOLDED_BELOW], number) for number in numbers]
    layout = dtensor.Layout.replicated(mesh, rank=1)
    return dtensor.DVariable(dtensor.pack(values, layout), trainable=False)


def device_number(variable: tf.Variable) -> tf.Tensor:
    """Returns the scalar of each device, of `make_device_numbers`."""
    return tf.reshape(tf.slice(variable.read_value(), [0], [1]), [])


def sum_over_devices(
    value: tf.Tensor, mesh: DeviceMesh, halving_axes: Sequence[str], axes: Sequence[str | None]
) -> tf.Tensor:
    """Returns the sum of values that differ by device, see `make_device_numbers`, as a binary tree.

    Along each of these axes of two devices, the last first, pairs add their values: x + y and y + x
    have the same bits. `axes` has one for each dimension of the value.
    """
    for axis in reversed(halving_axes):
        both = tf.broadcast_to(value, [2, *value.shape])
        device_values = relayout(both, make_layout(mesh, [axis, *axes]))
        value = relayout(tf.reduce_sum(device_values, 0), make_layout(mesh, axes))
    return value


def distinct_parts(
    variables: Iterable[tf.Variable],
) -> Iterator[list[tuple[tf.Tensor, tuple[int, ...]]]]:
    """Yields of each variable the parts that this process owns, with their begins.

    Each part has one owner. Of processes that have the same parts of a variable, those own them
    that own the fewest bytes of the variables before, so that all write checkpoints. A plain
    `tf.Variable` is the first process's.
    """
    owned_bytes = np.zeros(processes.count(), np.int64)
    for variable in variables:
        value = variable.value()
        if isinstance(variable, dtensor.DVariable):
            yield _owned_parts(value, variable.layout, owned_bytes)
        else:
            yield [(value, (0,) * value.shape.rank)] if processes.is_first() else []
            owned_bytes[0] += value.shape.num_elements() * value.dtype.size


def _owned_parts(
    value: tf.Tensor, layout: DeviceLayout, owned_bytes: np.ndarray
) -> list[tuple[tf.Tensor, tuple[int, ...]]]:
    """Adds what each process owns of a value to `owned_bytes`."""
    mesh = layout.mesh
    sharding = [None if axis == dtensor.UNSHARDED else axis for axis in layout.sharding_specs]
    replicating = [axis for axis in mesh.dim_names if axis not in sharding]
    # The process of each device, by the copy of the value that the device has a part of.
    process_of = np.arange(mesh.size).reshape(mesh.shape()) // mesh.num_local_devices()
    process_of = np.moveaxis(
        process_of, [mesh.dim_names.index(axis) for axis in replicating], range(len(replicating))
    )
    process_of = process_of.reshape(math.prod(map(mesh.dim_size, replicating)), -1)
    copy = np.argmin(owned_bytes[process_of].max(axis=1))
    sizes = [mesh.dim_size(axis) for axis in replicating]
    place_of_copy = dict(zip(replicating, np.unravel_index(copy, sizes), strict=True))
    parts = dtensor.unpack(value)
    np.add.at(owned_bytes, process_of[copy], parts[0].shape.num_elements() * parts[0].dtype.size)
    return [
        (part, begins(place, sharding, part.shape.as_list()))
        for place, part in zip(places(mesh), parts, strict=True)
        if all(place[axis] == index for axis, index in place_of_copy.items())
    ]


def run_on(mesh: DeviceMesh) -> contextlib.AbstractContextManager[None]:
    """Makes programs without arguments, of which DTensor infers no mesh, run on this mesh."""
    return cast("contextlib.AbstractContextManager[None]", dtensor.run_on(mesh))


# DTensor's collectives between GPUs use NVIDIA's library if this is "1", else the host's memory.
NCCL = "DTENSOR_GPU_USE_NCCL_COMMUNICATION"
# Milliseconds without a heartbeat until TensorFlow fails all collectives and, with them, the whole
# process; its default is 10 s. Our heartbeats end the processes earlier, and with one line.
_TENSORFLOW_SILENCE_MS = 3_600_000


class _Started:
    accelerators: str | None = None
    devices: tuple[str, int] | None = None


def start_accelerators(kind: str, description: str) -> None:
    """Starts DTensor for the GPUs or TPUs of this process, before any tensor; else a LayoutError.

    It makes a logical CPU for each, which saves and restores the accelerator's variables.
    """
    if _Started.accelerators == kind:
        return
    if kind == "GPU":
        os.environ.setdefault(NCCL, "1")
    try:
        dtensor.initialize_accelerator_system(kind)
    except (ValueError, RuntimeError) as error:
        raise LayoutError(
            f"mesh {description} cannot use {kind}s ({error}): make the mesh before any tensor"
        ) from error
    _Started.accelerators = kind


def connect_processes(kind: str, count: int, description: str) -> None:
    """Connects TensorFlow with the other processes, if any, before it makes a tensor.

    Each has `count` devices of a kind such as "GPU", and the same mesh: otherwise, or after a
    tensor, a LayoutError. Each chooses a port and the processes tell each other. TensorFlow's
    servers accept any connection: the network must be trusted.
    """
    if processes.count() == 1:
        return
    devices = (kind, count)
    for index, other in enumerate(processes.gather([*devices, description], "mesh")):
        if other != [*devices, description]:
            raise LayoutError(
                f"process {processes.index()} has the mesh {description} on {count} {kind} "
                f"device(s), process {index} has {other[2]} on {other[1]} {other[0]} device(s): "
                "start all with the same configuration on machines of one kind"
            )
    if _Started.devices == devices:
        return
    if _Started.devices is not None:
        started = f"{_Started.devices[1]} {_Started.devices[0]} device(s)"
        raise LayoutError(f"this process has started with {started}: use them in all meshes")
    jobs = processes.gather(_free_address(), "jobs")
    os.environ["DTENSOR_JOB_NAME"] = "worker"
    os.environ["DTENSOR_CLIENT_ID"] = str(processes.index())
    os.environ["DTENSOR_NUM_CLIENTS"] = str(processes.count())
    os.environ["DTENSOR_JOBS"] = ",".join(jobs)
    if kind == "GPU":
        os.environ.setdefault(NCCL, "1")
    try:
        context.context().configure_coordination_service(
            "standalone",
            service_leader=f"/job:{dtensor.full_job_name(task_id=0)}",
            heartbeat_timeout_in_ms=_TENSORFLOW_SILENCE_MS,
        )
        with _threads_run_while_connecting():
            dtensor.initialize_accelerator_system(kind, enable_coordination_service=False)
    except ValueError as error:  # TensorFlow has already started
        raise LayoutError(
            f"several processes cannot be connected ({error}): make the mesh before any tensor"
        ) from error
    _Started.devices = devices


@contextlib.contextmanager
def _threads_run_while_connecting() -> Iterator[None]:
    """TensorFlow waits for the other processes with Python's lock, so that no heartbeat is sent.

    Inside, it is called through ctypes, which releases the lock.
    """
    former = context.pywrap_tfe.TFE_EnableCollectiveOps
    context.pywrap_tfe.TFE_EnableCollectiveOps = _enable_collective_ops
    try:
        yield
    finally:
        context.pywrap_tfe.TFE_EnableCollectiveOps = former


def _enable_collective_ops(handle: object, server: bytes) -> None:
    """Source: tensorflow/c/eager/c_api_experimental.h and tensorflow/c/tf_status.h."""
    library = ctypes.CDLL(f"{tf.sysconfig.get_lib()}/libtensorflow_cc.so.2")
    library.TF_NewStatus.restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    status = ctypes.c_void_p(library.TF_NewStatus())
    pointer = ctypes.c_void_p(pointer_of(handle, None))
    library.TFE_EnableCollectiveOps(pointer, server, ctypes.c_size_t(len(server)), status)
    code, message = library.TF_GetCode(status), library.TF_Message(status)
    library.TF_DeleteStatus(status)
    if code:
        raise tf.errors.InternalError(None, None, message.decode("utf-8", "replace"))


def _free_address() -> str:
    host = processes.host()
    # Closed before TensorFlow takes it: the system gives such a port to another program only after
    # all free ones were used.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


ResultT = TypeVar("ResultT")

_SPARE = contextvars.ContextVar("spare_counters", default=0)
_LOOPS = itertools.count()  # of this process, if it is one of several
_ATTEMPTS = 8
# DTensor folds replicated inputs of fewer elements into the program (measured: 16, but not 32).
FOLDED_BELOW = 32


def run_again_if_names_clash(run: Callable[[], ResultT], retrace: Callable[[], None]) -> ResultT:
    """Returns run(), which is called again after `retrace` where the names of loops clash.

    DTensor's compiler lives as long as the process and seems to store the names of loops by their
    operation's address. A new loop at the address of a freed one gets its names, and the program is
    refused before it runs ("a different function with the same name already exists"), so that no
    assignment happens twice: one in three of the decoding programs of a process. A loop with
    another number of variables has another size and address: see `spare_counters`. Shown by
    tests/mtf/test_function.py::test_loops_of_many_programs_of_one_process_do_not_clash
    """
    attempt = 0
    while True:
        try:
            with set_inside(_SPARE, attempt):
                return run()
        except tf.errors.InvalidArgumentError as error:
            clashes = "a different function with the same name already exists" in str(error)
            if not clashes or attempt == _ATTEMPTS - 1 or processes.count() > 1:
                raise
        attempt += 1
        retrace()


def spare_counters() -> list[tf.Tensor]:
    """Returns initial values of counters that a loop must increment beside its variables.

    Several processes must compile the same programs; if one refuses its program it cannot tell the
    rest, which already run theirs. There every loop has one variable more than the loop before: of
    40 programs 7 were refused without these variables, 0 with them. See
    tests/mtf/test_function.py::test_loops_of_several_processes_have_growing_numbers_of_variables
    """
    number = _SPARE.get() + (next(_LOOPS) if processes.count() > 1 else 0)
    # With different values, and incremented: equal or constant variables are optimised away.
    return [tf.constant(i, tf.int32) for i in range(number)]


def widen_small_inputs(values: Sequence[tf.Tensor], is_small: Sequence[bool]) -> list[tf.Tensor]:
    """Returns the inputs of a program, with many copies of each small one.

    DTensor folds an input of few elements into the program and compiles a second program, for any
    value, when it changes: twice the time to start, and names of nested loops clash. See
    tests/mtf/test_function.py::test_other_values_of_the_same_shape_give_other_results.
    """
    return [
        tf.broadcast_to(x, [FOLDED_BELOW, *x.shape]) if small else x
        for x, small in zip(values, is_small, strict=True)
    ]


def take_small_inputs(values: Sequence[tf.Tensor], is_small: Sequence[bool]) -> list[tf.Tensor]:
    """Returns the inputs of a program without the copies of `widen_small_inputs`."""
    return [
        tf.reshape(tf.slice(x, [0] * x.shape.rank, [1, *x.shape[1:]]), x.shape[1:]) if small else x
        for x, small in zip(values, is_small, strict=True)
    ]


def stack(values: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    """Returns tf.stack: DTensor gathers its last dimension, see the case `stack`."""
    return tf.concat([tf.expand_dims(value, axis) for value in values], axis)


def reverse(value: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns tf.reverse along one axis, for which DTensor has no rule.

    See tests/mtf/test_transposed_convolution.py::test_blocks_change_no_transposed_convolution.
    """
    return tf.concat(tf.split(value, value.shape[axis], axis)[::-1], axis)


def choose(condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor, *, rank: int) -> tf.Tensor:
    """Returns tf.where, of a scalar condition too: the case `where_of_a_scalar_condition`.

    DTensor ends the process where a scalar chooses between tensors; `rank` is the result's.
    """
    if not condition.shape.rank:
        condition = tf.reshape(condition, [1] * rank)
    return tf.where(condition, x, y)


def compute_all_loops(results: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns results of the function that is traced, which wait for the loops they do not need.

    DTensor leaves out a loop of which no result is needed. The functions of loops in its body
    remain, without a mesh, and the program is refused ("failed to merge mesh cluster"). Shown by
    tests/mtf/test_function.py::test_no_result_of_a_loop_with_loops_need_be_used.
    """
    operations = tf.compat.v1.get_default_graph().get_operations()
    loops = [op for op in operations if op.type in ("While", "StatelessWhile")]
    needed: set[tf.Operation] = set()
    remaining = [x.op for x in results if tf.is_symbolic_tensor(x)] if loops else []
    while remaining:
        op = remaining.pop()
        if op not in needed:
            needed.add(op)
            remaining += [*(x.op for x in op.inputs), *op.control_inputs]
    unneeded = [op for op in loops if op not in needed]
    with tf.control_dependencies(unneeded):
        return [tf.identity(x) for x in results] if unneeded else list(results)
