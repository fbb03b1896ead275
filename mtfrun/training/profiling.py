"""A trace of some steps for TensorBoard's page Profile."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
from collections.abc import Iterator

import tensorflow as tf

from mtfrun.display.progress import print_line
from mtfrun.errors import install_command


@contextlib.contextmanager
def profiled(run: str, visit: int) -> Iterator[None]:
    """Records what runs in the block, and prints how to look at it.

    Args:
      run: the path of the run's directory.
      visit: the number of the visit of the devices.
    """
    tf.profiler.experimental.start(run + "/train")
    try:
        # The visit counts as one step of the profiler, `_r`: it is one program.
        with tf.profiler.experimental.Trace("visit", step_num=visit, _r=1):
            yield
    finally:
        tf.profiler.experimental.stop()
    look = f"tensorboard --logdir={shlex.quote(run)}"
    print_line(f"profiled: look at it with {look}, page Profile; {_how_to_show_profiles()}")


def _how_to_show_profiles() -> str:
    """Returns what TensorBoard needs for the page Profile."""
    if importlib.util.find_spec("xprof") is not None:
        return "its plugin xprof is installed"
    return f"install its plugin first: {install_command('xprof')}"
