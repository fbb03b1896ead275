"""Entry point of `mtfrun` and of `python -m mtfrun`."""

import signal
import sys


def main() -> int:
    """Runs the program; Ctrl-C during its imports ends it without a traceback."""
    try:
        from mtfrun.cli.main import main as run  # noqa: PLC0415 - see above

        return run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
