"""`python -m apr`: the command line, for environments without the console script."""

import sys

from apr.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
