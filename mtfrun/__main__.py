"""Entry point of `python -m mtfrun`, the same program as `mtfrun`."""

import sys

from mtfrun.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
