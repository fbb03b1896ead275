"""TensorFlow's settings in tests, and fixtures for all packages."""

from __future__ import annotations

import gc
import itertools
import os
import pathlib
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest

from mtfrun.display.tensorflow_import import import_tensorflow
from tests.deleted_extras import case_needs_deleted_extra, needs_deleted_extra
from tests.gpu.machine import hide_gpus
from tests.layouts import NUM_DEVICES, ONE_DEVICE, meshes

# Programs that import torch and other packages that tests do not need.
collect_ignore_glob = [
    *("*/transformers_*.py", "*_process.py", "*/judged_models.py"),
    *("*/torch_*.py", "*/jax_*.py", "*/ctranslate2_*.py"),
]

# Markers of tests that run only if they are chosen.
CHOSEN = {
    "gpu": "needs GPUs; run by bin/test --gpu",
    "faults": "repeats a fault many times; run by bin/test --faults",
}


def pytest_configure(config: pytest.Config) -> None:
    """Prepares TensorFlow, and sets hypothesis, in every process that runs tests.

    The process that only distributes tests to workers (`-n`) does not load it: it starts sooner,
    and the messages that TensorFlow prints when it is loaded do not follow the summary.
    """
    gc.disable()  # until all tests are collected
    for marker, description in CHOSEN.items():
        config.addinivalue_line("markers", f"{marker}: {description}")
    hide_gpus()
    # No deadline, since other programs share the machine; the same examples in every run.
    hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("suite")
    is_worker = hasattr(config, "workerinput")
    if not is_worker:
        _make_cache_directory(config)
    if os.environ.get("MTFRUN_TESTS_WITHOUT_TENSORFLOW"):
        # An import in these tests is an error, as it takes seconds in each process.
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    elif is_worker or not config.getoption("numprocesses", default=None):
        _make_virtual_devices()
        _compile_without_rewriting()
        _decode_without_xla()


def pytest_ignore_collect(collection_path: pathlib.Path) -> bool | None:
    """Leaves out the tests that need an extra that is deleted."""
    return needs_deleted_extra(collection_path) or None


def pytest_collection_finish() -> None:
    """Leaves modules and tests out of later garbage collections, which would take 0.3 s each."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest itself leaves out slow tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks slow cases, and leaves out the tests of `CHOSEN`, except of a marker that is chosen.

    Cases that need a deleted extra are left out as well.
    """
    _mark_slow_cases(config, items)
    left_out = [marker for marker in CHOSEN if marker not in config.getoption("markexpr")]
    deselected = [
        item
        for item in items
        if any(map(item.get_closest_marker, left_out))
        or case_needs_deleted_extra(_name_and_case(item.nodeid)[1])
    ]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


def _mark_slow_cases(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the cases of tests in quick_cases.txt that are not in it themselves."""
    quick: dict[str, set[str]] = {}
    for line in pathlib.Path(__file__).with_name("quick_cases.txt").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            name, case = _name_and_case(line)
            quick.setdefault(name, set()).add(case)
    cases: dict[str, set[str]] = {}
    for item in items:
        name, case = _name_and_case(item.nodeid)
        if name in quick:
            cases.setdefault(name, set()).add(case)
            if case not in quick[name]:
                item.add_marker("slow")
    if not any("::" in argument for argument in config.args):
        for name, collected in cases.items():
            missing = set(itertools.filterfalse(case_needs_deleted_extra, quick[name] - collected))
            if missing:
                raise pytest.UsageError(f"tests/quick_cases.txt: {name} has no case {missing}")


def _name_and_case(line: str) -> tuple[str, str]:
    """Returns "tests/test_a.py::test_b" and "c" for "tests/test_a.py::test_b[c]"."""
    name, _, case = line.removesuffix("]").partition("[")
    return name, case


def _make_cache_directory(config: pytest.Config) -> None:
    """Sets a directory of caches for this process and its descendants, and removes it at the end.

    The caches of the user must be neither read nor changed. The processes of tests/portions.py
    share a directory.
    """
    if shared := os.environ.get("MTFRUN_TESTS_DIR"):
        os.environ["MTFRUN_CACHE_DIR"] = f"{shared}/cache"
        return
    directory = tempfile.TemporaryDirectory(prefix="mtfrun-tests-")
    os.environ["MTFRUN_CACHE_DIR"] = directory.name
    config.add_cleanup(directory.cleanup)


def _make_virtual_devices() -> None:
    """Splits the CPU into NUM_DEVICES, which is only possible before TensorFlow uses it."""
    # Read by TensorFlow when it is loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with import_tensorflow():
        import tensorflow as tf  # noqa: PLC0415, after the environment variables are set

    # Tests are small and several processes share the machine: one thread per op is fastest. The
    # pool for different ops keeps its size, since the devices of a mesh wait for each other in it.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * NUM_DEVICES
    )


def _compile_without_rewriting() -> None:
    """Keeps TensorFlow from rewriting the graphs of programs, a third of the time to compile them.

    The programs of the tests run for milliseconds. Commands in processes of their own compile as
    users do.
    """
    import tensorflow as tf  # noqa: PLC0415, as above

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def _decode_without_xla() -> None:
    """Lets TensorFlow run the programs that decode, which XLA compiles for seconds.

    Commands in processes of their own decode as users do, and so do tests that use
    `decodes_by_xla`.
    """
    from mtfrun import mtf  # noqa: PLC0415, as above

    mtf.Mesh.decodes_by_xla = property(lambda mesh: False)  # type: ignore[method-assign, assignment]


@pytest.fixture
def decodes_by_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the programs that decode be compiled as users have them compiled."""
    from mtfrun import mtf  # noqa: PLC0415, as above

    is_on_one_device = property(lambda mesh: not mesh.is_distributed)
    monkeypatch.setattr(mtf.Mesh, "decodes_by_xla", is_on_one_device)


@pytest.fixture
def hangup_not_ignored() -> Iterator[None]:
    """Makes this process and its descendants receive SIGHUP, which is ignored under `nohup`."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.fixture(params=[ONE_DEVICE, *meshes()])
def mesh_shape(request: pytest.FixtureRequest) -> str:
    """Every mesh shape of LAYOUTS, for example `"data:2,model:2"`."""
    return request.param


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Limits every file to 64 kB: larger writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
