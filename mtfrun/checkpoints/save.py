"""Saves checkpoints: copies the variables, and writes the copy in the background."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from mtfrun import mtf, processes
from mtfrun.checkpoints import manifest as manifests
from mtfrun.checkpoints.manifest import FileRecord, Manifest, VariableSpec, describe, tensor_key
from mtfrun.checkpoints.mirror import registry
from mtfrun.checkpoints.partial_files import files_of_save, remove_partial_files
from mtfrun.files import Worker, atomic
from mtfrun.files.errors import RunDirError, reason

# What processes tell each other during a save.
_PREFIX, _PARTS, _STATE = "prefix of the save", "parts of the save", "state of the save"
_WRITING, _IS_WRITTEN, _FINISHED, _FAILED = "writing", "written", "finished", "failed"
_WRITTEN, _SAVED = "variables are written", "step is saved"
_RECORDS = "records of the parts"
# What tf.train.Checkpoint(variables={path: variable}) calls its parts.
_GRAPH, _ROOT, _VALUE = "_CHECKPOINTABLE_OBJECT_GRAPH", "variables", "VARIABLE_VALUE"


# Workers of earlier saves that wait for another.
_idle: list[Worker[Callable[[], object]]] = []
os.register_at_fork(after_in_child=_idle.clear)


def _call_in_thread(function: Callable[[], object]) -> None:
    """Makes a call in a daemon thread, which is used again: a second signal need not wait for it.

    TensorFlow and the allocator keep memory for every thread that they have seen: a new one for
    each save would take megabytes.
    """

    def work() -> None:
        while (call := worker.take()) is not None:
            call()
            _idle.append(worker)

    try:
        worker = _idle.pop()
    except IndexError:
        worker = Worker(work, "save")
    worker.put(function)


class _Tensor(NamedTuple):
    key: str
    part: str
    value: tf.Tensor


class Snapshot:
    """The values of variables at one moment, which training may change at once.

    The constructor waits for the devices, and copies values to the memory of this process's CPU;
    the rest may be called in a thread. `tf.train.Checkpoint.write` makes the same files. Of
    several processes each has the parts of variables that it owns, see `mtf.owned_shards`.
    """

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.specs = describe(variables)
        owned = mtf.owned_shards(variables.values())
        self._tensors = [
            _Tensor(tensor_key(path), _part(self.specs[path], shard), shard.value)
            for path, shards in zip(variables, owned, strict=True)
            for shard in shards
        ]
        if processes.is_first():
            graph = tf.constant(_object_graph(variables))
            self._tensors.append(_Tensor(_GRAPH, "", graph))

    @property
    def has_tensors(self) -> bool:
        return bool(self._tensors)

    def write(self, prefix: pathlib.Path) -> None:
        tensors, self._tensors = self._tensors, []
        if not tensors:
            return
        with tf.device(tensors[0].value.device):
            tf.raw_ops.SaveV2(
                prefix=str(prefix),
                tensor_names=[tensor.key for tensor in tensors],
                shape_and_slices=[tensor.part for tensor in tensors],
                tensors=[tensor.value for tensor in tensors],
            )


class Save:
    """A save in progress: the constructor copies the variables, a thread does everything else.

    First the unfinished manifest, then the data, their hashes, and at last the manifest's name, see
    partial_files.py. An error removes the files of this save, and `wait` raises it.

    Construction, `is_finished` and `wait` are collective, in the main thread: each thread writes
    the parts that its process owns, then the first process makes one checkpoint of them.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        step: int,
        variables: Mapping[str, Any],
        metadata: Mapping[str, Any],
        *,
        after: Callable[[], object],
    ) -> None:
        self._directory = directory
        self.step = step
        self._metadata = manifests.check_metadata(metadata)
        self._after = after
        self._snapshot = Snapshot(variables)
        self._prefix = processes.by_first(self._prepare, _PREFIX)
        self._index, self._count = processes.index(), processes.count()
        self._has_part = processes.gather(self._snapshot.has_tensors, _PARTS)
        self._record: FileRecord | None = None  # for this process's part
        self._records: dict[int, FileRecord] = {}  # for the parts of all processes
        self._error: BaseException | None = None
        self._has_written = threading.Event()
        self._may_finish = threading.Event()  # set once no other process writes
        self._has_failed_elsewhere = False
        self._has_ended = threading.Event()
        _call_in_thread(self._run)

    def is_finished(self) -> bool:
        states = processes.gather(self._state(), _STATE)
        if _FAILED in states:
            return True
        if _WRITING not in states:
            self._let_finish()
        return all(state == _FINISHED for state in states)

    def _let_finish(self) -> None:
        """Gathers the records of all parts and lets the first process merge them. Collective."""
        if self._count > 1 and not self._may_finish.is_set():
            record = self._record and dataclasses.astuple(self._record)
            records = enumerate(processes.gather(record, _RECORDS))
            self._records = {index: FileRecord(*one) for index, one in records if one is not None}
        self._may_finish.set()

    def _state(self) -> str:
        if self._error is not None:
            return _FAILED
        if self._has_ended.is_set():
            return _FINISHED
        return _IS_WRITTEN if self._has_written.is_set() else _WRITING

    def wait(self) -> str:
        try:
            self._has_written.wait()
            with processes.together(_WRITTEN):
                self._raise_error()
            self._let_finish()
        except BaseException:
            self._has_failed_elsewhere = True
            raise
        finally:
            self._may_finish.set()
            self._has_ended.wait()
        with processes.together(_SAVED):
            self._raise_error()
        return str(manifests.manifest_path(self._directory, self.step))

    def abandon(self) -> None:
        """Waits for this process's thread alone; several processes never finish the save."""
        if self._count > 1:
            self._has_failed_elsewhere = True
            self._may_finish.set()
        self._has_ended.wait()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            if self._index == 0:
                self._write_checkpoint()
                self._after()
            else:
                with self._save_errors():
                    self._write_part()
        except BaseException as error:
            self._error = error
        finally:
            self._has_written.set()
            self._has_ended.set()

    def _write_checkpoint(self) -> None:
        directory = self._directory
        try:
            # As long as the manifest is unfinished the data may be removed, see partial_files.py.
            target = manifests.manifest_path(directory, self.step)
            with (
                self._save_errors(),
                atomic.atomic_replace(target, is_removed_on_exit=False) as file,
            ):
                atomic.sync_directory(directory)
                self._write_part()
                written = self._add_other_parts() if self._count > 1 else {}
                files = {}
                for name in files_of_save(directory, self._prefix):
                    path = directory / name
                    files[name] = written.get(path.stat().st_ino) or manifests.record_file(path)
                atomic.sync_directory(directory)
                manifest = Manifest(
                    int(self.step), self._prefix, self._snapshot.specs, files, self._metadata
                )
                file.write(manifests.manifest_text(manifest))
        except BaseException as error:
            self._error = error
            self._has_written.set()
            if self._count > 1:
                self._may_finish.wait()  # other processes may still write
            remove_partial_files(directory, self._prefix)
            raise

    def _write_part(self) -> None:
        if self._count == 1:
            self._snapshot.write(self._directory / self._prefix)
        elif self._has_part[self._index]:
            self._snapshot.write(self._part(self._index))
            # Hash here: otherwise the first process would read all parts again.
            self._record = manifests.record_file(self._data(self._index))

    def _add_other_parts(self) -> dict[int, FileRecord]:
        self._has_written.set()
        self._may_finish.wait()
        if self._has_failed_elsewhere:
            raise RunDirError(f"another process could not save step {self.step}")
        indices = [index for index, has_part in enumerate(self._has_part) if has_part]
        files = {self._data(index).stat().st_ino: self._records[index] for index in indices}
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=[str(self._part(index)) for index in indices],
            destination_prefix=str(self._directory / self._prefix),
            delete_old_dirs=True,
        )
        return files

    def _part(self, index: int) -> pathlib.Path:
        return self._directory / f"{self._prefix}_temp" / f"part-{index}"

    def _data(self, index: int) -> pathlib.Path:
        return self._part(index).with_suffix(".data-00000-of-00001")

    def _prepare(self) -> str:
        """Makes the directory and returns a prefix that no file has."""
        registry.begin_save(self._directory)
        with self._save_errors():
            self._directory.mkdir(parents=True, exist_ok=True)
        prefix, attempt = f"ckpt-{self.step}", 0
        while files_of_save(self._directory, prefix):
            attempt += 1
            prefix = f"ckpt-{self.step}.{attempt}"
        return prefix

    @contextlib.contextmanager
    def _save_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError, RunDirError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise RunDirError(
                f"cannot save step {self.step} in {self._directory}: {reason(cause)}; free space "
                "or name another --model_dir, earlier checkpoints are untouched"
            ) from error


def _part(spec: VariableSpec, shard: mtf.Shard) -> str:
    """Returns the part that a shard is, as SaveV2 reads it; "" for all.

    "4 8 0,2:4,4": the variable's sizes, then where the part begins and its size.
    """
    sizes = tuple(shard.value.shape.as_list())
    if sizes == spec.shape:
        return ""
    places = [f"{begin},{size}" for begin, size in zip(shard.begin, sizes, strict=True)]
    return " ".join([*map(str, spec.shape), ":".join(places)])


def _object_graph(paths: Iterable[str]) -> bytes:
    """Source: tensorflow/core/protobuf/trackable_object_graph.proto."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    root, variables = graph.nodes.add(), graph.nodes.add()
    root.children.add(node_id=1, local_name=_ROOT)
    for path in paths:
        variables.children.add(node_id=len(graph.nodes), local_name=path)
        node = graph.nodes.add()
        node.attributes.add(name=_VALUE, full_name=path, checkpoint_key=tensor_key(path))
    for node in graph.nodes:
        node.has_checkpoint_values.value = True
    serialized: bytes = graph.SerializeToString()
    return serialized
