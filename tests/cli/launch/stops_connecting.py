"""A module of a configuration that stops process 1 while TensorFlow connects the processes."""

from __future__ import annotations

import os
import signal
import sys

from mtfrun.mtf.placement import engine


def _stop(kind: str) -> None:
    del kind
    os.kill(os.getpid(), signal.SIGSTOP)


if "--process_id=1" in sys.argv:
    engine._use_nccl = _stop
