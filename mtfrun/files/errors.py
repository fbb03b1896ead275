from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from mtfrun.errors import InputError

# What TensorFlow adds to a message: the node and the kind of the operation.
_OPERATION = re.compile(r"\{\{[^{}]*\}\}|\[Op:\w+\]|\[\[[^\[\]]*\]\]")
_SYSTEM_REASONS = frozenset(os.strerror(number) for number in errno.errorcode)


class RunDirError(InputError):
    """One line: what, where, why, the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class DamagedCheckpointError(RunDirError):
    """Files of a checkpoint have changed since the save; an older one may still be good."""


class DeletedCheckpointError(RunDirError):
    """The process that trains the run deleted or replaced a checkpoint while it was read."""


class MissingStepError(RunDirError):
    """A directory of checkpoints has no checkpoint of a step."""

    def __init__(self, step: int, place: object, steps: Sequence[int]) -> None:
        remedy = choose_step(steps) or "there is none"
        super().__init__(f"no checkpoint of step {step} in {place}; {remedy}")


class IncompatibleError(RunDirError):
    """A checkpoint has other variables than a model."""

    def __init__(self, name: str, problems: str, remedy: str) -> None:
        super().__init__(f"{name} is incompatible with the model's variables: {problems}; {remedy}")
        self.name = name
        self.remedy = remedy


def choose_step(steps: Sequence[int]) -> str:
    """Returns a remedy; "" if there are no steps."""
    return f"choose one of the steps {', '.join(map(str, steps))}" if steps else ""


@contextlib.contextmanager
def run_dir_errors(what: str, remedy: str = "", *kinds: type[BaseException]) -> Iterator[None]:
    """Raises errors of these kinds, by default OSError, as a RunDirError "what: why; remedy"."""
    kinds = kinds or (OSError,)
    try:
        yield
    except kinds as error:
        raise RunDirError(f"{what}: {reason(error)}{'; ' * bool(remedy)}{remedy}") from error


def refuse_link(path: pathlib.Path) -> None:
    """Raises RunDirError for a link, which may lead anywhere from an untrusted directory."""
    if path.is_symlink():
        raise RunDirError(f"{path} is a link, which is not followed: remove it")


def reason(error: BaseException) -> str:
    """Returns why `error` was raised, as one short line; the caller names the path.

    TensorFlow surrounds "path; No space left on device" by names of operations, which are cut.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    text = " ".join(_OPERATION.sub(" ", text).split())
    _, _, last = text.rpartition("; ")
    return last if last in _SYSTEM_REASONS else text[:300]


def is_system_error(error: BaseException) -> bool:
    return isinstance(error, OSError) or reason(error) in _SYSTEM_REASONS
