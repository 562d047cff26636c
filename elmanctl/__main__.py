"""`python -m elmanctl`: the command line without an installed script."""

from elmanctl.cli import main

main()
