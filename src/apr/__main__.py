"""`python -m apr`: the command line, for environments without the console script."""

from apr.cli.main import main

main()
