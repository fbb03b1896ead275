"""`python -m mtfrun`, which is the program `mtfrun`."""

import sys

from mtfrun.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
