from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence

from mtfrun import __version__, processes
from mtfrun.cli.command import Command
from mtfrun.cli.parser import all_commands, complete, parse_flags
from mtfrun.cli.paths import check_paths
from mtfrun.cli.process_flags import join_processes, local_directories, replace_url
from mtfrun.configuration.errors import one_line
from mtfrun.configuration.files import require_gin_file
from mtfrun.display import progress, streams
from mtfrun.display.tensorflow_import import import_tensorflow
from mtfrun.errors import ExitCode, LayoutError, ShapeError, is_input_error
from mtfrun.processes.child_process import end_with_launcher

# Seconds until an exception that Python has ignored is raised again.
_AGAIN_SECS = 0.01


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code, which `mtfrun help` explains."""
    if "_ARGCOMPLETE" in os.environ:
        complete()
    with streams.unfailing_stderr(), progress.warnings_as_lines():
        return _main(list(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: list[str]) -> int:
    try:
        with streams.named_stdout():
            return _parse_and_run(arguments)
    except SystemExit as stop:  # a signal, or argparse, after --help
        code = int(stop.code or 0)
        if code:
            processes.fail(f"ended with exit code {code}, by a signal")
            processes.end(code)
        return code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output has closed it. Without this Python would print an error at exit.
        streams.discard(sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        return _report_error(error, debug="--debug" in arguments)


def _report_error(error: Exception, *, debug: bool) -> int:
    """Returns the exit code; other processes of the run end because of the error."""
    if is_input_error(error):
        is_lost = isinstance(error, processes.ProcessesError)
        code = ExitCode.LOST_PROCESS if is_lost else ExitCode.BAD_INPUT
        line = one_line(error)
        if isinstance(error, ShapeError | LayoutError):
            from mtfrun.configuration.gin_errors import place_in_own_module  # noqa: PLC0415 - gin

            if place := place_in_own_module(error):
                line += f" ({place})"  # the layer of the user that made the call
        if processes.fail(line):  # not if the first process prints the same error
            if debug:
                traceback.print_exc()
            progress.print_line(progress.error(line))
    else:
        code = ExitCode.DEFECT
        # It may end this process: TensorFlow's collectives raise errors of several classes when
        # another process is lost.
        may_follow = type(error).__module__.partition(".")[0] == "tensorflow"
        if processes.fail(f"{type(error).__name__}: {one_line(error)}", may_follow=may_follow):
            traceback.print_exc()
            if not debug:
                text = "of mtfrun or of a module of yours; --debug shows more of it"
                print(f"mtfrun: this is a defect, {text}", file=sys.stderr)
    processes.end(code)
    return code


def _parse_and_run(arguments: list[str]) -> int:
    flags = parse_flags(arguments)
    configured = flags.launched or flags
    check_paths(configured)
    _check_gin_files(configured)
    command = ["mtfrun", *arguments]
    called = all_commands()[flags.command]
    if called.prints_texts:
        streams.print_unmasked()
    if flags.launched is not None:
        replace_url(flags.launched)
    imports = called.imports_tensorflow
    if not (imports(flags) if callable(imports) else imports):
        with local_directories(flags, called):
            return called.run(flags, command)
    launcher = end_with_launcher()
    with join_processes(flags), local_directories(flags, called), called.around(flags):
        return _run(called, flags, launcher or command)


def _check_gin_files(flags: argparse.Namespace) -> None:
    """Finds the mistakes in gin files and flags that can be found without imports."""
    for name in flags.gin_file:
        require_gin_file(name, flags.gin_search_paths)
    called = all_commands()[flags.command]
    if flags.gin_file and called.is_configured and not called.words:
        from mtfrun.configuration.checks import check_macros  # noqa: PLC0415 - imports gin
        from mtfrun.configuration.statements import read_statements  # noqa: PLC0415 - as above

        arguments = (flags.gin_file, flags.bindings, flags.gin_search_paths)
        check_macros(read_statements(*arguments).bindings)


def _run(called: Command, flags: argparse.Namespace, command: list[str]) -> int:
    with contextlib.ExitStack() as stack:
        if "tensorflow" not in sys.modules:
            # `import_tensorflow` redirects the descriptor of standard error.
            copy = open(os.dup(sys.stderr.fileno()), "w", encoding="utf-8")  # noqa: PTH123, SIM115
            text, stream = f"mtfrun {__version__}: starting TensorFlow", streams.unfailing(copy)
            stack.enter_context(copy)
            stack.enter_context(progress.waiting(text, stream=stream))
        if not flags.debug:
            stack.enter_context(import_tensorflow())
        import tensorflow as tf  # noqa: PLC0415 - only commands that need it import it

        from mtfrun.models import NonFiniteError  # noqa: PLC0415

        # Here, because its imports log warnings, and take longer with garbage collections.
        importlib.import_module("mtfrun.cli.inputs_and_outputs")

        # CUDA logs a missing device as an error, which `import_tensorflow` drops.
        tf.config.list_physical_devices()
    # Modules remain: garbage collections need not look at them, which takes 0.2 s each.
    gc.freeze()
    try:
        with terminable():
            return called.run(flags, command)
    except NonFiniteError as error:
        if flags.debug:
            traceback.print_exc()
        progress.note(progress.error(str(error)))
        return ExitCode.NOT_FINITE


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """A signal raises SystemExit(128 + number) after the current batch; a second, at once."""
    from mtfrun.files import remove_outputs_in_progress  # noqa: PLC0415 - imports TensorFlow
    from mtfrun.training.signals import handle_signals  # noqa: PLC0415 - as above

    code: int | None = None

    def stop(number: int, _frame: object) -> None:
        nonlocal code
        if code is None:  # a second exception would interrupt the removal of files
            code = 128 + number
            raise SystemExit(code)

    def stop_again(_number: int, _frame: object) -> None:
        raise SystemExit(code)

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        # A signal arrived while an object was deleted, and Python ignores exceptions then.
        if unraisable.exc_type is SystemExit and code is not None:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECS)
        else:
            former_hook(unraisable)

    former_hook, sys.unraisablehook = sys.unraisablehook, hook
    former_alarm = signal.signal(signal.SIGALRM, stop_again)
    try:
        with handle_signals(
            stop, acknowledgement=_acknowledgement, before_exit=remove_outputs_in_progress
        ):
            yield
    except Exception:
        # TensorFlow's C++, which calls Python while it compiles, may turn SystemExit into another.
        if code is None:
            raise
        raise SystemExit(code) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former_alarm)
        sys.unraisablehook = former_hook


def _acknowledgement() -> str:
    work = progress.present_work()
    return f"interrupted while {work}, stopping" if work else "stopping"


if __name__ == "__main__":
    sys.exit(main())
