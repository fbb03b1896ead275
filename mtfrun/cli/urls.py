"""URLs in the flags of a command, which works on local directories."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator

from mtfrun import processes
from mtfrun.cli.command import Command
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.files import StoreError, is_url, local_copy

# Flags that name a run, or a checkpoint of it as in /tmp/run@100, which is read.
_READ = ("adapter", "base", "draft", "first", "second")
_AT_STEP = re.compile(r"(?P<run>.*)(?P<step>@[a-z0-9]+)")


def has_urls(flags: argparse.Namespace) -> bool:
    values = [getattr(flags, name, None) for name in ("model_dir", "input", *_READ)]
    return any(map(is_url, [*values, *getattr(flags, "words", ())]))


def replace_urls(flags: argparse.Namespace) -> None:
    """Replaces URLs by the local directories that other processes will open."""
    from mtfrun.checkpoints.mirror import registry  # noqa: PLC0415 - URLs are rare

    if is_url(flags.model_dir):
        flags.model_dir = registry.local_path(flags.model_dir)


@contextlib.contextmanager
def local_directories(flags: argparse.Namespace, command: Command) -> Iterator[None]:
    """Replaces URLs of runs in the flags by local directories, which are their mirrors inside.

    Of several processes, which share the local directory, the first one opens the mirrors.
    """
    if not has_urls(flags):
        yield
        return
    from mtfrun.checkpoints.mirror import registry  # noqa: PLC0415 - URLs are rare

    urls: dict[str, str] = {}
    with contextlib.ExitStack() as stack:

        def open_mirror(url: str, *, writes: bool) -> str:
            urls[registry.local_path(url)] = url
            if processes.count() > 1:
                processes.by_first(lambda: enter(url, writes=writes) and None, "mirror of a run")
                return registry.local_path(url)
            return enter(url, writes=writes)

        def enter(url: str, *, writes: bool) -> str:
            if not writes:
                follows = getattr(flags, "continuous", False)
                return stack.enter_context(registry.reading(url, follows=follows))
            # --restart moves the files of old checkpoints.
            is_restarted = getattr(flags, "restart", False)
            path = stack.enter_context(registry.writing(url, downloads_all=is_restarted))
            progress.note(f"mtfrun: {url} is {path} on this machine")
            return path

        writes = command.writes_run and not getattr(flags, "dry_run", False)
        if is_url(flags.model_dir):
            if not command.takes_url:
                raise InputError(
                    f"--model_dir={flags.model_dir}: {command.name} needs a local directory"
                )
            flags.model_dir = open_mirror(flags.model_dir, writes=writes)
        for name in _READ:
            value = getattr(flags, name, None)
            if is_url(value):
                match = _AT_STEP.fullmatch(value)
                url, step = (match["run"], match["step"]) if match else (value, "")
                setattr(flags, name, open_mirror(url, writes=False) + step)
        if is_url(getattr(flags, "input", None)):
            flags.input = str(local_copy(flags.input))
        if command.words:
            flags.words = [
                open_mirror(word, writes=False) if is_url(word) else word for word in flags.words
            ]
        try:
            yield
        except StoreError:
            raise
        except InputError as error:
            # A remedy names the run as the user does.
            text = str(error)
            for path, url in urls.items():
                text = text.replace(path, url)
            error.args = (text,)
            raise
